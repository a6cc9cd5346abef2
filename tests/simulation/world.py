"""The world of one history: a deployment, its state folder, the network between, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from ringpull.ps.errors import Unavailable
from ringpull.router.control.deployment_spec import PlacedTable, PlacedVersion
from ringpull.router.control.leader import Timing
from ringpull.router.control.operations import Asker, ModelSource
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.simulation.checks import Checks
from tests.simulation.folder import Folder
from tests.simulation.kernel import Kernel
from tests.simulation.leaders import SimLeader
from tests.simulation.members import SimHead, SimShard, Table
from tests.simulation.network import FINE, Network
from tests.simulation.operators import MODEL, Ledger, Operators

TABLES: Final = {"one": 1, "two": 2}
"""Tables of every version, and their copies."""


class World:
    """Everything there is in one history, as its seed has it."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.seed = seed
        self.kernel = Kernel(random, self._after_step)
        self.network = Network(self.kernel)
        self.log: list[str] = []
        self.deployment = "d1"
        self.models_come_and_go = seed % 4 == 3
        """Whether operators also load, unload and label; others ask for what they always did, in the same order."""
        self.several_nodes = seed % 2 == 1
        """Whether leaders wait for processes of heads that may live on, though none does here."""
        self.timing = Timing(heartbeat_s=2.5)
        self.copy_s = 1.0
        self.pull_s = 0.5
        self.restart_s = 3.0
        """Longest time until a process that died is there again."""
        self.checks = Checks(self)
        self.ledger = Ledger(self)
        self.operators = Operators(self)
        self.versions = 1
        """Highest version there is."""
        self.ambushes: dict[str, Callable[[], None]] = {}
        """Moment -> what happens when the coordinator comes to it next."""
        self.calm_since_s = 0.0
        self.was_rough = False
        """Whether answers may have been lost."""
        self.was_led = False
        """Whether the deployment was ever led, so that a state of it must exist."""
        self._lives = 0
        self._ended: set[ShardAddress] = set()
        self._touched = False
        self.newest_term = 0
        """Highest term that has begun."""
        self.shards: dict[int, SimShard] = {}
        self.heads = {head: self._new_head(head) for head in range(random.choice([1, 2]))}
        self.folder = Folder(self.kernel)
        self.leaders: list[SimLeader] = []
        self.seat: SimLeader | None = None
        self.start_coordinator()
        for head in self.heads:
            self._requests(head)
        self._look()

    # -- what is told --------------------------------------------------------------------------------------------------

    def told(self, what: str) -> None:
        """Add a line to the story."""
        self.log.append(f"{self.kernel.now_s:8.2f}  {what}")

    def story(self) -> str:
        """Return what has happened, for people."""
        return "\n".join([f"history {self.seed}:", *self.log[-300:]])

    def moment(self, leader: SimLeader, which: str) -> None:
        """Have happen what waits for a leader to come to this moment."""
        if self.ambushes and leader is self.seat:
            spring = self.ambushes.pop(which, None)
            if spring is not None:
                spring()
                self.kernel.pause()

    def touched(self) -> None:
        """Have slots looked at after this step."""
        self._touched = True

    def _after_step(self) -> None:
        if self._touched:
            self._touched = False
            self.checks.slots()

    def _look(self) -> None:
        self.checks.in_time()
        self.kernel.later(1.0, self._look)

    def disturbed(self) -> None:
        """Take note that something goes wrong, or ends going wrong: what takes time counts anew from now."""
        self.calm_since_s = self.kernel.now_s

    def calm(self) -> None:
        """Have everything well again, and nothing go wrong from now on."""
        self.told("CALM")
        self.ambushes.clear()
        self.network.cut.clear()
        self.network.weather = FINE
        self.folder.mend()
        for each in [*self.shards.values(), *self.heads.values(), *self.leaders]:
            if each.process.stopped:
                self.kernel.go_on(each.process)
        self.disturbed()

    # -- versions ------------------------------------------------------------------------------------------------------

    def place(self, version: int, model: str = MODEL) -> PlacedVersion:
        """Return a version as it is found on disk."""
        folder = f"/{model}/{version}"
        tables = {name: PlacedTable(f"{folder}/{name}", copies) for name, copies in TABLES.items()}
        return PlacedVersion(model, version, folder, tables)

    def find(self, source: ModelSource) -> tuple[PlacedVersion, ...]:
        """Return the versions that a source asks for; of every model there are as many as were published of one."""
        model = source.name or source.folder.strip("/")
        numbers = source.versions or range(max(1, self.versions + 1 - source.latest), self.versions + 1)
        return tuple(self.place(number, model) for number in numbers)

    def is_wrong(self, version: int) -> bool:
        """Return whether a version cannot go live: its samples are answered wrongly."""
        return version % 4 == 0

    def tables_of(self, versions) -> list[Table]:
        """Return the tables of some versions."""
        return [(model, number, name) for model, number in versions for name in TABLES]

    # -- members -------------------------------------------------------------------------------------------------------

    def shard(self, shard: int) -> SimShard:
        """Return a shard's present life.

        Raises:
            Unavailable: There is none.
        """
        found = self.shards.get(shard)
        if found is None or not found.process.alive:
            raise Unavailable(f"there is no shard {shard}")
        return found

    def head(self, head: int) -> SimHead:
        """Return a head's present life.

        Raises:
            Unavailable: There is none.
        """
        found = self.heads[head]
        if not found.process.alive:
            raise Unavailable(f"head {head} is not up")
        return found

    def start_shard(self, shard: int) -> None:
        """Start a shard unless it is there; return when it answers."""
        if shard not in self.shards:
            self._replace_shard(shard)
        while not (shard in self.shards and self.shards[shard].process.alive):
            self.kernel.sleep(0.5)
            if shard not in self.shards:
                raise Unavailable(f"shard {shard} was ended while it was started")
        self.kernel.sleep(self.random.random() * self.restart_s)

    def end_shard(self, shard: int, leader: SimLeader) -> None:
        """End a shard for good, as its leader wants it."""
        found = self.shards.pop(shard, None)
        if found is not None:
            self.told(f"{found} is ended by {leader}")
            self._ended.add(found.address)
            self.kernel.kill(found.process)
            self.touched()

    def was_ended(self, address: ShardAddress) -> bool:
        """Return whether a shard at that address was ended on purpose."""
        return address in self._ended

    def kill_shard(self, shard: int) -> None:
        """Kill a shard; it comes back after a while, with nothing."""
        found = self.shards.get(shard)
        if found is not None and found.process.alive:
            self.told(f"KILL {found}")
            self.kernel.kill(found.process)
            self.kernel.later(self.random.random() * self.restart_s, partial(self._back, shard, found))

    def _back(self, shard: int, before: SimShard) -> None:
        if self.shards.get(shard) is before:
            self._replace_shard(shard)

    def _replace_shard(self, shard: int) -> None:
        self._lives += 1
        before = self.shards.get(shard)
        port = before.address.port if before is not None and self.random.random() < 0.3 else self._lives
        self.shards[shard] = SimShard(self, shard, f"s{self._lives}", port)
        self.told(f"{self.shards[shard]} is up")

    def kill_head(self, head: int) -> None:
        """Kill a head; it comes back after a while, with nothing."""
        found = self.heads[head]
        if found.process.alive:
            self.told(f"KILL {found}")
            self.kernel.kill(found.process)
            self.kernel.later(self.random.random() * self.restart_s, partial(self._replace_head, head))

    def _replace_head(self, head: int) -> None:
        self.heads[head] = self._new_head(head)
        self.told(f"{self.heads[head]} is up")

    def _new_head(self, head: int) -> SimHead:
        self._lives += 1
        return SimHead(self, head, f"h{self._lives}")

    def _requests(self, head: int) -> None:
        found = self.heads[head]
        if found.runs:
            self.kernel.spawn(found.process, found.request)
            if found.should_ask:
                self.kernel.spawn(found.process, found.ask_for_the_map)
        self.kernel.later(self.random.random() * 5, partial(self._requests, head))

    # -- coordinators --------------------------------------------------------------------------------------------------

    def start_coordinator(self) -> None:
        """Start a coordinator's process, which has the name from now on."""
        self.seat = SimLeader(self, len(self.leaders) + 1)
        self.leaders.append(self.seat)
        self.folder.contested = sum(leader.process.alive for leader in self.leaders) > 1

    def coordinator_ended(self, leader: SimLeader) -> None:
        """End the process of a leader whose term is over; if nobody took its place, another one is started."""
        if leader is self.seat:
            self.restart_coordinator(leader)
        self.kernel.kill(leader.process)

    def leads(self, leader: SimLeader, head: int, incarnation: str) -> None:
        """Take note that a leader has heard of a head, and so counts on its lease from now on."""
        found = self.heads[head]
        if leader.term == self.newest_term and found.incarnation == incarnation and found.fence.term == leader.term:
            found.led_until_s = found.renewed_until_s

    def coordinator(self) -> SimLeader:
        """Return who has the coordinator's name.

        Raises:
            Unavailable: Nobody.
        """
        if self.seat is None or not self.seat.process.alive:
            raise Unavailable("the coordinator is not up")
        return self.seat

    def any_coordinator(self) -> SimLeader:
        """Return a coordinator that somebody reaches who may not have heard which one is the present one.

        Raises:
            Unavailable: None lives.
        """
        alive = [leader for leader in self.leaders if leader.process.alive]
        return self.random.choice(alive) if len(alive) > 1 else self.coordinator()

    def kill_coordinator(self) -> None:
        """Kill the coordinator; it is restarted."""
        if self.seat is not None and self.seat.process.alive:
            self.told(f"KILL {self.seat}")
            seat = self.seat
            self.restart_coordinator(seat)
            self.kernel.kill(seat.process)

    def restart_coordinator(self, lost: SimLeader | None) -> None:
        """Have another coordinator's process started after a while, in place of one that is lost."""
        self.kernel.later(self.random.random() * self.restart_s, partial(self._restart, lost))

    def _restart(self, lost: SimLeader | None) -> None:
        if self.seat is lost:
            self.start_coordinator()

    def newest_map(self, head: SimHead) -> ShardMap:
        """Return the map that a head gets when it asks."""
        asker = Asker(head.head, head.incarnation)
        return self.network.call(head.process, "coordinator", self.any_coordinator, lambda leader: leader.map(asker))
