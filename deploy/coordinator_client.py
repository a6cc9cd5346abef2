"""The way of the commands to a deployment's coordinator: the gRPC of any of its heads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ringpull.deploy import access
from ringpull.router.control.operations import OperatorVerbs


@contextmanager
def connect(target: str, *, timeout_s: float | None = None) -> Iterator[OperatorVerbs]:
    """Return the way to the coordinator of a deployment, by the HOST:PORT of one of its heads.

    Args:
        timeout_s: Longest wait for each answer; None: longer than a head waits for the coordinator.
    """
    from ringpull.inference.client.operations import TIMEOUT_S, OperationsClient

    longest_s = TIMEOUT_S if timeout_s is None else timeout_s
    with OperationsClient(target, timeout_s=longest_s, credentials=access.credentials()) as operations:
        yield operations


def table_dims(target: str) -> dict[str, int]:
    """Return `MODEL/TABLE` -> numbers per row, of the live versions."""
    from ringpull.inference.client.client import Client

    with Client(target, credentials=access.credentials()) as client:
        return {f"{model.name}/{table.name}": table.dim for model in client.models() for table in model.tables}
