"""`ringpull status`: what a deployment serves, who holds what, and how it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringpull.deploy import served
from ringpull.deploy.commands.options import AsJson, Target
from ringpull.deploy.view.console import out, print_json
from ringpull.ps.errors import NotFound, RingpullError
from ringpull.ps.memory import process_memory
from ringpull.ps.settings import above

if TYPE_CHECKING:
    from ringpull.inference.proto import ringpull_pb2 as pb
    from ringpull.router.control.operations import ChangeStatus


def status(
    target: Target = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Deadline of the call.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Show a deployment: a change under way; models; shards with rows, bytes, requests; tables with copies and keys."""
    from ringpull.deploy.view.change_watch import change_fields, change_line
    from ringpull.deploy.view.status_view import status_view
    from ringpull.inference.client.client import Client

    above(0).check("--timeout", timeout)
    address = served.resolve_target(target)
    with Client(address, timeout_s=timeout) as client:
        answer = client.status()
    change = _change(address, timeout)
    here = _runs_here(address)

    def memory(pid: int) -> int | None:
        return process_memory(pid).get("Pss") if here else None

    if as_json:
        fields = None if isinstance(change, RingpullError) else change_fields(change)
        print_json({**_plain(address, answer, memory), "change": fields})
    elif isinstance(change, RingpullError):
        out.print(status_view(address, answer, memory, f"the coordinator does not answer: {change}"))
    else:
        out.print(status_view(address, answer, memory, change_line(change) if change.under_way else ""))


def _change(address: str, timeout_s: float) -> ChangeStatus | RingpullError:
    """Return the change under way, or why nobody can tell: predictions outlive the coordinator, and so does this."""
    from ringpull.deploy.coordinator_client import connect
    from ringpull.router.control.operations import GetChange

    try:
        with connect(address, timeout_s=timeout_s) as operations:
            return operations.call(GetChange())
    except RingpullError as exc:
        return exc


def _runs_here(address: str) -> bool:
    """Whether the shards' process ids mean something here: so with a private Ray whose `serve` lives beside us."""
    try:
        record = served.find(address)
    except NotFound:
        return False
    return record.address is None and record.process() is not None


def _plain(address: str, answer: pb.ClusterStatus, memory: Callable[[int], int | None]) -> dict[str, Any]:
    from ringpull.deploy.view.message_values import plain_values

    plain = {"target": address, **plain_values(answer)}
    for shard in plain["shards"]:
        shard["memory_bytes"] = memory(shard["pid"]) if shard["alive"] else None
    return plain
