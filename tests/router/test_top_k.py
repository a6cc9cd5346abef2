"""Top-k over real shards: whatever the shards, copies, moves and losses, the bits of the slow reference."""

from __future__ import annotations

import asyncio
import random
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.ps.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotFound,
    ProtocolError,
    Unavailable,
)
from ringpull.ps.hashing import SLOT_SHIFT, keys_of_strings, positions_of
from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.ps.spec import ALL, OnUnavailable, Replicas, RowType, TableSpec
from ringpull.ps.store.base import BadBlock
from ringpull.ps.store.writer import TableWriter
from ringpull.ps.top_k_messages import MAX_K, MAX_LISTED_KEYS, MAX_QUERIES, TopKReply, TopKRequest
from ringpull.ps.wire.messages import Reply, Request, StatisticsRequest
from ringpull.router.client import Router
from ringpull.router.settings import RouterSettings
from ringpull.router.shard_map import ShardAddress, ShardMap
from ringpull.router.top_k import KeyLists, TopKQuery, TopKResult
from ringpull.router.top_k_merge import merge_bytes, merged
from tests.ps.tables import WrittenTable, write_table
from tests.reference import ReferenceTable
from tests.router.fakes import PATIENT

pytestmark = pytest.mark.medium

MODEL, VERSION = "model", 1
DIM = 5


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    """600 rows, a third of which have the scores of others."""
    folder = tmp_path_factory.mktemp("top-k") / "items"
    rng = np.random.default_rng(1)
    keys = rng.permutation(10_000)[:600].astype(np.uint64)
    rows = rng.normal(size=(600, DIM)).astype(np.float32)
    rows[400:] = rows[:200]
    with TableWriter(folder, TableSpec(name="items", dim=DIM)) as writer:
        writer.add(keys, rows)
        writer.finish()
    return WrittenTable(folder, keys, rows, ReferenceTable.from_arrays(keys, rows))


@dataclass
class Cluster:
    """Shards of this process, and a router over them."""

    folders: Mapping[int, Path]
    """Folder of the table, by version."""
    ring: Ring
    replicas: Replicas = 1
    on_unavailable: OnUnavailable = OnUnavailable.ERROR
    settings: RouterSettings = PATIENT
    shards: dict[int, Shard] = field(default_factory=dict)
    down: set[int] = field(default_factory=set)
    stopped: set[int] = field(default_factory=set)
    """Shards that say nothing, to no ping either."""
    slow: set[int] = field(default_factory=set)
    """Shards that answer pings only."""
    lying: dict[int, Callable[[TopKReply], TopKReply]] = field(default_factory=dict)
    asked: list[tuple[int, TopKRequest]] = field(default_factory=list)
    epoch: int = 1

    def __post_init__(self) -> None:
        self.router = Router(self.connect, refresh=self.refresh, settings=self.settings, rng=random.Random(1))
        self.assign(self.ring)
        self.router.update(self.map)
        spec = next(iter(self.shards.values())).bases(MODEL, VERSION)["items"].spec
        for version in self.folders:
            self.router.register(MODEL, version, {"items": replace(spec, on_unavailable=self.on_unavailable)})

    @property
    def map(self) -> ShardMap:
        addresses = tuple(ShardAddress(shard, "local", shard) for shard in self.ring.shards)
        return ShardMap(self.epoch, addresses, self.ring, self.wanted)

    @property
    def wanted(self) -> Mapping[tuple[str, str], Replicas]:
        return {(MODEL, "items"): self.replicas}

    def assign(self, *rings: Ring) -> None:
        """Have all shards answer for what any of these rings gives them; the last is that of the map."""
        self.ring = rings[-1]
        for number in {shard for ring in rings for shard in ring.shards}:
            if number not in self.shards:
                self.shards[number] = Shard(number)
                for version, folder in self.folders.items():
                    self.shards[number].open(MODEL, version, {"items": folder})
        for shard in self.shards.values():
            served = [ServedRanges(ring, self.wanted) for ring in rings]
            shard.assign(self.epoch, served, [(MODEL, version) for version in self.folders])

    async def connect(self, address: ShardAddress) -> Any:
        if address.shard in self.down:
            raise Unavailable(f"shard {address.shard} cannot be reached")
        return Connection(self, address.shard)

    async def refresh(self) -> ShardMap:
        return self.map

    async def top_k(self, query: TopKQuery, version: int = VERSION, seconds: float = 60.0) -> TopKResult:
        return await self.router.top_k(MODEL, version, query, deadline_s=time.monotonic() + seconds)

    def owned(self, shard: int) -> np.ndarray:
        return self.ring.owned_mask(shard, 1) != 0


@dataclass
class Connection:
    cluster: Cluster
    shard: int
    closed: bool = False

    async def request(self, message: Request, *, deadline_s: float) -> Reply:
        cluster, shard = self.cluster, self.cluster.shards[self.shard]
        if self.shard in cluster.down:
            self.closed = True
            raise ConnectionLost(f"shard {self.shard} is gone")
        quiet = self.shard in cluster.stopped
        if isinstance(message, StatisticsRequest) and not quiet:
            return shard.statistics()
        if isinstance(message, TopKRequest):
            cluster.asked.append((self.shard, message))
            quiet = quiet or self.shard in cluster.slow
        if quiet:
            await asyncio.sleep(max(0.0, deadline_s - time.monotonic()))
            raise DeadlineExceeded(f"shard {self.shard} did not answer in time")
        assert isinstance(message, TopKRequest)
        reply = shard.top_k(message)
        return cluster.lying[self.shard](reply) if self.shard in cluster.lying else reply

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def cluster_of(items: WrittenTable, ring: Ring, **options: Any) -> AsyncIterator[Cluster]:
    cluster = Cluster({VERSION: items.folder}, ring, **options)
    try:
        yield cluster
    finally:
        await cluster.router.close()


def query_of(
    count: int = 3,
    k: int = 12,
    *,
    exclude: Sequence[np.ndarray] | None = None,
    among: Sequence[np.ndarray] | None = None,
    **options: Any,
) -> TopKQuery:
    vectors = np.random.default_rng(7).normal(size=(count, DIM)).astype(np.float32)
    lists = [None if each is None else KeyLists.of(each) for each in (exclude, among)]
    return TopKQuery("items", vectors, k, exclude=lists[0], among=lists[1], **options)


def expected_of(
    table: WrittenTable, query: TopKQuery, slots: np.ndarray | None = None
) -> list[list[tuple[int, float]]]:
    """What the reference answers, of the rows in some slots: bool (SLOTS,)."""
    reference = table.reference
    assert isinstance(reference, ReferenceTable)
    if slots is not None:
        kept = slots[(positions_of(table.keys) >> np.uint64(SLOT_SHIFT)).astype(int)]
        reference = ReferenceTable.from_arrays(table.keys[kept], table.rows[kept])

    def listed(lists: KeyLists | None, query: int) -> list[int] | None:
        return None if lists is None else lists.keys[lists.offsets[query] : lists.offsets[query + 1]].tolist()

    return [
        reference.top_k(
            vector,
            query.k,
            cosine=query.metric == "cosine",
            exclude=listed(query.exclude, i) or (),
            among=listed(query.among, i),
        )
        for i, vector in enumerate(query.vectors)
    ]


def found(result: TopKResult) -> list[list[tuple[int, float]]]:
    k = result.keys.shape[1]
    for query, count in enumerate(result.counts.tolist()):
        assert (result.keys[query, count:] == 0).all()
        assert (result.scores[query, count:] == -np.inf).all()
        assert 0 <= count <= k
    return [
        list(zip(keys[:count].tolist(), scores[:count].tolist(), strict=True))
        for keys, scores, count in zip(result.keys, result.scores, result.counts.tolist(), strict=True)
    ]


@pytest.mark.parametrize("replicas", [1, 2, ALL])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
async def test_any_number_of_shards_and_copies_gives_the_same_bits(items, count: int, replicas: Replicas) -> None:
    ring = Ring.even(range(count), 1 if replicas == ALL else replicas)
    rng = np.random.default_rng(3)
    lists = [np.append(rng.choice(items.keys, n), np.uint64(99_999)) for n in (5, 60, 0)]
    async with cluster_of(items, ring, replicas=replicas) as cluster:
        for options in ({}, {"metric": "cosine"}, {"exclude": lists}, {"among": lists}, {"count": 9, "k": 700}):
            query = query_of(**options)
            result = await cluster.top_k(query)
            assert found(result) == expected_of(items, query)
            assert (result.lost, result.epoch) == (0, 1)
        assert {shard for shard, _ in cluster.asked} == set(range(count))
        assert cluster.router.counters().messages == len(cluster.asked)


async def test_listed_keys_go_only_to_the_shards_that_have_their_slots(items) -> None:
    async with cluster_of(items, Ring.even(range(3))) as cluster:
        one = items.keys[:1]
        slot = int(positions_of(one)[0] >> np.uint64(SLOT_SHIFT))
        cluster.down = {shard for shard in range(3) if not cluster.owned(shard)[slot]}
        query = query_of(2, among=[one, one[:0]])
        assert found(await cluster.top_k(query)) == expected_of(items, query)
        [(_, request)] = cluster.asked
        assert request.positions.tolist() == positions_of(one).tolist()
        query = query_of(2, among=[one[:0], one[:0]])
        assert found(await cluster.top_k(query)) == [[], []]
        assert len(cluster.asked) == 1


async def test_string_keys_are_their_hashes(tmp_path: Path) -> None:
    names = [f"item-{i}" for i in range(50)]
    keys, rows = keys_of_strings(names), np.random.default_rng(0).normal(size=(50, DIM)).astype(np.float32)
    with TableWriter(tmp_path / "items", TableSpec(name="items", dim=DIM)) as writer:
        writer.add(keys, rows)
        writer.finish()
    table = WrittenTable(tmp_path / "items", keys, rows, ReferenceTable.from_arrays(keys, rows))
    async with cluster_of(table, Ring.even(range(2))) as cluster:
        query = query_of(1, exclude=[keys_of_strings(names[:30])])
        result = await cluster.top_k(query)
        assert found(result) == expected_of(table, query)
        assert set(result.keys[0].tolist()) <= set(keys[30:].tolist())


async def test_each_version_answers_for_itself(items, tmp_path: Path) -> None:
    other = write_table(tmp_path / "items", rows=100, dim=DIM, seed=9)
    cluster = Cluster({1: items.folder, 2: other.folder}, Ring.even(range(3)))
    query = query_of()
    assert found(await cluster.top_k(query, 1)) == expected_of(items, query)
    assert found(await cluster.top_k(query, 2)) == expected_of(other, query)
    with pytest.raises(NotFound, match="model/3 is not registered"):
        await cluster.top_k(query, 3)
    await cluster.router.close()


async def test_content_of_another_identity_is_not_taken(items, tmp_path: Path) -> None:
    other = write_table(tmp_path / "items", rows=100, dim=DIM, seed=9)
    async with cluster_of(items, Ring.even(range(2), 2), replicas=2) as cluster:
        base = cluster.shards[0].bases(MODEL, VERSION)
        for shard, bases in ((0, base), (1, Cluster({1: other.folder}, Ring.even([0])).shards[0].bases(MODEL, 1))):
            cluster.shards[shard].retire(MODEL, VERSION)
            cluster.shards[shard].install(MODEL, VERSION, bases, identity=f"{shard + 1:016x}")
        cluster.router.register(MODEL, VERSION, {"items": base["items"].spec}, identity=f"{1:016x}")
        query = query_of()
        assert found(await cluster.top_k(query)) == expected_of(items, query)


# -- moves -------------------------------------------------------------------------------------------------------------


async def test_while_a_range_moves_both_owners_answer_by_either_map(items) -> None:
    old = Ring.even(range(2))
    new = old.join(2)
    query = query_of()
    async with cluster_of(items, old) as cluster:
        cluster.epoch = 2
        cluster.assign(old, new)
        assert found(await cluster.top_k(query)) == expected_of(items, query)
        assert cluster.router.counters().not_owner == 0
        cluster.router.update(cluster.map)
        result = await cluster.top_k(query)
        assert (found(result), result.epoch) == (expected_of(items, query), 2)
        assert {shard for shard, _ in cluster.asked[-3:]} == {0, 1, 2}


async def test_shards_ahead_of_the_routers_map_are_found_by_refreshing(items) -> None:
    """Only what was refused is asked again, and all of it is one answer."""
    old = Ring.even(range(3))
    query = query_of()
    async with cluster_of(items, old) as cluster:
        cluster.epoch = 2
        cluster.assign(old.leave(2))
        cluster.ring = old.leave(2)
        cluster.shards[2].assign(2, [ServedRanges(cluster.ring, {})], [(MODEL, VERSION)])
        result = await cluster.top_k(query)
        assert (found(result), result.epoch, result.lost) == (expected_of(items, query), 2, 0)
        assert cluster.router.counters().not_owner == 1
        assert len([shard for shard, _ in cluster.asked if shard == 2]) == 1


# -- losses ------------------------------------------------------------------------------------------------------------


async def test_a_dead_shard_costs_nothing_with_two_copies(items) -> None:
    query = query_of(exclude=[items.keys[:50]] * 3)
    async with cluster_of(items, Ring.even(range(3), 2), replicas=2) as cluster:
        cluster.down = {1}
        for _ in range(2):
            result = await cluster.top_k(query)
            assert (found(result), result.lost) == (expected_of(items, query), 0)


async def test_a_dead_shard_of_one_copy_is_an_error_or_counted(items) -> None:
    query = query_of()
    async with cluster_of(items, Ring.even(range(3))) as cluster:
        cluster.down = {1}
        with pytest.raises(Unavailable, match="no live shard could answer for slots of items"):
            await cluster.top_k(query)
    async with cluster_of(items, Ring.even(range(3)), on_unavailable=OnUnavailable.DEFAULT) as cluster:
        cluster.down = {1}
        result = await cluster.top_k(query)
        assert result.lost == cluster.owned(1).sum() > 0
        assert found(result) == expected_of(items, query, ~cluster.owned(1))


@pytest.mark.parametrize("replicas", [2, ALL])
async def test_damaged_slots_are_answered_by_other_copies(items, replicas: Replicas) -> None:
    query = query_of()
    async with cluster_of(items, Ring.even(range(3), 1 if replicas == ALL else 2), replicas=replicas) as cluster:
        key = (MODEL, VERSION, "items")
        base = cluster.shards[0].base(key)
        assert base is not None
        cluster.shards[0].quarantine(key, base, [BadBlock(0, 0, 1, (0, 9000)), BadBlock(1, 0, 1, (60_000, 60_010))])
        result = await cluster.top_k(query)
        assert (found(result), result.lost) == (expected_of(items, query), 0)


async def test_damaged_slots_of_one_copy_are_lost_alone(items) -> None:
    query = query_of()
    async with cluster_of(items, Ring.even(range(3)), on_unavailable=OnUnavailable.DEFAULT) as cluster:
        key = (MODEL, VERSION, "items")
        base, slots = cluster.shards[0].base(key), np.flatnonzero(cluster.owned(0))
        assert base is not None
        begin, end = int(slots[10]), int(slots[10]) + 500
        cluster.shards[0].quarantine(key, base, [BadBlock(0, 0, 1, (begin, end))])
        result = await cluster.top_k(query)
        kept = np.ones(65_536, bool)
        kept[begin:end] = False
        assert result.lost == (cluster.owned(0) & ~kept).sum() > 0
        kept |= ~cluster.owned(0)
        assert found(result) == expected_of(items, query, kept)


IMPATIENT = RouterSettings(eject_after_s=0.02, give_up_s=0.05, ping_timeout_s=0.05, hedge_floor_s=0.005)


async def test_a_slow_shard_is_hedged_and_not_ejected(items, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpull.router.settings.SCAN_CAP_S", 0.01)
    settings = replace(IMPATIENT, hedge_cap_s=0.01, hedge_share=1.0)
    query = query_of()
    async with cluster_of(items, Ring.even(range(3), 2), replicas=2, settings=settings) as cluster:
        cluster.slow = {2}
        for _ in range(3):
            assert found(await cluster.top_k(query)) == expected_of(items, query)
        counters = cluster.router.counters()
        assert counters.hedges_won == counters.hedges > 0
        assert counters.ejections == 0


async def test_a_silent_shard_is_ejected_and_its_slots_asked_of_others(items, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpull.router.settings.SCAN_CAP_S", 0.01)
    settings = replace(IMPATIENT, hedge_cap_s=0.01, hedge_share=0.0)
    query = query_of()
    async with cluster_of(items, Ring.even(range(3), 2), replicas=2, settings=settings) as cluster:
        cluster.stopped = {2}
        assert found(await cluster.top_k(query)) == expected_of(items, query)
        counters = cluster.router.counters()
        assert (counters.hedges, counters.ejections) == (0, 1)


@pytest.mark.parametrize(
    "lie",
    [
        lambda reply: replace(reply, positions=reply.positions ^ np.uint64(1 << 63)),
        lambda reply: None,
    ],
)
async def test_a_shard_that_answers_something_else_is_not_believed(items, lie: Any) -> None:
    async with cluster_of(items, Ring.even(range(2))) as cluster:
        cluster.lying = {1: lie}
        with pytest.raises((ProtocolError, Unavailable), match="shard 1 answered a top-k with"):
            await cluster.top_k(query_of())


# -- what callers get wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"table": "no"}, NotFound, "has no table 'no'; it has"),
        ({"vectors": np.ones((1, DIM + 1), np.float32)}, InvalidInput, r"vectors are float32 \(1, 6\)"),
        ({"vectors": np.ones((1, DIM))}, InvalidInput, "vectors are float64"),
        ({"vectors": np.ones(DIM, np.float32)}, InvalidInput, r"vectors are float32 \(5,\)"),
        ({"vectors": np.full((1, DIM), np.inf, np.float32)}, InvalidInput, "must be finite"),
        ({"metric": "l2"}, InvalidInput, "metric is 'l2'; it must be one of dot, cosine"),
        ({"k": 0}, InvalidInput, "k is 0"),
        ({"k": True}, InvalidInput, "k is True"),
        ({"k": MAX_K + 1}, LimitExceeded, f"k is {MAX_K + 1}; the limit is {MAX_K}"),
        ({"vectors": np.ones((MAX_QUERIES + 1, DIM), np.float32)}, LimitExceeded, "65 queries in one call"),
        ({"exclude": KeyLists.of([])}, InvalidInput, "offsets of keys to exclude are"),
        ({"exclude": KeyLists(np.ones(2, np.int64), np.array([0, 2]))}, InvalidInput, "keys to exclude are int64"),  # type: ignore[arg-type]
        ({"among": KeyLists(np.ones(2, np.uint64), np.array([0, 3]))}, InvalidInput, "must ascend from 0 to 2"),
        (
            {"among": KeyLists.of([np.zeros(MAX_LISTED_KEYS + 1, np.uint64)])},
            LimitExceeded,
            f"the limit is {MAX_LISTED_KEYS}",
        ),
    ],
)
async def test_what_cannot_be_asked_is_refused_before_any_shard_is(items, change, error, reason) -> None:
    async with cluster_of(items, Ring.even(range(2))) as cluster:
        with pytest.raises(error, match=reason):
            await cluster.top_k(replace(query_of(1), **change))
        assert not cluster.asked
        assert cluster.router.counters().failed == 1


async def test_rows_of_bytes_and_past_deadlines_are_refused(items) -> None:
    async with cluster_of(items, Ring.even(range(2))) as cluster:
        with pytest.raises(DeadlineExceeded):
            await cluster.top_k(query_of(), seconds=-1.0)
        cluster.router.register(MODEL, 7, {"items": TableSpec(name="items", dim=0, row_type=RowType.BYTES)})
        with pytest.raises(InvalidInput, match="rows of bytes"):
            await cluster.top_k(query_of(), 7)
        assert not cluster.asked


async def test_no_query_is_an_empty_answer(items) -> None:
    async with cluster_of(items, Ring.even(range(2))) as cluster:
        result = await cluster.top_k(query_of(0))
        assert (result.keys.shape, result.scores.shape, result.counts.shape) == ((0, 12), (0, 12), (0,))


def test_a_merge_of_nothing_has_no_rows() -> None:
    result = merged([], 2, 3, lost=4, epoch=5)
    assert (found(result), result.lost, result.epoch) == ([[], []], 4, 5)


def test_replies_take_no_more_memory_than_is_said_until_they_are_merged() -> None:
    shards, queries, k = 32, 4, 500

    def reply(shard: int) -> TopKReply:
        scores = np.sort(np.random.default_rng(shard).standard_normal((queries, k), np.float32))[:, ::-1]
        positions = np.arange(queries * k, dtype=np.uint64) + np.uint64(shard * queries * k)
        return TopKReply(np.full(queries, k, np.uint32), positions, scores.reshape(-1).copy())

    merged([reply(0)], queries, k, lost=0, epoch=1)  # compiles
    tracemalloc.start()
    try:
        result = merged([reply(shard) for shard in range(shards)], queries, k, lost=0, epoch=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    own = result.keys.nbytes + result.scores.nbytes
    said = merge_bytes(shards, 10**9, queries, k)
    assert 0.8 * said < peak < said + own + 100_000
    assert merge_bytes(shards, 700, queries, k) == merge_bytes(1, 10**9, queries, 700)
