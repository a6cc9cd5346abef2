"""A deployment in miniature that carries out the coordinator's commands, in any order, and can crash anywhere.

What it checks after every step is what users would notice: no head may route a key to where nobody that lives, and was
not just restarted, answers for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from ringpull.ps.errors import InvalidInput, RingpullError, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.identity import number_of
from ringpull.ps.slot_mask import SlotMask
from ringpull.ps.spec import ALL
from ringpull.router.control.change import CoordinatorState, Kind
from ringpull.router.control.coordinator import Coordinator
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedTable, PlacedVersion
from ringpull.router.control.events import (
    Abort,
    Assign,
    Begin,
    Cancel,
    Command,
    Done,
    Event,
    Failed,
    HeadExpired,
    HeadSeen,
    Load,
    Member,
    Pause,
    Prepare,
    Resume,
    RetryDue,
    Route,
    ShardLost,
    ShardSeen,
    StartShard,
    StopShard,
    Throttle,
    member_of,
)
from ringpull.router.control.missing_versions import version_names
from ringpull.router.shard_map import ShardAddress, ShardMap

TABLES = {"one": 1, "two": 2, "all": ALL}


def version(number: int, model: str = "m") -> PlacedVersion:
    """A version with tables of one, two and all copies."""
    tables = {name: PlacedTable(f"/{model}/{number}/{name}", wanted) for name, wanted in TABLES.items()}  # type: ignore[arg-type]
    return PlacedVersion(model, number, f"/{model}/{number}", tables)


@dataclass
class MiniShard:
    incarnation: str
    address: ShardAddress
    held: dict[tuple[str, int, str], SlotMask] = field(default_factory=dict)
    """(model, version, table) -> slots."""
    answers: dict[tuple[str, int, str], SlotMask] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)
    """Lineage that is live as far as it was told, by model: pushes to it are taken without asking a head."""
    settled: bool = False
    """Whether it has been assigned anything since it was started."""
    bytes_per_s: float | None = None
    """What it may stream; 0: what it prepares takes for ever."""


@dataclass
class MiniHead:
    incarnation: str
    loaded: set[tuple[str, int]] = field(default_factory=set)
    map: ShardMap | None = None
    live: dict[str, int] = field(default_factory=dict)
    serving: bool = False
    stopped: bool = False
    expired: bool = False


class MiniDeployment:
    """Shards, heads and the coordinator; every method is one step."""

    def __init__(self, random: Random, heads: int = 1, state: CoordinatorState | None = None) -> None:
        self.random = random
        self._ids = itertools.count(1)
        self.saved = replace(state or CoordinatorState(), heads=tuple(range(heads)))
        self.coordinator = Coordinator(self.saved)
        self.shards: dict[int, MiniShard] = {}
        self.heads = {head: MiniHead(self._incarnation()) for head in range(heads)}
        self.commands: list[Command] = []
        """Given out, not yet carried out."""
        self.answers: list[Event] = []
        """Carried out, not yet told."""
        self.resting: list[Command] = []
        self.slots: set[int] = {0, 65_535}
        self.epochs: dict[int, ShardMap] = {}
        self.lineages: dict[tuple[str, int], int] = {}
        self.log: list[str] = []
        self.unlucky = 0.0
        """Share of commands that fail."""
        for head, mini in self.heads.items():
            self.tell(HeadSeen(head, mini.incarnation))

    # -- steps ---------------------------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Give the coordinator an event, save its state, take its commands."""
        self.log.append(f"event {event!r:.160}")
        commands = self.coordinator.handle(event)
        self.saved = self.coordinator.state
        for spec in (self.saved.spec, None if self.saved.change is None else self.saved.change.target):
            for each in () if spec is None else spec.versions:
                self.lineages[each.model, each.version] = number_of(each.lineage)
        if (shard_map := self.saved.map) is not None:
            assert self.epochs.setdefault(shard_map.epoch, shard_map) == shard_map, "an epoch was used twice"
        self.log += [f"  -> {command!r:.160}" for command in commands]
        self.commands += commands

    def execute_one(self) -> None:
        """Carry out any command that waits and is not held; its answer is told later."""
        if ready := [command for command in self.commands if not self._is_held(command)]:
            self._end(self.random.choice(ready))

    def _end(self, command: Command) -> None:
        self._take(command)
        try:
            if self.random.random() < self.unlucky:
                raise Unavailable("bad luck")
            self._execute(command)
        except RingpullError as exc:
            self.answers.append(Failed(command, exc))
        else:
            self.answers.append(Done(command))

    def answer_one(self) -> None:
        """Tell the coordinator any answer that waits."""
        if not self.answers:
            return
        answer = self.answers.pop(self.random.randrange(len(self.answers)))
        self.tell(answer)
        if isinstance(answer, Failed):
            self.resting.append(answer.command)

    def rest_is_over(self) -> None:
        """Let everything that failed be tried again."""
        for command in self.resting:
            self.tell(RetryDue(member_of(command)))
        self.resting = []

    def crash_shard(self) -> None:
        """Kill any shard; its commands fail, it is restarted empty."""
        if not self.shards:
            return
        shard = self.random.choice(sorted(self.shards))
        self.log.append(f"CRASH shard {shard}")
        self._replace_shard(shard)
        self.tell(ShardLost(shard)) if self.random.random() < 0.5 else None
        self.heartbeat()

    def miss_heartbeat(self) -> None:
        """Have any shard out of reach for a moment: what it was told got there, or fails; it is as it was."""
        if not (known := sorted(self.coordinator.shards)):
            return
        shard = self.random.choice(known)
        for command in [each for each in self.commands if member_of(each) == Member("shard", shard)]:
            if self._is_held(command) or self.random.random() < 0.3:
                self._take(command)
                self.answers.append(Failed(command, Unavailable("it is out of reach")))
            else:
                self._end(command)
        self.tell(ShardLost(shard))

    def crash_head(self) -> None:
        """Kill any head; it is restarted empty."""
        head = self.random.choice(sorted(self.heads))
        self.log.append(f"CRASH head {head}")
        self.heads[head] = MiniHead(self._incarnation())
        self.heartbeat()

    def stop_head(self) -> None:
        """SIGSTOP any head; in the end its lease runs out."""
        head = self.random.choice(sorted(self.heads))
        mini = self.heads[head]
        mini.stopped, mini.serving = True, False
        self.log.append(f"STOP head {head}")

    def expire_heads(self) -> None:
        """Let the leases of stopped heads run out."""
        for head, mini in self.heads.items():
            if mini.stopped and not mini.expired:
                mini.expired = True
                self.tell(HeadExpired(head))

    def continue_heads(self) -> None:
        """SIGCONT: what a head whose lease has run out asks by a map that is history is refused, and asked anew."""
        for mini in self.heads.values():
            if mini.stopped:
                mini.stopped = False
                if mini.expired:
                    mini.expired = False
                    mini.serving = False  # Until it is routed anew, nobody answers for what it asks.
                elif mini.map is not None:
                    mini.serving = True
        self.heartbeat()

    def crash_coordinator(self) -> None:
        """Kill the coordinator; commands under way are carried out all the same, their answers are lost.

        The next one has heard of nobody yet: heartbeats come one by one, between other steps.
        """
        self.log.append("CRASH coordinator")
        while self.commands and self.random.random() < 0.7:
            self.execute_one()
        self.commands, self.answers, self.resting = [], [], []
        self.coordinator = Coordinator(self.saved)
        self.heartbeat_one()

    def heartbeat(self) -> None:
        """Everybody who lives and runs is seen, in any order, and who is not there is not."""
        members = self._heard()
        self.random.shuffle(members)
        for member in members:
            self._heartbeat(member)

    def heartbeat_one(self) -> None:
        """One of them is."""
        self._heartbeat(self.random.choice(self._heard()))

    def begin(self, kind: Kind, target: DeploymentSpec) -> bool:
        """Ask for a change; return whether it was taken."""
        self.slots |= {owned.slots.begin for owned in target.ring.ranges}
        try:
            self.tell(Begin(kind, "x", target))
        except InvalidInput:
            return False
        return True

    def try_operator(self) -> None:
        """Pause, resume or abort, whatever it brings."""
        verbs: list[Callable[[], Event]] = [Pause, Resume, lambda: Abort("asked for")]
        try:
            self.tell(self.random.choice(verbs)())
        except InvalidInput:
            self.log.append("refused")

    def something_happens(self) -> None:
        """Take a step, mostly; now and then somebody crashes, stops or goes on."""
        steps = [self.execute_one, self.answer_one, self.rest_is_over, self.heartbeat_one]
        mishaps = [
            self.crash_shard,
            self.crash_head,
            self.crash_coordinator,
            self.stop_head,
            self.expire_heads,
            self.continue_heads,
            self.try_operator,
            self.miss_heartbeat,
        ]
        self.random.choice(steps if self.random.random() < 0.9 else mishaps)()

    def settle(self) -> None:
        """Carry out everything, with no more bad luck, until nothing is left to do."""
        self.unlucky = 0.0
        self.continue_heads()
        if self.saved.change is not None and self.saved.change.paused:
            self.tell(Resume())
        for turn in range(1000):
            self.check()
            if not (self.commands or self.answers or self.resting):
                self.heartbeat()
                if not self.commands:
                    return
            if turn % 20 == 0:
                self.heartbeat()
            self.execute_one()
            self.answer_one()
            self.rest_is_over()
        raise AssertionError(self._story("it never comes to rest"))

    # -- what users would notice ---------------------------------------------------------------------------------------

    def check(self) -> None:
        """Hold every head's routing against what shards answer for."""
        for head, mini in self.heads.items():
            if not mini.serving or mini.map is None:
                continue
            for model, number in mini.live.items():
                self._check_lineage(head, model, number)
                assert (model, number) in mini.loaded, self._story(f"head {head}: {model}/{number} is not loaded")
                for table in TABLES:
                    for slot in self.slots:
                        self._check_slot(mini.map, model, number, table, slot)

    def _check_lineage(self, head: int, model: str, number: int) -> None:
        lineage = self.lineages[model, number]
        for shard, mini in self.shards.items():
            known = mini.live.get(model, lineage)
            assert known == lineage, self._story(f"shard {shard} takes {known:x} for live, head {head} {lineage:x}")

    def _check_slot(self, shard_map: ShardMap, model: str, number: int, table: str, slot: int) -> None:
        owners: list[ShardAddress] = []
        for each in (shard_map, shard_map.previous):
            if each is None:
                continue
            addresses = {address.shard: address for address in each.shards}
            wanted = each.replicas.get((model, table), 1)
            owned = next(owned for owned in each.ring.ranges if slot in owned.slots)
            ids = each.ring.shards if wanted == ALL else owned.owners[:wanted]
            owners += [addresses[shard] for shard in ids]
        for address in owners:
            mini = self.shards.get(address.shard)
            assert mini is not None, self._story(f"shard {address.shard} is gone; epoch {shard_map.epoch} routes to it")
            crashed = mini.address != address or not mini.settled
            answers = mini.answers.get((model, number, table))
            if crashed or (answers is not None and answers[slot]):
                return
        raise AssertionError(
            self._story(f"slot {slot} of {model}/{number} {table} at epoch {shard_map.epoch}: {owners} refuse")
        )

    def check_rest(self) -> None:
        """At rest everybody has exactly what the spec says."""
        state = self.saved
        assert state.change is None, self._story("a change is left")
        assert state.spec is not None
        assert state.map is not None
        spec = state.spec
        assert set(self.shards) == set(spec.shards), self._story("shards are left over, or missing")
        names = version_names(spec.versions)
        for shard, mini in self.shards.items():
            assert {(model, number) for model, number, _ in mini.answers} == names, self._story("versions are left")
            for (model, number, table), mask in mini.answers.items():
                owned = spec.ring.owned_mask(shard, spec.replicas.get((model, table), 1))
                assert (mask == owned).all(), self._story(f"shard {shard}: {number}")
            assert mini.address == next(each for each in state.map.shards if each.shard == shard)
            live = {model: self.lineages[model, number] for model, number in spec.live.items()}
            assert mini.live == {model: lineage for model, lineage in live.items() if lineage}
            assert mini.bytes_per_s is None, self._story(f"shard {shard} is throttled still")
        for mini in self.heads.values():
            assert mini.serving, self._story("a head does not serve")
            assert mini.map == state.map, self._story("a head has an old map")
            assert mini.loaded == names
            assert mini.live == dict(spec.live)
        assert state.map.previous is None
        assert state.map.ring == spec.ring

    # -- inside --------------------------------------------------------------------------------------------------------

    def _story(self, what: str) -> str:
        return "\n".join([*self.log[-60:], what])

    def _incarnation(self) -> str:
        return f"i{next(self._ids)}"

    def _heard(self) -> list[Member]:
        """Members that the process asks how they are: see `CoordinatorProcess._follow_members`."""
        specs = [self.saved.spec, None if self.saved.change is None else self.saved.change.target]
        shards = set(self.coordinator.shards).union(*(spec.shards for spec in specs if spec is not None))
        return [Member("shard", shard) for shard in sorted(shards)] + [Member("head", head) for head in self.heads]

    def _heartbeat(self, member: Member) -> None:
        if member.role == "head":
            if not self.heads[member.id].stopped:
                self.tell(HeadSeen(member.id, self.heads[member.id].incarnation))
        elif (mini := self.shards.get(member.id)) is not None:
            self.tell(ShardSeen(member.id, mini.incarnation, mini.address, "node", int(mini.settled)))
        elif member.id in self.coordinator.shards:
            self.tell(ShardLost(member.id))

    def _take(self, command: Command) -> None:
        self.commands = [each for each in self.commands if each is not command]

    def _is_held(self, command: Command) -> bool:
        """Whether a command takes for ever, as things are."""
        mini = self.shards.get(command.shard) if isinstance(command, Prepare) else None
        return mini is not None and mini.bytes_per_s == 0.0

    def _replace_shard(self, shard: int) -> None:
        self.shards[shard] = MiniShard(self._incarnation(), ShardAddress(shard, "host", next(self._ids)))

    def _shard(self, command: Prepare | Assign | Throttle) -> MiniShard:
        mini = self.shards.get(command.shard)
        if mini is None or mini.incarnation != command.incarnation:
            raise Unavailable("it is another one now")
        return mini

    def _head(self, command: Load | Route) -> MiniHead:
        mini = self.heads[command.head]
        if mini.incarnation != command.incarnation or mini.stopped:
            raise Unavailable("it does not answer")
        return mini

    def _execute(self, command: Command) -> None:
        match command:
            case StartShard(shard=shard):
                if shard not in self.shards:
                    self._replace_shard(shard)
                mini = self.shards[shard]
                self.answers.append(ShardSeen(shard, mini.incarnation, mini.address, "node", int(mini.settled)))
            case StopShard(shard=shard):
                self.shards.pop(shard, None)
            case Prepare(placements=placements):
                mini = self._shard(command)
                for placement in placements:
                    for name, table in placement.tables.items():
                        key = (placement.model, placement.version, name)
                        held = mini.held.setdefault(key, np.zeros(SLOTS, np.uint8))
                        for slots in table.slots:
                            held[slots.begin : slots.end] = True
            case Assign(shard=shard, served_ranges=served_ranges, versions=versions):
                mini = self._shard(command)
                mini.settled = True
                answers: dict[tuple[str, int, str], SlotMask] = {}
                for model, number in versions:
                    for table in TABLES:
                        wanted = np.zeros(SLOTS, np.uint8)
                        for each in served_ranges:
                            wanted |= each.ring.owned_mask(shard, each.replicas[model, table])
                        held = mini.held.get((model, number, table), np.zeros(SLOTS, np.uint8))
                        assert (held >= wanted).all(), self._story(f"shard {shard} is to answer for what it lacks")
                        answers[model, number, table] = wanted
                mini.answers, mini.live = answers, dict(command.live)
                mini.held = {name: mask.copy() for name, mask in answers.items()}
            case Load(versions=versions):
                self._head(command).loaded |= version_names(versions)
            case Route(shard_map=shard_map, live=live, versions=names):
                head = self._head(command)
                assert head.map is None or head.map.epoch <= shard_map.epoch, self._story("a head is routed back")
                head.map, head.live, head.serving = shard_map, dict(live), True
                head.loaded &= names
            case Throttle(bytes_per_s=bytes_per_s):
                self._shard(command).bytes_per_s = bytes_per_s
            case Cancel(shard=shard):
                for under_way in [each for each in self.commands if isinstance(each, Prepare) and each.shard == shard]:
                    self._take(under_way)
                    self.answers.append(Failed(under_way, Unavailable("it was cancelled")))
