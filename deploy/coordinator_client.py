"""The way of the commands to a deployment's coordinator: the gRPC of any of its heads, or its operators' door."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ringpull.deploy import command_credentials, served
from ringpull.router.control.operations import OperatorVerbs

if TYPE_CHECKING:
    from ringpull.inference.client.operations import OperationsClient


@contextmanager
def connect(target: str, *, timeout_s: float | None = None) -> Iterator[OperatorVerbs]:
    """Return the way to the coordinator of a deployment, by the HOST:PORT of one of its heads.

    Args:
        timeout_s: Longest wait for each answer; None: longer than a head waits for the coordinator.
    """
    with _client(target, timeout_s) as operations:
        yield operations


def table_dims(target: str) -> dict[str, int]:
    """Return `MODEL/TABLE` -> numbers per row, of the live versions."""
    with _client(target, None) as operations:
        return {f"{model.name}/{table.name}": table.dim for model in operations.models() for table in model.tables}


def _client(target: str, timeout_s: float | None) -> OperationsClient:
    from ringpull.inference.client.operations import TIMEOUT_S, OperationsClient

    longest_s = TIMEOUT_S if timeout_s is None else timeout_s
    return OperationsClient(
        target, timeout_s=longest_s, admin=served.door_of(target), credentials=command_credentials.current()
    )
