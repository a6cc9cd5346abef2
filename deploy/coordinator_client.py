"""The way of the commands to a deployment's coordinator: the gRPC of any of its heads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ringpull.router.control.operations import OperatorVerbs

TIMEOUT_S: Final = 40.0
"""Of a call. Above what a head waits for the coordinator: its answer says more than a deadline."""


@contextmanager
def connect(target: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[OperatorVerbs]:
    """Return the operations of a deployment, by the HOST:PORT of one of its heads."""
    from ringpull.inference.client.operations import OperationsClient

    with OperationsClient(target, timeout_s=timeout_s) as operations:
        yield operations


def table_dims(target: str) -> dict[str, int]:
    """Return `MODEL/TABLE` -> numbers per row, of the live versions."""
    from ringpull.inference.client.client import Client

    with Client(target) as client:
        return {f"{model.name}/{table.name}": table.dim for model in client.models() for table in model.tables}
