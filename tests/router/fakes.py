"""Shards in memory: they answer pulls from reference tables, and refuse what they do not own, as real ones do."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ringpull.ps.errors import ConnectionLost, DeadlineExceeded, NotFound, NotOwner, RingpullError, Unavailable
from ringpull.ps.hashing import SLOT_SHIFT, keys_of
from ringpull.ps.pull_messages import Op, PullReply, PullRequest
from ringpull.ps.ring import Ring
from ringpull.ps.spec import Pooling, Replicas, TableSpec
from ringpull.ps.wire.messages import Reply, Request, ShardStatistics, StatisticsRequest
from ringpull.router.client import Router
from ringpull.router.settings import RouterSettings
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.reference import ReferenceBytes, ReferenceTable

MODEL, VERSION = "model", 3

PATIENT = RouterSettings(hedge_floor_s=60.0, hedge_cap_s=60.0)
"""For tests on real time that count messages: a machine that hangs for a moment must not look like a late shard."""


class FakeShard:
    """One shard with every table whole, answering for the slots that its own map gives it."""

    def __init__(self, shard: int, tables: Mapping[str, ReferenceTable | ReferenceBytes]) -> None:
        self.shard = shard
        self.tables = tables
        self.maps: list[ShardMap] = []
        """It answers for its slots of all of these."""
        self.requests: list[PullRequest] = []
        self.failures: list[RingpullError] = []
        """Raised one after the other instead of the next answers."""
        self.gate: asyncio.Event | None = None
        """When set, pulls wait for it."""
        self.takes_s = 0.0
        """How long an answer takes, to a ping too."""
        self.pull_takes_s = 0.0
        """How much longer one to a pull takes."""
        self.running = asyncio.Event()
        self.running.set()
        """Cleared, it is stopped, as by SIGSTOP: it can be connected to and says nothing."""
        self.pings = 0
        self.keys_asked = 0
        """Of requests that reached it, answered or given up."""
        self.up = True
        self.tells_absent = True
        """Cleared, it is of an earlier build, which does not tell which keys of bags are absent."""

    def pull(self, request: PullRequest) -> PullReply:
        self.requests.append(request)
        if self.failures:
            raise self.failures.pop(0)
        if (request.model, request.version) != (MODEL, VERSION):
            raise NotFound(f"shard {self.shard} serves no {request.model}/{request.version}")
        self._check_owned(request)
        values, missing, found, lists = [np.empty(0, np.float32)], [], [np.empty(0, np.uint8)], []
        absent = [np.empty(0, np.uint32)]
        key = bag = weight = 0
        for lookup in request.lookups:
            table = self.tables[lookup.table]
            assert lookup.keys > 0
            keys = keys_of(request.positions[key : key + lookup.keys])
            rows, known = table.pull(keys)
            missing.append(int((~known).sum()))
            if lookup.op is Op.ROWS:
                assert lookup.bags == 0
                found.append(known.astype(np.uint8))
                if isinstance(table, ReferenceBytes):
                    lists += rows
                else:
                    values.append(rows.ravel())
            else:
                lengths = request.lengths[bag : bag + lookup.bags]
                assert (lengths > 0).all()
                weights = request.weights[weight : weight + lookup.keys] if lookup.weighted else None
                pooling = Pooling.MAX if lookup.op is Op.MAX else Pooling.SUM
                offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
                values.append(table.pull_bags(keys, offsets, pooling, weights).astype(np.float32).ravel())
                if request.tell_absent and self.tells_absent:
                    absent.append((key + np.flatnonzero(~known)).astype(np.uint32))
            key, bag = key + lookup.keys, bag + lookup.bags
            weight += lookup.keys if lookup.weighted else 0
        assert (key, bag, weight) == (request.positions.size, request.lengths.size, request.weights.size)
        return PullReply(
            np.concatenate(values),
            np.array(missing, np.uint32),
            np.concatenate(found),
            np.array([len(row) for row in lists], np.uint32),
            np.frombuffer(b"".join(lists), np.uint8),
            np.concatenate(absent),
        )

    def _check_owned(self, request: PullRequest) -> None:
        key = 0
        for lookup in request.lookups:
            owned = [each.ring.owned_mask(self.shard, each.wanted_replicas(MODEL, lookup.table)) for each in self.maps]
            mask = np.logical_or.reduce(owned)
            if not mask[request.positions[key : key + lookup.keys] >> np.uint64(SLOT_SHIFT)].all():
                raise NotOwner(f"shard {self.shard} does not own all slots", epoch=self.maps[-1].epoch)
            key += lookup.keys


class FakeConnection:
    def __init__(self, shard: FakeShard, clock: Callable[[], float]) -> None:
        self.shard = shard
        self.clock = clock
        self.closed = False
        self.lost = asyncio.Event()

    async def request(self, message: Request, *, deadline_s: float) -> Reply:
        if isinstance(message, PullRequest):
            self.shard.keys_asked += message.positions.size
        answer = asyncio.ensure_future(self.answer(message))
        lost = asyncio.ensure_future(self.lost.wait())
        try:
            left_s = deadline_s - self.clock()
            await asyncio.wait([answer, lost], timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if lost.done():
                raise ConnectionLost(f"the connection to shard {self.shard.shard} was closed")
            raise DeadlineExceeded(f"shard {self.shard.shard} did not answer in time")
        finally:
            answer.cancel()
            lost.cancel()

    async def answer(self, message: Request) -> Reply:
        shard = self.shard
        await asyncio.sleep(shard.takes_s)
        if not shard.up:
            self.closed = True
        if self.closed:
            raise ConnectionLost(f"shard {shard.shard} is gone")
        await shard.running.wait()
        if isinstance(message, StatisticsRequest):
            shard.pings += 1
            return ShardStatistics(shard.shard, 1, 4, 0, len(shard.requests), ())
        assert isinstance(message, PullRequest)
        if shard.pull_takes_s:
            await asyncio.sleep(shard.pull_takes_s)
        if shard.gate is not None:
            await shard.gate.wait()
        return shard.pull(message)

    async def close(self) -> None:
        self.closed = True
        self.lost.set()


class FakeCluster:
    """Shards, their map, and a router in front of them."""

    def __init__(
        self,
        ring: Ring,
        tables: Mapping[str, tuple[TableSpec, ReferenceTable | ReferenceBytes]],
        replicas: Mapping[str, Replicas] | None = None,
        *,
        settings: RouterSettings = PATIENT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.references = {name: table for name, (_, table) in tables.items()}
        self.replicas = {(MODEL, table): wanted for table, wanted in (replicas or {}).items()}
        self.shards: dict[int, FakeShard] = {}
        self.connections: list[FakeConnection] = []
        self.attempts_s: list[tuple[int, float]] = []
        """(shard, when) of every attempt to connect."""
        self.refreshes = 0
        self.shard_map = self.assign(ring)
        self.router = Router(self.connect, refresh=self.refresh, settings=settings, clock=clock, rng=random.Random(1))
        self.router.update(self.shard_map)
        self.router.register(MODEL, VERSION, {name: spec for name, (spec, _) in tables.items()})

    def assign(self, ring: Ring) -> ShardMap:
        """Give all shards a new map; the router hears of it when it asks."""
        epoch = self.shard_map.epoch + 1 if self.shards else 1
        addresses = tuple(ShardAddress(shard, "fake", shard) for shard in ring.shards)
        self.shard_map = ShardMap(epoch, addresses, ring, self.replicas)
        for shard in ring.shards:
            self.shards.setdefault(shard, FakeShard(shard, self.references))
        for shard in self.shards.values():
            shard.maps = [self.shard_map]
        return self.shard_map

    async def connect(self, address: ShardAddress) -> FakeConnection:
        self.attempts_s.append((address.shard, self.clock()))
        await asyncio.sleep(0)
        if not self.shards[address.shard].up:
            raise Unavailable(f"shard {address.shard} cannot be reached")
        self.connections.append(FakeConnection(self.shards[address.shard], self.clock))
        return self.connections[-1]

    def moving_to(self, ring: Ring) -> ShardMap:
        """Return the map of a move that drains: shards of both rings answer for both, heads may fall back."""
        before = self.shard_map
        after = self.assign(ring)
        for shard in self.shards.values():
            shard.maps = [before, after]
        return replace(after, previous=before)

    async def refresh(self) -> ShardMap:
        self.refreshes += 1
        await asyncio.sleep(0)
        return self.shard_map
