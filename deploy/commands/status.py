"""`ringpull status`: what a deployment serves, who holds what, and how it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy import served
from deploy.commands.options import AsJson, Target
from deploy.console import out, print_json
from deploy.memory import pss_bytes
from ps.errors import NotFound

if TYPE_CHECKING:
    from inference.proto import ringpull_pb2 as pb


def status(
    target: Target = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Deadline of the call.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Show a deployment: models; shards with ranges, rows, bytes, requests; tables with copies and missing keys."""
    from deploy.status_view import status_view
    from inference.client import Client

    address = served.resolve_target(target)
    with Client(address, timeout_s=timeout) as client:
        answer = client.status()
    here = _runs_here(address)

    def memory(pid: int) -> int | None:
        return pss_bytes(pid) if here else None

    if as_json:
        print_json(_plain(address, answer, memory))
    else:
        out.print(status_view(address, answer, memory))


def _runs_here(address: str) -> bool:
    """Whether the shards' process ids are of this machine: surely so with a private Ray that was started here."""
    try:
        return served.find(address).address is None
    except NotFound:
        return False


def _plain(address: str, answer: pb.ClusterStatus, memory: Callable[[int], int | None]) -> dict[str, Any]:
    from deploy.message_values import plain_values

    plain = {"target": address, **plain_values(answer)}
    for shard in plain["shards"]:
        shard["memory_bytes"] = memory(shard["pid"]) if shard["alive"] else None
    return plain
