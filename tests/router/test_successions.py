"""Heads that were replaced while their processes live on: they are told so, and a change waits until they have stopped.

Heads and leaders without threads, on a clock that is moved by hand; the old processes are only asked for.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from ringpull.ps.errors import Replaced, Superseded, Unavailable
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.events import Begin, HeadAlone, HeadExpired, HeadSeen, Member
from ringpull.router.control.leader import Leader
from ringpull.router.control.operations import Asker
from ringpull.router.control.successions import STOP_S
from tests.router.coordinated import MiniDeployment
from tests.router.test_coordinator import published, run_to, spec_of, up
from tests.router.test_leader import TIMING, World, spec

LEASE_S = TIMING.lease_s


@pytest.fixture
def world(tmp_path: Path) -> World:
    """On a Ray of several nodes."""
    return World(tmp_path, orphans_possible=True)


def asker(world: World) -> Asker:
    return Asker(0, world.members.heads[0].incarnation)


def moves(leader: Leader, target: int = 3) -> None:
    leader.tell(Begin(Kind.REBALANCE, str(target), spec(target)))


def seconds_until_done(world: World, leader: Leader) -> float:
    began_s = world.now_s
    while leader.status.under_way:
        assert world.now_s < began_s + 100, leader.status
        world.round(leader)
    return world.now_s - began_s


def test_a_head_that_was_replaced_is_told_so(world: World) -> None:
    leader = world.up()
    old = asker(world)
    assert leader.map(old) == leader.map()
    world.members.crash_head(0)
    assert leader.map(old) == leader.map(), "nobody has taken its place yet"
    world.members.fail("load head 0", *[Unavailable("the disk is slow")] * 1000)
    for _ in range(20):
        world.round(leader)
        assert leader.map(old) == leader.map(), "its successor does not serve yet"
    del world.members.on["load head 0"]
    for _ in range(20):
        world.round(leader)
    with pytest.raises(Replaced, match=f"head 0 has been replaced: .* not {old.incarnation}"):
        leader.map(old)
    assert leader.map(asker(world)) == leader.map()


def test_a_head_that_a_new_leader_never_met_is_told_so(world: World) -> None:
    """Coordinator and head were on the node that was lost."""
    world.up()
    old = asker(world)
    new = world.leader()
    world.members.crash_head(0)
    for _ in range(8):
        world.round(new)
    new.map(old)
    world.round(new)
    with pytest.raises(Replaced):
        new.map(old)


def test_a_successor_that_the_leader_has_not_met_yet_is_not_taken_for_the_orphan(world: World) -> None:
    """The leader knows the one before only; whoever answers heartbeats from now on is the present one."""
    leader = world.up()
    world.members.crash_head(0)
    new = asker(world)
    for _ in range(3):
        leader.map(new)
    world.round(leader)
    for _ in range(3):
        leader.map(new)
        world.round(leader)


def test_a_leader_whose_term_is_over_replaces_nobody(world: World) -> None:
    """Its leading no more says nothing of the head that asks."""
    leader = world.up()
    leader.over = "term 1 is over"
    with pytest.raises(Superseded) as raised:
        leader.map(asker(world))
    assert not isinstance(raised.value, Replaced)


@pytest.mark.medium
def test_a_change_waits_until_the_process_before_has_stopped(world: World) -> None:
    leader = world.up()
    world.members.crash_head(0)
    world.round(leader)
    moves(leader)
    took_s = seconds_until_done(world, leader)
    assert LEASE_S <= took_s <= LEASE_S + STOP_S + 3.0
    moves(leader, 2)
    assert seconds_until_done(world, leader) < LEASE_S / 2, "it waits once"


def test_it_says_what_it_waits_for(world: World) -> None:
    leader = world.up()
    world.members.crash_head(0)
    world.round(leader)
    moves(leader)
    for _ in range(8):
        world.round(leader)
    assert (leader.status.phase, leader.status.members_done, leader.status.members) == (Phase.ROUTING, 0, 1)


def test_a_new_leader_waits_for_processes_that_it_never_met(world: World) -> None:
    world.up()
    world.members.crash_head(0)
    leader = world.leader()
    world.round(leader)
    moves(leader)
    assert seconds_until_done(world, leader) >= LEASE_S


@pytest.mark.medium
def test_an_orphan_that_asks_in_the_meantime_is_waited_for(world: World) -> None:
    """It was answered, and that is a lease."""
    leader = world.up()
    old = asker(world)
    world.members.crash_head(0)
    world.round(leader)
    moves(leader)
    while world.now_s < LEASE_S + STOP_S:
        world.round(leader)
    asked_s = world.now_s
    leader.map(old)
    seconds_until_done(world, leader)
    assert world.now_s >= asked_s + STOP_S


@pytest.mark.medium
def test_a_head_that_answers_nobody_but_asks_is_waited_for(world: World) -> None:
    """Its successor is not there yet; by its lease alone it would be taken for dead."""
    leader = world.up()
    old = asker(world)
    for verb in ("heartbeat", "route"):
        world.members.fail(f"{verb} head 0", *[Unavailable("it is being started")] * 1000)
    moves(leader)
    while world.now_s < 3 * LEASE_S:
        world.round(leader)
        leader.map(old)
    assert leader.status.under_way
    assert seconds_until_done(world, leader) >= LEASE_S, "it has stopped asking"


def test_who_was_told_to_exit_is_not_waited_for(world: World) -> None:
    leader = world.up()
    assert leader.begin_restart(Member("head", 0), world.members.heads[0].incarnation, force=False)
    world.members.crash_head(0)
    world.round(leader)
    moves(leader)
    assert seconds_until_done(world, leader) < LEASE_S / 2


def test_the_first_processes_of_a_deployment_are_alone(world: World) -> None:
    began_s = world.now_s
    world.up()
    assert world.now_s - began_s < LEASE_S / 2


def test_where_ray_has_seen_the_process_end_nobody_waits(tmp_path: Path) -> None:
    world = World(tmp_path)
    leader = world.up()
    old = asker(world)
    world.members.crash_head(0)
    for _ in range(3):
        world.round(leader)
        assert leader.map(old) == leader.map()
    moves(leader)
    assert seconds_until_done(world, leader) < LEASE_S / 2


@pytest.mark.medium
@pytest.mark.parametrize("expired", [False, True])
def test_the_machine_routes_through_only_when_every_head_is_alone(expired: bool) -> None:
    deployment: MiniDeployment = up(Random(0), heads=2)
    assert deployment.begin(Kind.PUBLISH, published(spec_of(deployment), 2))
    deployment.crash_head()
    [head] = [head for head, mini in deployment.heads.items() if mini.map is None]
    deployment.tell(HeadSeen(head, deployment.heads[head].incarnation, alone=False))
    run_to(deployment, Phase.ROUTING)
    if expired:
        deployment.tell(HeadExpired(head))
    for _ in range(100):
        deployment.execute_one()
        deployment.answer_one()
    assert deployment.saved.change is not None
    assert deployment.saved.change.phase is Phase.ROUTING
    deployment.tell(HeadAlone(head))
    assert deployment.saved.change.phase.value == Phase.DRAINING.value
