"""What the coordinator tells of heads, the change and the ring, as messages."""

from __future__ import annotations

from ringpull.deploy.view.change_watch import change_fields
from ringpull.deploy.view.message_values import plain_values
from ringpull.inference.head.frontends.deployment_status import (
    change_status,
    head_statuses,
    merged_warnings,
    ring_status,
)
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import Ring
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.operations import ChangeStatus, HeadState, Latency

CHANGE = ChangeStatus(
    id=7,
    kind=Kind.REBALANCE,
    subject="shards 3 -> 4",
    phase=Phase.PREPARING,
    members_done=1,
    members=4,
    copied_bytes=25,
    bytes_to_copy=100,
    before=Latency(1.0, 2.0),
    now=Latency(1.5, 2.5),
    trouble="it is slow",
)


def test_a_change_is_told_as_the_command_line_tells_it() -> None:
    told = plain_values(change_status(CHANGE))
    assert told == change_fields(CHANGE) | {"done": 0.25}


def test_progress_is_of_bytes_while_shards_prepare_and_else_of_members() -> None:
    assert change_status(ChangeStatus(phase=Phase.ROUTING, members_done=1, members=2)).done == 0.5
    checks = ChangeStatus(phase=Phase.PREPARING, members_done=0, members=2, checked_bytes=3, bytes_to_check=4)
    assert change_status(checks).done == 0.75
    assert change_status(ChangeStatus()).done == 0


def test_arcs_cover_the_ring_and_are_the_owners() -> None:
    ring = Ring.even(range(3)).join(3)
    arcs = ring_status(ring)
    owners = ring.owner_table(1)[:, 0].tolist()
    drawn = []
    for begin, end, shard in zip(arcs.begins, [*arcs.begins[1:], SLOTS], arcs.shards, strict=True):
        drawn += [shard] * (end - begin)
    assert drawn == owners
    assert all(one != other for one, other in zip(arcs.shards, arcs.shards[1:], strict=False)), (
        "arcs are as few as can be"
    )


def test_heads_are_alive_while_they_are_heard() -> None:
    def state(head: int, heard_s: float, port: int = 8500) -> HeadState:
        return HeadState(head=head, host="h", grpc_port=port, http_port=8501, requests=5, failed=1, heard_s=heard_s)

    own = pb.HeadStatus(head=1, address="h:9", alive=True, requests=8)
    told = head_statuses([state(3, 0.1, port=0), state(2, 0.4), state(1, 99.0), state(0, 5.1)], own)
    assert [(each.head, each.alive, each.requests) for each in told] == [
        (0, False, 5),
        (1, True, 8),
        (2, True, 5),
        (3, False, 5),
    ]
    assert (told[3].address, told[2].address, told[2].http) == ("", "h:8500", "h:8501")


def test_what_both_warn_of_is_told_once() -> None:
    told = ("head 0: disk is full", "coordinator: x")
    assert merged_warnings(["disk is full", "own"], told) == ["own", *told]
    assert merged_warnings(["coordinator: x"], told) == list(told)
