"""Pulls among shards that are late, stopped, gone, refusing: whatever they do, each key counts once, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import ConnectionLost, DeadlineExceeded, NotOwner, Unavailable
from ringpull.ps.hashing import positions_of
from ringpull.ps.ring import Ring
from ringpull.ps.spec import ALL, OnUnavailable, Pooling, Replicas, TableSpec
from ringpull.router.lookup import Lookup, LookupResult
from ringpull.router.settings import RouterSettings
from tests.reference import ReferenceTable
from tests.router.fakes import MODEL, VERSION, FakeCluster, FakeShard
from tests.router.virtual_time import run, virtual_now

NAMES = ("users", "items", "tags")
KEYS = 40
DEADLINE_S = 1.0
MODES = ("well", "late", "slow", "stopped", "gone", "breaking", "refusing")

SETTINGS = RouterSettings(hedge_floor_s=0.005, hedge_cap_s=0.02, hedge_burst_keys=100)


def counting_tables(policies: Mapping[str, OnUnavailable]) -> dict[str, tuple[TableSpec, ReferenceTable]]:
    """Tables whose rows are (1, 0, a number of the key) and whose default vector is (0, 1, 0): sums of them count."""
    default = np.array([0, 1, 0], np.float32)
    rows = {key: np.array([1, 0, key % 7 + 1], np.float32) for key in range(KEYS)}
    return {
        name: (
            TableSpec(name=name, dim=3, default=(0.0, 1.0, 0.0), on_unavailable=policies[name]),
            ReferenceTable(3, rows, default),
        )
        for name in NAMES
    }


def behave(shard: FakeShard, mode: str) -> None:
    """Make a shard behave like this from now on."""
    shard.takes_s = {"late": 0.03, "slow": 0.4}.get(mode, 0.0)
    shard.up = mode != "gone"
    if mode == "stopped":
        shard.running.clear()
    else:
        shard.running.set()
    shard.failures = {
        "breaking": [ConnectionLost("broke off")] * 50,
        "refusing": [NotOwner("not mine", epoch=1)] * 50,
    }.get(mode, [])


@st.composite
def bags(draw: st.DrawFn) -> Lookup:
    lengths = draw(st.lists(st.integers(0, 5), max_size=6))
    keys = np.array(draw(st.lists(st.integers(0, KEYS - 1), min_size=sum(lengths), max_size=sum(lengths))), np.uint64)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    pooling = draw(st.sampled_from([Pooling.SUM, Pooling.NONE]))
    return Lookup(draw(st.sampled_from(NAMES)), pooling, keys, None if pooling is Pooling.NONE else offsets)


def assert_once(lookup: Lookup, result: LookupResult, spec: TableSpec) -> None:
    """Assert that every key was answered, or lost, exactly once, and that what was answered is right."""
    if lookup.pooling is Pooling.NONE:
        assert result.found is not None
        lengths, lost = np.ones(lookup.keys.size), (~result.found).astype(np.float32)
        sums = lookup.keys % np.uint64(7) + np.uint64(1)
    else:
        assert lookup.offsets is not None
        lengths, lost = np.diff(lookup.offsets), result.values[:, 1]
        numbers = np.concatenate([[0], np.cumsum(lookup.keys % np.uint64(7) + np.uint64(1))])
        sums = numbers[lookup.offsets[1:]] - numbers[lookup.offsets[:-1]]
    np.testing.assert_array_equal(result.values[:, 0] + result.values[:, 1], lengths)
    np.testing.assert_array_equal(result.values[:, 1], lost)
    np.testing.assert_array_equal(result.values[lost == 0, 2], sums[lost == 0])
    assert result.lost == lost.sum()
    assert result.missing == 0
    if spec.on_unavailable is OnUnavailable.ERROR:
        assert result.lost == 0


def lookups_at_risk(cluster: FakeCluster, asked: list[Lookup], well: set[int]) -> set[str]:
    """Return the tables with a key of which no owner was well all the time."""
    at_risk = set()
    ring = cluster.shard_map.ring
    for lookup in asked:
        wanted = cluster.shard_map.wanted_replicas(MODEL, lookup.table)
        slots = (positions_of(lookup.keys) >> np.uint64(48)).astype(int)
        owners = [set(ring.shards)] * len(slots)
        if wanted != ALL:
            owners = [set(map(int, row)) for row in ring.owner_table(ring.ranks)[slots, :wanted]]
        if any(not each & well for each in owners):
            at_risk.add(lookup.table)
    return at_risk


@pytest.mark.medium
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_whatever_shards_do_every_key_counts_once_and_pulls_end_in_time(data):
    """Any pattern of late, stopped, gone, breaking and refusing shards, any replicas and policies."""
    count = data.draw(st.integers(1, 4), "shards")
    replicas: dict[str, Replicas] = {name: data.draw(st.sampled_from([1, 2, 3, ALL]), name) for name in NAMES}
    tables = counting_tables({name: data.draw(st.sampled_from(OnUnavailable), name) for name in NAMES})
    phases = data.draw(
        st.lists(
            st.tuples(
                st.lists(st.sampled_from(MODES), min_size=count, max_size=count),
                st.lists(st.lists(bags(), min_size=1, max_size=3), min_size=1, max_size=3),
                st.sampled_from([0.0, 0.15, 3.0]),
            ),
            min_size=1,
            max_size=3,
        ),
        "phases",
    )
    well = {shard for shard in range(count) if all(modes[shard] == "well" for modes, _, _ in phases)}

    async def main() -> None:
        ranks = max(r for r in [*replicas.values(), 1] if r != ALL)
        cluster = FakeCluster(
            Ring.even(range(count), min(ranks, count)), tables, replicas, settings=SETTINGS, clock=virtual_now
        )
        for modes, pulls, pause_s in phases:
            for shard, mode in zip(cluster.shards.values(), modes, strict=True):
                behave(shard, mode)
            await asyncio.gather(*[pull(cluster, asked) for asked in pulls])
            await asyncio.sleep(pause_s)
        await cluster.router.close()

    async def pull(cluster: FakeCluster, asked: list[Lookup]) -> None:
        at_risk = lookups_at_risk(cluster, asked, well)
        refusing = {name for name in at_risk if tables[name][0].on_unavailable is OnUnavailable.ERROR}
        deadline_s = virtual_now() + DEADLINE_S
        error: Exception | None = None
        try:
            results = await cluster.router.pull(MODEL, VERSION, asked, deadline_s=deadline_s)
        except (Unavailable, DeadlineExceeded) as caught:
            error = caught
        assert virtual_now() < deadline_s
        if error is not None:
            assert refusing, f"nobody had to be missed: {error}"
            assert isinstance(error, DeadlineExceeded) or any(name in str(error) for name in refusing)
            return
        for lookup, result in zip(asked, results, strict=True):
            assert_once(lookup, result, tables[lookup.table][0])
            assert not result.lost or lookup.table in at_risk

    run(main())
