"""`ringpull status`: what a deployment serves, who holds what, and how it is used."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ringpull.deploy import command_credentials, served
from ringpull.deploy.commands.options import AllRows, AsJson, Target, with_credentials
from ringpull.deploy.view.console import out, print_json
from ringpull.ps.errors import DeadlineExceeded, Forbidden, InvalidInput, NotFound, RingpullError, Unauthenticated
from ringpull.ps.memory import process_memory
from ringpull.ps.settings import above

if TYPE_CHECKING:
    from ringpull.inference.proto import ringpull_pb2 as pb
    from ringpull.router.control.operations import ChangeStatus


MIN_WAIT_S: Final = 0.1

COORDINATOR_WAIT_S: Final = 2.0
"""Longest wait for the coordinator's part: one that is stopped is something to tell of, not to wait for."""

HEARD_LATELY_S: Final = 1.5
"""Silence after which a coordinator that does not answer either leads no more, as the head will say in a moment."""


@dataclass(frozen=True, slots=True)
class _FromCoordinator:
    """What the coordinator tells of the deployment."""

    change: ChangeStatus | None = None
    """Change under way, or the last one."""
    warnings: tuple[str, ...] = ()
    """What an operator should know, of the members too; or why it tells nothing."""
    silent: bool = False
    """Whether it has not answered in time."""
    stopped: bool = False
    """Whether it has said that it does not lead, or cannot be reached."""


@with_credentials
def status(
    target: Target = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Deadline of the call.")] = 10.0,
    every: AllRows = False,
    as_json: AsJson = False,
) -> None:
    """Show a deployment: a change under way; models; shards with rows, bytes, requests; tables with copies and keys."""
    from ringpull.deploy.view.change_watch import change_fields, change_line
    from ringpull.deploy.view.status_view import status_view
    from ringpull.inference.wire.status_warnings import warnings_seen

    above(0).check("--timeout", timeout)
    address = served.resolve_target(target)
    answer = _ask_head(address, timeout)
    told = _ask_coordinator(address, min(timeout, COORDINATOR_WAIT_S))
    warnings = _warnings(answer, told)
    here = _runs_here(address)

    def memory(pid: int) -> int | None:
        return process_memory(pid).get("Pss") if here else None

    if as_json:
        change = None if told.change is None else change_fields(told.change)
        plain = _plain(address, answer, memory) | {
            "leader": _leader(answer, told),
            "warnings": [*warnings, *warnings_seen(answer)],
        }
        print_json({**plain, "change": change})
    else:
        line = change_line(told.change) if told.change is not None and told.change.under_way else ""
        out.print(status_view(address, answer, memory, line, warnings, every=every))


def _ask_head(address: str, timeout_s: float) -> pb.ClusterStatus:
    """Return what the head tells: at its port, or to whoever may not look there, at the door that was recorded."""
    from ringpull.inference.client.client import Client

    def ask(where: str) -> pb.ClusterStatus:
        with Client(where, timeout_s=timeout_s, credentials=command_credentials.current()) as client:
            return client.status()

    try:
        return ask(address)
    except (Unauthenticated, Forbidden):
        door = served.door_of(address)
        if door:
            with suppress(RingpullError):  # it is another user's, or asks for the same token
                return ask(door)
        raise


def _ask_coordinator(address: str, timeout_s: float) -> _FromCoordinator:
    """Return what the coordinator tells, or that it does not: predictions outlive it, and so does this."""
    from ringpull.deploy.coordinator_client import connect
    from ringpull.router.control.operations import GetChange, GetStatus

    until_s = time.monotonic() + timeout_s
    change = None
    try:
        with connect(address, timeout_s=timeout_s) as operations:
            change = operations.call(GetChange())
        with connect(address, timeout_s=max(MIN_WAIT_S, until_s - time.monotonic())) as operations:
            return _FromCoordinator(change, operations.call(GetStatus()).warnings)
    except InvalidInput as exc:  # it is of another build, and may lead
        return _FromCoordinator(change, (f"the coordinator does not tell how the deployment is: {exc}",))
    except RingpullError as exc:
        silent = isinstance(exc, DeadlineExceeded)
        told = (f"the coordinator does not answer: {exc}",)
        return _FromCoordinator(change, told, silent=silent, stopped=not silent)


def _warnings(answer: pb.ClusterStatus, told: _FromCoordinator) -> list[str]:
    """Return the warnings of the head that answered, and those that the coordinator knows, which may be the same."""
    others = [warning for warning in told.warnings if warning not in answer.warnings]
    return [own for own in answer.warnings if not any(other.endswith(f": {own}") for other in others)] + others


def _leader(answer: pb.ClusterStatus, told: _FromCoordinator) -> dict[str, Any] | None:
    """Return who leads, as the head hears it and the coordinator says; None of a head that nobody is to lead.

    That the coordinator does not answer in time is no more than a warning where it has just been heard: a busy one
    needs longer than this waits.
    """
    if not answer.HasField("leader"):
        return None
    leader = answer.leader
    lost = told.stopped or (told.silent and leader.heard_s > HEARD_LATELY_S)
    leads = leader.leads and not lost
    return {"term": leader.term, "leads": leads, "heard_s": leader.heard_s}


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
