"""The leader without threads: who is obeyed, who steps down, and what is not done once its term is over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringpull.ps.errors import RingpullError, StartupError, Superseded, Unavailable
from ringpull.ps.fence import Order
from ringpull.router.control.change import Kind
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedTable, PlacedVersion, initial_spec
from ringpull.router.control.events import Begin, Member, Pause, Resume, VersionLost
from ringpull.router.control.leader import Leader, Timing
from ringpull.router.control.operations import ChangeStatus
from ringpull.router.control.state_files import FolderFiles
from ringpull.router.control.state_store import Owner, StateStore
from tests.router.members import FakeMembers

OWNER = Owner("this one")
TIMING = Timing(first_retry_s=1.0, longest_retry_s=8.0)


def spec(shards: int) -> DeploymentSpec:
    version = PlacedVersion("ranker", 1, "/models/ranker/1", {"user": PlacedTable("/user", 2, 100, 16)})
    return initial_spec(range(shards), [version])


class Disk(FolderFiles):
    """Folder that may be full, or away."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.full = self.away = False

    def names(self) -> list[str]:
        if self.away:
            raise OSError(5, "Input/output error")
        return super().names()

    def create(self, name: str, content: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().create(name, content)


class World:
    """Members, a disk, a clock, and leaders that are stepped by hand. What is spawned runs when it is let."""

    def __init__(self, folder: Path, *, orphans_possible: bool = False) -> None:
        self.orphans_possible = orphans_possible
        self.disk = Disk(folder)
        self.members = FakeMembers()
        self.now_s = 0.0
        self.spawned: list[tuple[str, Callable[[], None]]] = []

    def leader(self) -> Leader:
        reign = StateStore(self.disk).claim(OWNER, must_exist=False)
        return Leader(
            reign,
            self.members,
            timing=TIMING,
            clock=lambda: self.now_s,
            spawn=lambda work, name: self.spawned.append((name, work)),
            orphans_possible=self.orphans_possible,
        )

    def run(self, leader: Leader) -> None:
        """Step until nothing is left to do."""
        while leader.step() or self.spawned:
            while self.spawned:
                self.spawned.pop(0)[1]()

    def round(self, leader: Leader, seconds: float = 0.5) -> None:
        """Let some time go by, and everybody be asked how they are."""
        self.now_s += seconds
        for member in leader.followed():
            try:
                leader.answered(member, leader.ask(member))
            except RingpullError:
                leader.lost(member)
        self.run(leader)

    def up(self, shards: int = 2) -> Leader:
        """A leader of a deployment that is up."""
        leader = self.leader()
        leader.tell(Begin(Kind.BRING_UP, "ranker/1", spec(shards)))
        for _ in range(4):
            self.round(leader)
        assert not leader.status.under_way
        return leader


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def said_since(members: FakeMembers, work: Callable[[], Any]) -> list[str]:
    before = len(members.said)
    work()
    return members.said[before:]


def test_a_woken_leader_says_nothing_to_anybody(world: World) -> None:
    """It was stopped while another one took over; its members have heard of that one."""
    old = world.up()
    new = world.leader()
    world.round(new)
    world.round(new)
    assert {shard.fence.term for shard in world.members.shards.values()} == {new.term}
    world.members.crash_shard(1)
    assert said_since(world.members, lambda: world.round(old)) == []
    assert old.over.startswith("term 1 is over")
    with pytest.raises(Superseded):
        old.tell(Begin(Kind.REBALANCE, "3", spec(3)))
    with pytest.raises(Superseded):
        old.map()
    world.round(new)
    assert world.members.shards[1].fence.term == new.term


def test_a_woken_leader_does_not_say_that_something_is_so_already(world: World) -> None:
    """Seed 1021 of the simulation: it took a second pause, which changes nothing, though the change was resumed."""
    old = world.up()
    old.tell(Begin(Kind.REBALANCE, "3", spec(3)))
    old.tell(Pause())
    new = world.leader()
    new.tell(Resume())
    with pytest.raises(Superseded, match="term 1 is over: term 2 leads"):
        old.tell(Pause())


def test_a_restarted_member_obeys_no_term_that_is_over(world: World) -> None:
    """It has heard of none; the old leader finds out in the folder before it introduces itself."""
    old = world.up()
    new = world.leader()
    world.members.crash_shard(1)
    said = said_since(world.members, lambda: world.round(old))
    assert (said, world.members.shards[1].fence.term) == ([], 0)
    assert old.over
    world.round(new)
    assert world.members.shards[1].fence.term == new.term


def test_nobody_is_introduced_while_the_folder_is_away(world: World) -> None:
    leader = world.up()
    world.disk.away = True
    world.members.crash_shard(1)
    said = said_since(world.members, lambda: world.round(leader))
    assert (said, world.members.shards[1].fence.term) == ([], 0)
    world.disk.away = False
    world.round(leader, seconds=2.0)
    assert world.members.shards[1].fence.term == leader.term


def test_while_the_folder_is_away_introductions_are_tried_ever_more_rarely(world: World) -> None:
    leader = world.up()
    world.disk.away = True
    world.members.crash_shard(1)
    tried = 0
    for _ in range(60):
        world.now_s += 0.5
        for member in leader.followed():
            leader.answered(member, leader.ask(member))
        while leader.step():
            pass
        tried += sum(name.startswith("introduce") for name, _ in world.spawned)
        while world.spawned:
            world.spawned.pop(0)[1]()
    assert 1 < tried <= 6, "in half a minute, with delays from one second to eight"


def test_a_leader_that_hears_of_a_higher_term_steps_down(world: World) -> None:
    leader = world.up()
    shard = world.members.shards[0]
    shard.fence.obey(Order("this one", 9, shard.incarnation))
    world.round(leader)
    assert leader.over == "term 1 is over: shard 0 has heard of term 9"


def test_a_leader_looks_for_a_higher_term_by_itself(world: World) -> None:
    leader = world.up()
    leader.show_life()
    world.run(leader)
    assert not leader.over
    world.leader()
    leader.show_life()
    world.run(leader)
    assert leader.over == "term 1 is over: term 2 leads"


def test_only_a_leader_renews_a_lease(world: World) -> None:
    """Whoever asks a head how it is, as the command that brings a deployment up, renews nothing."""
    leader = world.up()
    head = world.members.heads[0]
    before = head.leases
    head.heartbeat()
    assert head.leases == before
    world.round(leader)
    assert head.leases == before + 1
    world.leader()
    new = world.leader()
    world.round(new)
    leases = head.leases
    with pytest.raises(Superseded):
        leader.ask(Member("head", 0))
    assert head.leases == leases


def test_maps_tell_their_term_and_deployment(world: World) -> None:
    first = world.up()
    assert (first.map().term, first.map().deployment) == (1, "this one")
    second = world.leader()
    world.round(second)
    assert second.map().term == 2
    assert second.map().epoch > first.machine.state.epoch
    assert world.members.heads[0].map == second.map()


def test_an_operator_is_told_of_a_state_that_was_saved_as_the_term_ended(world: World, tmp_path: Path) -> None:
    """Whoever leads then carries it out, so that it must not be said to be refused."""
    leader = world.up()
    create = world.disk.create

    def overtaken(name: str, content: bytes) -> None:
        create(name, content)
        world.disk.create = create  # type: ignore[method-assign]
        StateStore(FolderFiles(tmp_path)).claim(OWNER)

    world.disk.create = overtaken  # type: ignore[method-assign]
    told: list[ChangeStatus] = []
    said = said_since(world.members, lambda: told.append(leader.tell(Begin(Kind.REBALANCE, "3", spec(3)))))
    assert (said, [name for name, _ in world.spawned]) == ([], ["clear away"]), "the old one does not act on it"
    assert leader.over
    [status] = told
    assert (status.id, status.kind, status.subject) == (2, Kind.REBALANCE, "3")
    assert status.under_way, "who watches it waits for the end of this change, not of the one before"
    new = world.leader()
    for _ in range(4):
        world.round(new)
    assert set(world.members.shards) == {0, 1, 2}


def test_what_was_refused_is_not_carried_out_by_the_next_one_either(world: World) -> None:
    """The disk took it, and the answer was lost: what holds is saved over it as soon as that is possible."""
    leader = world.up()
    create = world.disk.create

    def lossy(name: str, content: bytes) -> None:
        create(name, content)
        raise OSError(5, "Input/output error")

    world.disk.create = lossy  # type: ignore[method-assign]
    with pytest.raises(StartupError, match="Input/output error"):
        leader.tell(Begin(Kind.REBALANCE, "3", spec(3)))
    world.disk.create = create  # type: ignore[method-assign]
    world.round(leader, seconds=2.0)
    new = world.leader()
    for _ in range(4):
        world.round(new)
    assert set(world.members.shards) == {0, 1}


def test_epochs_that_are_not_reserved_are_not_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpull.router.control.reign.EPOCHS_AHEAD", 3)
    leader = world.up()
    world.round(leader)
    world.disk.full = True
    reserved = leader.map().epoch
    for _ in range(6):
        world.members.crash_shard(1)
        world.round(leader)
        world.round(leader)
    assert leader.map().epoch <= reserved + 3
    assert world.members.shards[1].versions, "but for its address, it is repaired"
    world.disk.full = False
    world.round(leader, seconds=10.0)
    world.round(leader)
    assert leader.map().epoch > reserved + 3
    assert {each.port for each in leader.map().shards} == {
        shard.heartbeat().port for shard in world.members.shards.values()
    }


def test_an_order_for_an_earlier_life_does_not_end_the_term(world: World) -> None:
    """The member was restarted between a heartbeat and a command."""
    leader = world.up()
    head = world.members.heads[0]
    world.members.crash_head(0)
    with pytest.raises(Unavailable):
        world.members.heads[0].renew(leader.order(head.incarnation), 10.0)
    world.round(leader)
    assert not leader.over
    assert world.members.heads[0].fence.term == leader.term


def test_orders_are_numbered_as_they_are_decided_whichever_thread_is_faster(world: World) -> None:
    """A pause whose thread was held up comes after the resume: it must not hold the change for ever."""
    leader = world.up()
    leader.tell(Begin(Kind.REBALANCE, "3", spec(3)))
    started, world.spawned = world.spawned, []
    leader.tell(Pause())
    late, world.spawned = world.spawned, []
    assert {name for name, _ in late} >= {"shard 0", "shard 1"}
    for shard in (0, 1):  # One heartbeat is missed, so that nobody waits for the pause any more.
        leader.lost(Member("shard", shard))
    while leader.step():
        pass
    leader.tell(Resume())
    world.spawned += started
    world.round(leader)
    for _, work in late:
        work()
    for _ in range(8):
        world.round(leader, seconds=2.0)
    assert {shard.bytes_per_s for shard in world.members.shards.values()} == {None}
    assert not leader.status.under_way


def test_a_version_that_is_lost_is_let_go_only_once_that_is_saved(world: World) -> None:
    """What nobody could read back is not acted on: the next leader would ask for the version again."""
    leader = world.up()
    two = PlacedVersion("ranker", 2, "/models/ranker/2", {"user": PlacedTable("/user", 2, 100, 16)})
    both = initial_spec(range(2), [PlacedVersion("ranker", 1, "/models/ranker/1", dict(two.tables)), two])
    leader.tell(Begin(Kind.PUBLISH, "ranker/2", both))
    for _ in range(8):
        world.round(leader)
    before = leader.machine.state
    assert before.spec is not None
    assert len(before.spec.versions) == 2
    world.disk.full = True
    with pytest.raises(StartupError, match="No space left"):
        leader.tell(VersionLost("ranker", 1, ""))
    assert leader.machine.state == before
    world.disk.full = False
    leader.tell(VersionLost("ranker", 1, ""))
    assert leader.machine.state.spec is not None
    assert [each.version for each in leader.machine.state.spec.versions] == [2]


@pytest.mark.medium
def test_a_shard_that_leaves_refuses_whoever_leads_no_longer(world: World) -> None:
    leader = world.up(shards=3)
    stops: list[Order] = []
    world.members.on["stop shard 2"] = lambda: None
    stop = world.members.stop_shard

    def named(shard: int, order: Order) -> None:
        stops.append(order)
        stop(shard, order)

    world.members.stop_shard = named  # type: ignore[method-assign]
    leaving = world.members.shards[2].incarnation
    leader.tell(Begin(Kind.REBALANCE, "2", spec(2)))
    for _ in range(8):
        world.round(leader)
    assert [order.incarnation for order in stops] == [leaving]
    assert set(world.members.shards) == {0, 1}


def test_what_is_deleted_holds_up_no_answer(world: World) -> None:
    leader = world.up()
    delete, deleted = world.disk.delete, []
    world.disk.delete = lambda name: (deleted.append(name), delete(name))[1]  # type: ignore[method-assign,func-returns-value]
    leader.tell(Begin(Kind.REBALANCE, "3", spec(3)))
    assert deleted == []
    world.run(leader)
    assert deleted
