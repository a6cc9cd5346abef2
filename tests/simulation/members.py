"""Shards and heads as far as the coordinator's rules concern them: what they store, serve, have loaded and route by.

The fence of each is the product's (`ringpull.ps.fence.Fence`), asked where `ringpull.ps.fenced` and
`ringpull.inference.head.fenced` ask theirs. What a real member refuses, these refuse; what would be wrong of anybody
to order is a `Violation`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ringpull.ps.errors import CorruptData, RingpullError, Unavailable
from ringpull.ps.fence import Fence, Order
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.ps.placement import NONE_LIVE, ServedRanges, VersionPlacement
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.simulation.kernel import Process, Waiting
from tests.simulation.slots import Bits, bits_of, owned

if TYPE_CHECKING:
    from tests.simulation.world import World

Table = tuple[str, int, str]
"""Model, version, table."""

Labels = Mapping[str, Mapping[str, int]]
"""Labels of versions, by model, then label."""

LOOK_S = 0.05
"""Time between two looks at something that is waited for."""


class SimShard:
    """One life of a shard's process."""

    def __init__(self, world: World, shard: int, incarnation: str, port: int) -> None:
        self.world = world
        self.shard = shard
        self.incarnation = incarnation
        self.address = ShardAddress(shard, "host", port, incarnation)
        self.process = Process(f"shard {shard}")
        self.fence = Fence(world.deployment, incarnation)
        self.born_in_term = world.newest_term
        self.stored: dict[Table, Bits] = {}
        self.served: dict[Table, Bits] = {}
        self.ranges: tuple[ServedRanges, ...] = ()
        self.epoch = 0
        self.bytes_per_s: float | None = None
        self.turn: Waiting | None = None
        self.cancels = 0
        """How often it was told to cancel."""

    def __repr__(self) -> str:
        return f"shard {self.shard} ({self.incarnation})"

    @property
    def runs(self) -> bool:
        """Whether it answers pulls."""
        return self.process.alive and not self.process.stopped

    def obey(self, order: Order) -> None:
        self.fence.obey(order)
        self.world.checks.obeyed(self, order)

    def heartbeat(self) -> ShardHeartbeat:
        return ShardHeartbeat(
            incarnation=self.incarnation,
            shard=self.shard,
            host=self.address.host,
            port=self.address.port,
            node="node",
            epoch=self.epoch,
            copied_bytes=0,
            bytes_to_copy=0,
            resident_bytes=0,
            term=self.fence.term,
        )

    def prepare(self, order: Order, placements: Sequence[VersionPlacement]) -> None:
        self.fence.check(order, "tables")
        with_turn(self, lambda: self._prepare(placements))

    def _prepare(self, placements: Sequence[VersionPlacement]) -> None:
        kernel, cancels = self.world.kernel, self.cancels
        left_s = kernel.random.random() * self.world.copy_s
        while left_s > 0 or self.bytes_per_s == 0:
            kernel.sleep(LOOK_S * 4)
            if self.bytes_per_s != 0:
                left_s -= LOOK_S * 4
            if self.cancels != cancels:
                raise Unavailable("the prepare was cancelled")
        for placement in placements:
            for name, table in placement.tables.items():
                key = (placement.model, placement.version, name)
                self.stored[key] = self.stored.get(key, 0) | bits_of(table.slots)
                if key not in self.served and self.ranges:
                    self.served[key] = self._owned(key)
        self.world.touched()

    def assign(
        self,
        order: Order,
        epoch: int,
        served_ranges: Sequence[ServedRanges],
        versions: Collection[tuple[str, int]],
        _pushed: Collection[tuple[str, int, str]] = (),
        _live: Mapping[str, int] = NONE_LIVE,
    ) -> None:
        self.fence.check(order, "tables")
        self.world.checks.obeyed(self, order)
        if epoch < self.epoch:
            return
        self.epoch, self.ranges = epoch, tuple(served_ranges)
        served: dict[Table, Bits] = {}
        for table in self.world.tables_of(versions):
            served[table] = self._owned(table)
            if served[table] & ~self.stored.get(table, 0):
                self.world.checks.violated(f"{self} is to serve what it has not stored of {table}")
        self.served, self.stored = served, dict(served)
        self.world.told(f"{self} serves epoch {epoch}, {len(self.ranges)} rings, by term {order.term}")
        self.world.touched()

    def throttle(self, order: Order, bytes_per_s: float | None) -> None:
        self.fence.check(order, "throttle")
        self.world.checks.obeyed(self, order)
        self.bytes_per_s = bytes_per_s

    def cancel(self, order: Order) -> None:
        self.fence.check(order, "tables")
        self.cancels += 1

    def _owned(self, table: Table) -> Bits:
        model, _, name = table
        bits = 0
        for each in self.ranges:
            bits |= owned(each.ring, self.shard, each.replicas.get((model, name), 1))
        return bits


@dataclass(eq=False, slots=True)
class Pull:
    """Request in flight: the map and version that it was begun with."""

    shard_map: ShardMap
    live: Mapping[str, int]


class SimHead:
    """One life of a head's process."""

    def __init__(self, world: World, head: int, incarnation: str) -> None:
        self.world = world
        self.head = head
        self.incarnation = incarnation
        self.process = Process(f"head {head}")
        self.fence = Fence(world.deployment, incarnation)
        self.born_in_term = world.newest_term
        """Highest term that had begun by then."""
        self.loaded: set[tuple[str, int]] = set()
        self.map: ShardMap | None = None
        self.live: dict[str, int] = {}
        self.labels: Labels = {}
        self.serving = False
        self.leased_until_s = float("inf")
        self.renewed_until_s = 0.0
        """End of the lease by the last heartbeat that renewed it."""
        self.led_until_s = 0.0
        """End of the lease as far as its leader knows of it, and counts on it."""
        self.pulls: set[Pull] = set()
        self.asking = False
        self.turn: Waiting | None = None

    def __repr__(self) -> str:
        return f"head {self.head} ({self.incarnation})"

    @property
    def runs(self) -> bool:
        """Whether it answers requests."""
        return self.process.alive and not self.process.stopped

    def obey(self, order: Order) -> None:
        self.fence.obey(order)
        self.world.checks.obeyed(self, order)

    def heartbeat(self) -> HeadHeartbeat:
        epoch = 0 if self.map is None else self.map.epoch
        port = 1 if self.serving else 0
        return HeadHeartbeat(
            self.incarnation, "host", port, port, epoch, tuple(sorted(self.loaded)), term=self.fence.term
        )

    def renew(self, order: Order, lease_s: float) -> HeadHeartbeat:
        self.fence.check(order)
        now_s = self.world.kernel.now_s
        if now_s < self.leased_until_s:
            self.leased_until_s = self.renewed_until_s = now_s + lease_s
        return self.heartbeat()

    def load(self, order: Order, versions: Sequence[PlacedVersion], shard_map: ShardMap) -> None:
        self.fence.check(order, "versions")
        with_turn(self, lambda: self._load(order, versions, shard_map))

    def _load(self, order: Order, versions: Sequence[PlacedVersion], shard_map: ShardMap) -> None:
        kernel = self.world.kernel
        self.world.checks.obeyed(self, order)
        self._take(shard_map)
        kernel.sleep(kernel.random.random() * self.world.copy_s)
        for version in versions:
            if self.world.is_wrong(version.version):
                raise CorruptData(f"{version.name} answers its samples wrongly")
        self.loaded |= {(version.model, version.version) for version in versions}

    def route(
        self,
        order: Order,
        shard_map: ShardMap,
        live: Mapping[str, int],
        versions: Collection[tuple[str, int]],
        labels: Labels,
    ) -> None:
        self.fence.check(order, "versions")
        with_turn(self, lambda: self._route(order, shard_map, live, versions, labels))

    def _route(
        self,
        order: Order,
        shard_map: ShardMap,
        live: Mapping[str, int],
        versions: Collection[tuple[str, int]],
        labels: Labels,
    ) -> None:
        self.world.checks.obeyed(self, order)
        if self.map is None or shard_map.edition >= self.map.edition:
            if missing := set(versions) - self.loaded:
                self.world.checks.violated(f"{self} is to show {missing}, which it has not loaded")
            self.loaded &= set(versions)
            if not self.serving:
                # A real one's begins with the next heartbeat.
                self.leased_until_s = self.world.kernel.now_s + self.world.timing.lease_s
            self.live, self.labels, self.serving = dict(live), labels, True
            self._take(shard_map)
            self.world.told(f"{self} routes by epoch {shard_map.epoch}, live {self.live}, by term {order.term}")
        while any(pull.shard_map.edition < shard_map.edition for pull in self.pulls):
            self.world.kernel.sleep(LOOK_S)

    @property
    def should_ask(self) -> bool:
        """Whether to ask for the newest map, since the lease nears its end: see `ringpull.inference.head.lease`."""
        return not self.asking and self.world.kernel.now_s > self.leased_until_s - self.world.timing.lease_s / 2

    def ask_for_the_map(self) -> None:
        """Ask for the newest map, and go by it."""
        world = self.world
        self.asking = True
        try:
            self._take(world.newest_map(self))
            self.leased_until_s = max(self.leased_until_s, world.kernel.now_s + 1.0)
        except RingpullError:
            return  # Nobody leads: it serves on by the map it has.
        finally:
            self.asking = False

    def request(self) -> None:
        """Answer one request: nothing of it is seen but what it holds on to while it lasts."""
        if not self.serving or self.map is None:
            return
        pull = Pull(self.map, self.live)
        self.pulls.add(pull)
        try:
            self.world.kernel.sleep(self.world.kernel.random.random() * self.world.pull_s)
        finally:
            self.pulls.discard(pull)

    def _take(self, shard_map: ShardMap) -> None:
        """Go by a map if it is newer: see `ringpull.router.routes.Routes.update`."""
        if self.map is None or shard_map.edition > self.map.edition:
            self.world.checks.map_taken(self, shard_map)
            self.map = shard_map
            self.world.touched()


def with_turn(member: SimShard | SimHead, work: Callable[[], None]) -> None:
    """Do some work of a member, one at a time."""
    kernel = member.world.kernel
    while member.turn is not None:
        kernel.wait(member.turn)
    member.turn = turn = Waiting()
    try:
        work()
    finally:
        member.turn = None
        kernel.open(turn)
