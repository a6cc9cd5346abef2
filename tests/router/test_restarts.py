"""Who may go while others are away: the coordinator's process over members in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringpull.ps.errors import InvalidInput, Unavailable
from ringpull.ps.spec import ALL, OnUnavailable
from ringpull.router.control.deployment_spec import PlacedTable, PlacedVersion, initial_spec
from ringpull.router.control.events import Member
from ringpull.router.control.operations import ListMembers, RestartMember
from ringpull.router.control.process import CoordinatorProcess
from ringpull.router.control.restarts import SILENT_S, Restarts
from tests.router.test_process import Deployment, move, over, spec, until

SHARDS = [Member("shard", number) for number in range(3)]
HEADS = [Member("head", number) for number in range(2)]


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, heads=2)
    yield made
    made.members.on.clear()
    made.kill()


@pytest.fixture
def coordinator(deployment: Deployment) -> CoordinatorProcess:
    """Of three shards and two heads, all whole."""
    made = deployment.start()
    made.bring_up(spec(3))
    over(made)
    until(lambda: lacking(made) == {})
    return made


def lacking(coordinator: CoordinatorProcess) -> dict[Member, str]:
    return {state.member: state.missing for state in coordinator.call(ListMembers()) if state.missing}


def incarnation(coordinator: CoordinatorProcess, member: Member) -> str:
    return next(state.incarnation for state in coordinator.call(ListMembers()) if state.member == member)


def restart(coordinator: CoordinatorProcess, member: Member, *, force: bool = False) -> str:
    """Send its process away; return which that was."""
    gone = incarnation(coordinator, member)
    coordinator.call(RestartMember(member=member, incarnation=gone, drain_s=1, force=force))
    return gone


def test_members_are_told_in_order_with_their_processes(
    deployment: Deployment, coordinator: CoordinatorProcess
) -> None:
    states = coordinator.call(ListMembers())
    assert [state.member for state in states] == [*SHARDS, *HEADS]
    members = deployment.members
    processes = [members.shards[i].incarnation for i in range(3)] + [members.heads[i].incarnation for i in range(2)]
    assert [state.incarnation for state in states] == processes


def test_before_a_bring_up_there_are_heads_only(deployment: Deployment) -> None:
    coordinator = deployment.start()
    until(lambda: set(lacking(coordinator).values()) == {"it has not loaded every version yet"})
    assert [state.member for state in coordinator.call(ListMembers())] == HEADS


def test_a_shard_is_whole_again_when_heads_ask_it_where_it_is_now(
    deployment: Deployment, coordinator: CoordinatorProcess
) -> None:
    """On the way it lacks what the coordinator has yet to tell it, and heads."""
    members, seen = deployment.members, []
    gone = restart(coordinator, SHARDS[1])
    assert members.said[-1] == "restart shard 1"
    assert lacking(coordinator) == {SHARDS[1]: "it is being restarted"}
    members.on["assign shard 1"] = lambda: seen.append(lacking(coordinator).get(SHARDS[1]))
    members.on["route head 1"] = lambda: seen.append(lacking(coordinator).get(SHARDS[1]))
    members.crash_shard(1)
    until(lambda: lacking(coordinator) == {} and incarnation(coordinator, SHARDS[1]) != gone)
    assert seen[0] == "it does not answer for its ranges yet"
    assert set(seen[1:]) == {"not every head asks it yet"}
    assert deployment.serves(spec(3))


def test_a_head_is_whole_again_when_it_serves(deployment: Deployment, coordinator: CoordinatorProcess) -> None:
    members, seen = deployment.members, []
    gone = restart(coordinator, HEADS[0])
    assert members.said[-1] == "restart head 0"
    members.on["load head 0"] = lambda: seen.append(lacking(coordinator).get(HEADS[0]))
    members.on["route head 0"] = lambda: seen.append(lacking(coordinator).get(HEADS[0]))
    members.crash_head(0)
    until(lambda: lacking(coordinator) == {} and incarnation(coordinator, HEADS[0]) != gone)
    assert seen == ["it has not loaded every version yet", "it does not serve by the newest map yet"]


def test_nobody_goes_before_the_last_one_is_back(deployment: Deployment, coordinator: CoordinatorProcess) -> None:
    """But for those of another kind, and by force."""
    restart(coordinator, SHARDS[0])
    with pytest.raises(
        Unavailable, match=r"shard 2 is not restarted before the others are healthy \(shard 0: it is being"
    ):
        restart(coordinator, SHARDS[2])
    restart(coordinator, HEADS[1])
    with pytest.raises(Unavailable, match=r"head 0 .* \(head 1: it is being restarted\)"):
        restart(coordinator, HEADS[0])
    assert deployment.members.said[-2:] == ["restart shard 0", "restart head 1"]
    restart(coordinator, SHARDS[2], force=True)
    assert deployment.members.said[-1] == "restart shard 2"


def test_nobody_goes_while_another_one_is_down(deployment: Deployment, coordinator: CoordinatorProcess) -> None:
    deployment.members.fail("heartbeat shard 0", *[Unavailable("gone")] * 1_000_000)
    until(lambda: lacking(coordinator) == {SHARDS[0]: "it does not answer"})
    with pytest.raises(Unavailable, match="shard 0: it does not answer"):
        restart(coordinator, SHARDS[1])


def test_a_process_is_sent_away_once(deployment: Deployment, coordinator: CoordinatorProcess) -> None:
    """The same request again, or one for a process that is gone, does nothing."""
    gone = restart(coordinator, SHARDS[0])
    coordinator.call(RestartMember(member=SHARDS[0], incarnation=gone, drain_s=1))
    deployment.members.crash_shard(0)
    until(lambda: lacking(coordinator) == {} and incarnation(coordinator, SHARDS[0]) != gone)
    coordinator.call(RestartMember(member=SHARDS[0], incarnation=gone, drain_s=1))
    assert deployment.members.said.count("restart shard 0") == 1


def test_one_that_could_not_be_told_may_be_told_again(deployment: Deployment, coordinator: CoordinatorProcess) -> None:
    deployment.members.fail("restart shard 0", Unavailable("the connection broke"))
    with pytest.raises(Unavailable, match="the connection broke"):
        restart(coordinator, SHARDS[0])
    assert lacking(coordinator) == {}
    restart(coordinator, SHARDS[0])


def test_nobody_goes_while_a_change_is_under_way(deployment: Deployment, coordinator: CoordinatorProcess) -> None:
    deployment.members.fail("prepare shard 0", *[Unavailable("a slow disk")] * 1_000_000)
    move(coordinator, spec(4))
    with pytest.raises(
        InvalidInput, match=r"rebalance elsewhere is under way \(preparing\); members are restarted when"
    ):
        restart(coordinator, SHARDS[1])


def test_a_member_that_is_not_there(coordinator: CoordinatorProcess) -> None:
    with pytest.raises(InvalidInput, match="there is no shard 3; there is shard 0, shard 1, shard 2, head 0, head 1"):
        coordinator.call(RestartMember(member=Member("shard", 3), incarnation="any", drain_s=1))


def test_one_that_hangs_is_not_counted_on(coordinator: CoordinatorProcess) -> None:
    """Its heartbeat neither fails nor comes back."""
    now_s = 0.0
    restarts = Restarts(lambda: now_s)
    machine = coordinator._leader.machine
    for member in (*SHARDS, *HEADS):
        restarts.answered(member)
    now_s = SILENT_S + 1
    for member in (*SHARDS[1:], *HEADS):
        restarts.answered(member)
    assert {state.member: state.missing for state in restarts.states(machine) if state.missing} == {
        SHARDS[0]: "it has not answered for 4 s"
    }
    with pytest.raises(Unavailable, match="shard 0: it has not answered"):
        restarts.begin(machine, SHARDS[1], incarnation(coordinator, SHARDS[1]))
    assert restarts.begin(machine, SHARDS[0], incarnation(coordinator, SHARDS[0])), "it itself may be"


@pytest.mark.parametrize(
    ("shards", "copies", "sole"),
    [(3, 1, True), (3, 2, False), (3, ALL, False), (1, 2, True), (1, ALL, True)],
)
def test_tables_on_one_shard_only(shards: int, copies: int | str, sole: bool) -> None:
    tables = {
        "item": PlacedTable("/item", copies, on_unavailable=OnUnavailable.DEFAULT),  # type: ignore[arg-type]
        "user": PlacedTable("/user", 3),
    }
    placed = initial_spec(range(shards), [PlacedVersion("m", 1, "/m/1", tables)])
    assert placed.sole_tables.get("m/item") == (OnUnavailable.DEFAULT if sole else None)
    assert placed.sole_tables.get("m/user") == (OnUnavailable.ERROR if shards == 1 else None)
