"""The router over real shards and tables on disk: the same answers as the slow reference.

Without a socket between, but for the last tests, whose shards listen on TCP and stop answering.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import positions_of
from ringpull.ps.placement import ServedRanges
from ringpull.ps.pull_messages import PullRequest
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.ps.spec import ALL, MAX_BYTES_ROW, OnUnavailable, Pooling, RowType, TableSpec
from ringpull.ps.store.writer import TableWriter
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.messages import Reply, Request
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads
from ringpull.router.client import Router
from ringpull.router.lookup import Lookup, LookupResult
from ringpull.router.settings import RouterSettings
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.reference import ReferenceBytes, ReferenceTable
from tests.router.cases import LISTS, Tables, assert_reference
from tests.router.fakes import PATIENT

MODEL, VERSION = "model", 1
DIMS = {"users": 16, "items": 5, "tags": 1, LISTS: 0}
ROWS = 3000


class LocalConnection:
    """A shard of this process behind the connection's interface."""

    closed = False

    def __init__(self, shard: Shard) -> None:
        self.shard = shard

    async def request(self, message: Request, *, deadline_s: float) -> Reply:
        assert isinstance(message, PullRequest)
        return await asyncio.to_thread(self.shard.pull, message)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tables]:
    """Tables on disk, with their references."""
    folder = tmp_path_factory.mktemp("tables")
    tables = {}
    for seed, (name, dim) in enumerate(DIMS.items()):
        rng = np.random.default_rng(seed)
        keys = rng.permutation(2 * ROWS)[:ROWS].astype(np.uint64)
        if name == LISTS:
            lists = [rng.bytes(int(length)) for length in rng.integers(0, 300, ROWS)]
            lists[17] = rng.bytes(MAX_BYTES_ROW)
            spec = TableSpec(name=name, dim=0, row_type=RowType.BYTES)
            with TableWriter(folder / name, spec) as writer:
                writer.add_bytes(keys, BytesRows.of(lists))
                writer.finish()
            tables[name] = spec, ReferenceBytes(dict(zip(keys.tolist(), lists, strict=True)))
            continue
        rows = rng.normal(size=(ROWS, dim)).astype(np.float32)
        default = rng.normal(size=dim).astype(np.float32)
        spec = TableSpec(name=name, dim=dim, default=tuple(default.tolist()))
        with TableWriter(folder / name, spec, default=default) as writer:
            writer.add(keys, rows)
            writer.finish()
        tables[name] = spec, ReferenceTable.from_arrays(keys, rows, default)
    return folder, tables


def lookups() -> list[Lookup]:
    rng = np.random.default_rng(9)
    asked = []
    for name in DIMS:
        for pooling in [Pooling.NONE] if name == LISTS else Pooling:
            keys = rng.integers(0, 2 * ROWS, 400).astype(np.uint64)
            offsets = np.sort(rng.integers(0, 401, 60))
            offsets[[0, -1]] = 0, 400
            asked.append(Lookup(name, pooling, keys, None if pooling is Pooling.NONE else offsets))
            if pooling is Pooling.SUM:
                asked.append(Lookup(name, pooling, keys, offsets, rng.normal(size=400).astype(np.float32)))
    return asked


@pytest.mark.parametrize("replicas", [1, 2, ALL])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
async def test_any_number_of_shards_and_replicas_equals_the_reference(written, count, replicas):
    folder, tables = written
    ring = Ring.even(range(count), 1 if replicas == ALL else replicas)
    shard_map = ShardMap(
        1,
        tuple(ShardAddress(shard, "local", shard) for shard in range(count)),
        ring,
        {(MODEL, name): replicas for name in DIMS},
    )
    shards = [Shard(shard) for shard in range(count)]
    for shard in shards:
        shard.open(MODEL, VERSION, {name: folder / name for name in DIMS})
        shard.assign(1, [ServedRanges(ring, shard_map.replicas)], {(MODEL, VERSION)})

    async def connect(address: ShardAddress) -> LocalConnection:
        return LocalConnection(shards[address.shard])

    router = Router(connect, settings=PATIENT)
    router.update(shard_map)
    router.register(MODEL, VERSION, {name: spec for name, (spec, _) in tables.items()})
    asked = lookups()
    assert_reference(tables, asked, await router.pull(MODEL, VERSION, asked, deadline_s=time.monotonic() + 60))
    await router.close()


async def test_shards_ahead_of_the_routers_map_are_found_by_refreshing(written):
    """Real NotOwner answers: the ring grew from 2 to 3 behind the router's back."""
    folder, tables = written
    shards = [Shard(shard) for shard in range(3)]
    old, new = Ring.even(range(2)), Ring.even(range(2)).join(2)
    for shard in shards:
        shard.open(MODEL, VERSION, {name: folder / name for name in DIMS})
        shard.assign(2, [ServedRanges(new, {})], {(MODEL, VERSION)})

    def map_of(epoch: int, ring: Ring) -> ShardMap:
        return ShardMap(epoch, tuple(ShardAddress(shard, "local", shard) for shard in ring.shards), ring, {})

    async def connect(address: ShardAddress) -> LocalConnection:
        return LocalConnection(shards[address.shard])

    async def refresh() -> ShardMap:
        return map_of(2, new)

    router = Router(connect, refresh=refresh, settings=PATIENT)
    router.update(map_of(1, old))
    router.register(MODEL, VERSION, {name: spec for name, (spec, _) in tables.items()})
    asked = lookups()
    assert_reference(tables, asked, await router.pull(MODEL, VERSION, asked, deadline_s=time.monotonic() + 60))
    assert router.counters().not_owner == 2


# -- over TCP, with one that says nothing ------------------------------------------------------------------------------


class StoppableServer(ShardServer):
    """A server that can be stopped: it takes requests in, as the sockets of a stopped process do, and says nothing."""

    held: list[tuple[Any, ...]] | None = None

    def submit(self, *request: Any) -> None:
        if self.held is None:
            super().submit(*request)
        else:
            self.held.append(request)

    def go_on(self) -> None:
        held, self.held = self.held, None
        for request in held or ():
            super().submit(*request)


class TcpShards:
    """Two shards that listen, of which the second can be stopped."""

    def __init__(self, router: Router, second: StoppableServer, owned: np.ndarray) -> None:
        self.router = router
        self.second = second
        self.owned = owned
        """Slots of the second as first owner: bool (SLOTS,)."""

    async def pull(self, asked: list[Lookup]) -> list[LookupResult]:
        return await self.router.pull(MODEL, VERSION, asked, deadline_s=time.monotonic() + 60)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def tcp_shards(folder: Path, tables: Tables, copies: int) -> AsyncIterator[TcpShards]:
    ring = Ring.even(range(2), copies)
    replicas = {(MODEL, name): copies for name in DIMS}

    async def connect(address: ShardAddress) -> Connection:
        return await Connection.connect(address.host, address.port)

    with LookupThreads() as threads:
        servers, addresses = [], []
        for number in range(2):
            shard = Shard(number)
            shard.open(MODEL, VERSION, {name: folder / name for name in DIMS})
            shard.assign(1, [ServedRanges(ring, replicas)], {(MODEL, VERSION)})
            servers.append(StoppableServer(shard, threads))
            addresses.append(ShardAddress(number, *await servers[-1].start()))
        router = Router(connect, settings=RouterSettings(hedge_floor_s=0.02, give_up_s=1.0))
        router.update(ShardMap(1, tuple(addresses), ring, replicas))
        router.register(MODEL, VERSION, {name: spec for name, (spec, _) in tables.items()})
        try:
            shards = TcpShards(router, servers[1], ring.owner_table(1)[:, 0] == 1)
            await shards.pull(lookups())
            servers[1].held = []
            yield shards
        finally:
            servers[1].go_on()
            await router.close()
            for server in servers:
                await server.close()


@pytest.mark.net
async def test_a_shard_that_stops_answering_costs_nothing_with_two_copies(written):
    folder, tables = written
    async with tcp_shards(folder, tables, copies=2) as shards:
        asked = lookups()
        assert_reference(tables, asked, await shards.pull(asked))
        counters = shards.router.counters()
        assert counters.hedges + counters.retries > 0
        await shards.until(lambda: "ejected: [1]" in repr(shards.router))
        assert_reference(tables, asked, await shards.pull(asked))
        shards.second.go_on()
        await shards.until(lambda: "ejected: []" in repr(shards.router))
        assert_reference(tables, asked, await shards.pull(asked))
        assert shards.router.counters().failed == 0


@pytest.mark.medium
@pytest.mark.net
async def test_a_shard_that_stops_answering_costs_default_vectors_with_one_copy(written):
    folder, tables = written
    defaulting = {
        name: (replace(spec, on_unavailable=OnUnavailable.DEFAULT), table) for name, (spec, table) in tables.items()
    }
    async with tcp_shards(folder, defaulting, copies=1) as shards:
        asked = lookups()
        for lookup, result in zip(asked, await shards.pull(asked), strict=True):
            slots = (positions_of(lookup.keys) >> np.uint64(48)).astype(int)
            assert result.lost == shards.owned[slots].sum() > 0
        shards.second.go_on()
        await shards.until(lambda: "ejected: []" in repr(shards.router))
        assert_reference(tables, asked, await shards.pull(asked))
