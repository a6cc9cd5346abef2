"""What the coordinator tells a head of the deployment, as messages of the proto: heads, the change, the ring."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.ring import Ring
from ringpull.router.control.change import Phase
from ringpull.router.control.operations import ChangeStatus, HeadState, Latency

SILENT_S: Final = 5.0
"""Silence after which a head is taken for dead: ten heartbeats."""


def head_statuses(heard: Iterable[HeadState], own: pb.HeadStatus) -> list[pb.HeadStatus]:
    """Return all heads by number.

    Args:
        heard: Heads as the coordinator heard them last.
        own: The head that answers, which knows better.
    """
    others = {each.head: _head(each) for each in heard}
    return [each for _, each in sorted({**others, own.head: own}.items())]


def change_status(change: ChangeStatus) -> pb.ChangeStatus:
    """Return a change, under way or over."""
    return pb.ChangeStatus(
        id=change.id,
        kind=change.kind.value,
        subject=change.subject,
        under_way=change.under_way,
        phase="" if change.phase is None else change.phase.value,
        paused=change.paused,
        members_done=change.members_done,
        members=change.members,
        copied_bytes=change.copied_bytes,
        bytes_to_copy=change.bytes_to_copy,
        checked_bytes=change.checked_bytes,
        bytes_to_check=change.bytes_to_check,
        before=_latency(change.before),
        now=_latency(change.now),
        trouble=change.trouble,
        error=change.error,
        done=done(change),
    )


def done(change: ChangeStatus) -> float:
    """Return which part of a change's phase is done: of bytes copied, else of bytes checked, else of members."""
    amounts = [(change.members_done, change.members)]
    if change.phase is Phase.PREPARING:
        amounts = [
            (change.copied_bytes, change.bytes_to_copy),
            (change.checked_bytes, change.bytes_to_check),
            *amounts,
        ]
    return next((min(1.0, part / whole) for part, whole in amounts if whole), 0.0)


def ring_status(ring: Ring) -> pb.RingStatus:
    """Return who owns the ring at rank 0, neighbouring ranges of one shard as one arc."""
    arcs: list[tuple[int, int]] = []
    for each in ring.ranges:
        if not arcs or arcs[-1][1] != each.owners[0]:
            arcs.append((each.slots.begin, each.owners[0]))
    return pb.RingStatus(begins=[begin for begin, _ in arcs], shards=[shard for _, shard in arcs])


def merged_warnings(own: Iterable[str], told: Iterable[str]) -> list[str]:
    """Return the warnings of the head that answers, and those of the coordinator, which may be of the same thing."""
    known = list(told)
    return [each for each in own if each not in known and not any(one.endswith(f": {each}") for one in known)] + known


def _head(state: HeadState) -> pb.HeadStatus:
    return pb.HeadStatus(
        head=state.head,
        address=f"{state.host}:{state.grpc_port}" if state.grpc_port else "",
        http=f"{state.host}:{state.http_port}" if state.http_port else "",
        alive=state.heard_s <= SILENT_S and state.grpc_port != 0,
        heard_s=state.heard_s,
        requests=state.requests,
        failed=state.failed,
    )


def _latency(latency: Latency) -> pb.LatencyStatus:
    return pb.LatencyStatus(p50_ms=latency.p50_ms, p99_ms=latency.p99_ms)
