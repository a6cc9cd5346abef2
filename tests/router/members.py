"""Shards and heads that live in this process: what the coordinator's process sees of a deployment, with every fault.

They hold, guard, load and route as they are told, and refuse what real ones refuse: to answer for what they do not
hold, to go back to an older epoch. What they were told is written down in order.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from ringpull.ps.errors import RingpullError, Unavailable
from ringpull.ps.fence import Fence, Order
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.ps.placement import NONE_LIVE, ServedRanges, VersionPlacement
from ringpull.ps.refusals import Refusals
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.shard_map import ShardMap

_incarnations = itertools.count(1)


class FakeShard:
    """One shard. A crash is another one in its place."""

    def __init__(self, members: FakeMembers, shard: int) -> None:
        self.members = members
        self.shard = shard
        self.incarnation = f"shard-{shard}-{next(_incarnations)}"
        self.stored: set[tuple[str, int]] = set()
        self.refused: set[tuple[str, int]] = set()
        self.epoch = 0
        self.served_ranges: tuple[ServedRanges, ...] = ()
        self.versions: frozenset[tuple[str, int]] = frozenset()
        self.bytes_per_s: float | None = None
        self.cancelled = threading.Event()
        self.fence = Fence(members.deployment, self.incarnation)

    def heartbeat(self) -> ShardHeartbeat:
        self.members.meet(f"heartbeat shard {self.shard}")
        return ShardHeartbeat(
            incarnation=self.incarnation,
            shard=self.shard,
            host="127.0.0.1",
            port=int(self.incarnation.rpartition("-")[2]),
            node="node",
            epoch=self.epoch,
            copied_bytes=10 * len(self.stored),
            bytes_to_copy=10 * len(self.stored),
            resident_bytes=100,
            term=self.fence.term,
        )

    def obey(self, order: Order) -> None:
        self.members.meet(f"obey shard {self.shard}")
        self.fence.obey(order)

    def prepare(self, order: Order, placements: Sequence[VersionPlacement]) -> None:
        self.members.meet(f"prepare shard {self.shard}")
        self.fence.check(order)
        names = [(placement.model, placement.version) for placement in placements]
        self.refused = set(names) & self.members.lost.keys()
        self.members.open(names, self.stored)

    def assign(
        self,
        order: Order,
        epoch: int,
        served_ranges: Sequence[ServedRanges],
        versions: Collection[tuple[str, int]],
        pushed: Collection[tuple[str, int, str]] = (),
        live: Mapping[str, int] = NONE_LIVE,
    ) -> None:
        self.members.meet(f"assign shard {self.shard}")
        self.fence.check(order)
        if not set(versions) <= self.stored | self.refused:
            raise Unavailable(f"shard {self.shard} holds {self.stored}, not all of {versions}")
        if epoch >= self.epoch:
            self.epoch, self.served_ranges, self.versions = epoch, tuple(served_ranges), frozenset(versions)
            self.stored &= set(versions)

    def throttle(self, order: Order, bytes_per_s: float | None) -> None:
        self.members.meet(f"throttle shard {self.shard}")
        self.fence.check(order, "throttle")
        self.bytes_per_s = bytes_per_s

    def cancel(self, order: Order) -> None:
        self.members.meet(f"cancel shard {self.shard}")
        self.fence.check(order)
        self.cancelled.set()

    def restart(self, order: Order, drain_s: float) -> None:
        self.members.meet(f"restart shard {self.shard}")
        self.fence.check(order)


class FakeHead:
    """One head."""

    def __init__(self, members: FakeMembers, head: int) -> None:
        self.members = members
        self.head = head
        self.incarnation = f"head-{head}-{next(_incarnations)}"
        self.loaded: set[tuple[str, int]] = set()
        self.refused: set[tuple[str, int]] = set()
        self.map: ShardMap | None = None
        self.live: dict[str, int] = {}
        self.labels: Mapping[str, Mapping[str, int]] = {}
        self.fence = Fence(members.deployment, self.incarnation)
        self.leases = 0
        """How often its lease was renewed."""

    def heartbeat(self) -> HeadHeartbeat:
        self.members.meet(f"heartbeat head {self.head}")
        epoch = 0 if self.map is None else self.map.epoch
        port = 8500 if epoch else 0
        return HeadHeartbeat(
            self.incarnation,
            "127.0.0.1",
            port,
            port,
            epoch,
            tuple(sorted(self.loaded)),
            p50_ms=1.0,
            p99_ms=2.0,
            term=self.fence.term,
        )

    def renew(self, order: Order, lease_s: float) -> HeadHeartbeat:
        self.fence.check(order)
        self.leases += 1
        return self.heartbeat()

    def obey(self, order: Order) -> None:
        self.members.meet(f"obey head {self.head}")
        self.fence.obey(order)

    def load(self, order: Order, versions: Sequence[PlacedVersion], shard_map: ShardMap) -> None:
        self.members.meet(f"load head {self.head}")
        self.fence.check(order)
        names = [(version.model, version.version) for version in versions]
        self.refused |= set(names) & self.members.lost.keys()
        self.members.open(names, self.loaded)

    def route(
        self,
        order: Order,
        shard_map: ShardMap,
        live: Mapping[str, int],
        versions: Collection[tuple[str, int]],
        labels: Mapping[str, Mapping[str, int]],
    ) -> None:
        self.members.meet(f"route head {self.head}")
        self.fence.check(order)
        if not set(versions) <= self.loaded | self.refused:
            raise Unavailable(f"head {self.head} has {self.loaded}, not all of {versions}")
        if self.map is None or shard_map.epoch >= self.map.epoch:
            self.map, self.live, self.labels = shard_map, dict(live), labels
            self.loaded &= set(versions)

    def restart(self, order: Order, drain_s: float) -> None:
        self.members.meet(f"restart head {self.head}")
        self.fence.check(order)


class FakeMembers:
    """`ringpull.router.control.controls.Members`."""

    def __init__(self, heads: int = 1, deployment: str = "this one") -> None:
        self.deployment = deployment
        self.shards: dict[int, FakeShard] = {}
        self.heads = {head: FakeHead(self, head) for head in range(heads)}
        self.said: list[str] = []
        """`VERB ROLE NUMBER` of everything but heartbeats and introductions, in the order it began."""
        self.on: dict[str, Callable[[], None]] = {}
        """`VERB ROLE NUMBER` -> what happens first: it may raise, wait, or look."""
        self.lost: dict[tuple[str, int], RingpullError] = {}
        """Versions that nobody can open who has not opened them, and why."""
        self.lock = threading.Lock()

    def open(self, names: Sequence[tuple[str, int]], there: set[tuple[str, int]]) -> None:
        """Open versions, `there`, but for those that are lost.

        Raises:
            RingpullError: As a member does that could not open all of them.
        """
        refusals = Refusals()
        for model, version in names:
            with refusals.of(model, version):
                if (model, version) in self.lost and (model, version) not in there:
                    raise self.lost[model, version]
                there.add((model, version))
        refusals.check(len(names))

    def meet(self, what: str) -> None:
        """Write down that something begins, and let the test have its way with it."""
        with self.lock:
            if not what.startswith(("heartbeat", "obey")):
                self.said.append(what)
        if what in self.on:
            self.on[what]()

    def fail(self, what: str, *errors: RingpullError) -> None:
        """Have this fail with these errors, one after the other, and work from then on."""
        left = list(errors)

        def fail() -> None:
            if left:
                raise left.pop(0)

        self.on[what] = fail

    def crash_shard(self, shard: int) -> None:
        """As a kill -9: it comes back with nothing."""
        self.shards[shard] = FakeShard(self, shard)

    def crash_head(self, head: int) -> None:
        self.heads[head] = FakeHead(self, head)

    def shard(self, shard: int) -> FakeShard:
        if shard not in self.shards:
            raise Unavailable(f"there is no shard {shard}")
        return self.shards[shard]

    def head(self, head: int) -> FakeHead:
        return self.heads[head]

    def nodes(self) -> dict[str, str]:
        return {"node": "10.0.0.1", "other": "10.0.0.2"}

    def start_shard(self, shard: int, node: str | None) -> None:
        self.meet(f"start shard {shard}")
        self.shards.setdefault(shard, FakeShard(self, shard))

    def stop_shard(self, shard: int, order: Order) -> None:
        self.meet(f"stop shard {shard}")
        if order.incarnation:
            self.shards[shard].fence.check(order)
        self.shards.pop(shard, None)
