"""Cutting a batch into parts: every key in exactly one, at an owner, in order; and what a batch refuses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, keys_of, positions_of
from ringpull.ps.pull_messages import Op, SubLookup
from ringpull.ps.ring import Ring
from ringpull.ps.spec import Pooling
from ringpull.router.batch import BAGS, KEYS, OP, ROWS, WEIGHTED, Batch
from ringpull.router.here import Here, layer_id
from ringpull.router.lookup import Lookup
from ringpull.router.partition import STICKINESS_KEYS, Part, partition
from ringpull.router.replicas import DOWN, Loads, Placement, least_loaded
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.router.cases import LISTS, lookups, some_lookups


def placement(shards: int, ranks: int = 1) -> Placement:
    addresses = tuple(ShardAddress(shard, "host", shard) for shard in range(shards))
    return Placement(ShardMap(1, addresses, Ring.even(range(shards), ranks), {}))


def cut(batch: Batch, place: Placement, replicas: int = 1, down: Sequence[int] = (), whole: int = 0) -> list[Part]:
    waiting = Loads().waiting(place, [place.addresses[shard] for shard in down])
    return partition(batch, np.full(len(batch.tables), replicas), whole, place.owners, waiting)


Entry = tuple[int, int, int, float]
"""(look-up, target, key, weight)."""


def entries(batch: Batch) -> list[Entry]:
    """What a batch says, key by key, read slowly."""
    keys = (keys_of(batch.keys) if batch.hashed else batch.keys).tolist()
    listed: list[Entry] = []
    key = offset = weight = vector = 0
    for index, row in enumerate(batch.shape.tolist()):
        weights = batch.weights[weight : weight + row[KEYS]].tolist() if row[WEIGHTED] else [1.0] * row[KEYS]
        weight += row[KEYS] if row[WEIGHTED] else 0
        if row[OP] == ROWS:
            bags = list(range(row[KEYS]))
            vectors = row[KEYS]
        else:
            offsets = batch.offsets[offset : offset + row[BAGS] + 1]
            bags = np.repeat(np.arange(row[BAGS]), np.diff(offsets)).tolist()
            vectors = row[BAGS]
            offset += row[BAGS] + 1
        targets = batch.targets[vector : vector + vectors].tolist() if batch.targets.size else list(range(vectors))
        vector += vectors
        for i, bag in enumerate(bags):
            listed.append((index, targets[bag], keys[key + i], weights[i]))
        key += row[KEYS]
    return listed


@pytest.mark.medium
@settings(deadline=None)
@given(st.lists(lookups(["a", "b"]), max_size=5), st.integers(1, 8), st.integers(1, 3), st.integers(0, 7))
def test_parts_hold_every_key_once_at_an_owner_in_order(asked, shards, replicas, dead):
    place = placement(shards, replicas)
    batch = Batch.of(asked)
    parts = cut(batch, place, replicas, down=[dead] if dead < shards else [])
    assert [part.shard for part in parts if part.shard is not None] == sorted({p.shard for p in parts} - {None})
    said = entries(batch)
    assert sorted(entry for part in parts for entry in entries(part.as_batch())) == sorted(said)
    for part in parts:
        inside = entries(part.as_batch())
        assert inside == [entry for entry in said if entry in inside], "order is kept"
        owners = place.owners[(part.positions >> np.uint64(SLOT_SHIFT)).astype(int), :replicas]
        if part.shard is None:
            assert (owners == dead).all()
        else:
            assert (owners == part.shard).any(axis=1).all()
            assert part.shard != dead


@pytest.mark.medium
@settings(deadline=None)
@given(st.lists(lookups(["a", "b"]), max_size=5), st.integers(1, 4), st.integers(1, 8))
def test_a_part_can_be_cut_again_and_says_the_same(asked, shards_before, shards_after):
    """What was refused under one map is routed under the next; targets and weights go with the keys."""
    batch = Batch.of(asked)
    again = [
        second
        for first in cut(batch, placement(shards_before))
        for second in cut(first.as_batch(), placement(shards_after))
    ]
    assert sorted(entry for part in again for entry in entries(part.as_batch())) == sorted(entries(batch))


def test_a_request_lists_the_lookups_a_part_has_keys_of():
    """Shard 1 of 2 gets a key of the first look-up's second bag, nothing of the second look-up, a row of the third."""
    place = placement(2)
    slots = positions_of(np.arange(100, dtype=np.uint64)) >> np.uint64(SLOT_SHIFT)
    at = place.owners[slots.astype(int), 0]
    ours, others = np.flatnonzero(at == 1).astype(np.uint64), np.flatnonzero(at == 0).astype(np.uint64)
    asked = [
        Lookup(
            "a",
            Pooling.SUM,
            np.array([others[0], others[1], ours[0]], np.uint64),
            np.array([0, 1, 3, 3]),
            np.array([1, 2, 3], np.float32),
        ),
        Lookup("b", Pooling.MAX, others[:2], np.array([0, 2])),
        Lookup("c", Pooling.NONE, np.array([others[3], ours[1]], np.uint64)),
    ]
    _, part = cut(Batch.of(asked), place)
    request = part.request("m", 4, 9)
    assert (request.model, request.version, request.epoch) == ("m", 4, 9)
    assert request.lookups == (SubLookup("a", Op.SUM, 1, 1, True), SubLookup("c", Op.ROWS, 1, 0, False))
    assert request.positions.tolist() == positions_of(ours[:2]).tolist()
    assert (request.lengths.dtype, request.lengths.tolist()) == (np.uint32, [1])
    assert (request.weights.dtype, request.weights.tolist()) == (np.float32, [3.0])
    assert part.targets.tolist() == [1, 1]
    assert part.lookups() == [0, 2]


def test_a_mean_travels_as_a_sum():
    batch = Batch.of([Lookup("a", Pooling.MEAN, np.arange(4, dtype=np.uint64), np.array([0, 4]))])
    assert cut(batch, placement(1))[0].request("m", 1, 1).lookups == (SubLookup("a", Op.SUM, 4, 1, False),)


def test_no_lookups_and_empty_ones_make_no_parts():
    nothing = Lookup("a", Pooling.SUM, np.empty(0, np.uint64), np.zeros(5, np.int64))
    assert cut(Batch.of([]), placement(3)) == []
    assert cut(Batch.of([nothing, nothing]), placement(3)) == []


# -- whom a key goes to ------------------------------------------------------------------------------------------------


def test_an_idle_cluster_is_asked_by_first_owners():
    place = placement(4, 2)
    keys = np.arange(STICKINESS_KEYS, dtype=np.uint64)
    for part in cut(Batch.of([Lookup("a", Pooling.NONE, keys)]), place, replicas=2):
        assert (place.owners[(part.positions >> np.uint64(SLOT_SHIFT)).astype(int), 0] == part.shard).all()


def test_keys_go_to_the_owner_with_fewer_keys_waiting():
    place = placement(2, 2)
    loads = Loads()
    loads.add(0, 10_000)
    waiting = loads.waiting(place, [])
    batch = Batch.of([Lookup("a", Pooling.NONE, np.arange(500, dtype=np.uint64))])
    (part,) = partition(batch, np.array([2]), 0, place.owners, waiting)
    assert part.shard == 1
    assert waiting.tolist()[:2] == [10_000, 500]
    loads.add(0, -10_000)
    assert loads.waiting(place, []).tolist() == [0, 0, DOWN]


def test_tables_on_all_shards_go_to_the_least_loaded_that_is_up():
    place = placement(3)
    loads = Loads()
    loads.add(0, 5)
    assert least_loaded(loads.waiting(place, [])) == 1
    assert least_loaded(loads.waiting(place, [place.addresses[1]])) == 2
    waiting = loads.waiting(place, place.addresses.values())
    assert least_loaded(waiting) == 3, "nobody"
    batch = Batch.of([Lookup("a", Pooling.NONE, np.arange(9, dtype=np.uint64))])
    (part,) = partition(batch, np.array([0]), 3, place.owners, waiting)
    assert part.shard is None


# -- what is refused ---------------------------------------------------------------------------------------------------

THREE = np.arange(3, dtype=np.uint64)


@pytest.mark.parametrize(
    ("lookup", "reason"),
    [
        (Lookup("a", Pooling.NONE, np.arange(3)), r"keys are int64 \(3,\)"),
        (Lookup("a", Pooling.NONE, THREE[None]), r"keys are uint64 \(1, 3\)"),
        (Lookup("a", Pooling.SUM, THREE), "needs offsets"),
        (Lookup("a", Pooling.SUM, THREE, np.array([0, 3], np.int32)), "offsets are int32"),
        (Lookup("a", Pooling.SUM, THREE, np.empty(0, np.int64)), r"offsets are int64 \(0,\)"),
        (Lookup("a", Pooling.SUM, THREE, np.array([0, 3]), np.ones(3)), "weights are float64"),
        (Lookup("a", Pooling.SUM, THREE, np.array([0, 3]), np.ones(2, np.float32)), r"weights are float32 \(2,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(lookup, reason):
    with pytest.raises(InvalidInput, match=reason):
        Batch.of([lookup])


@pytest.mark.parametrize(
    "lookup",
    [
        Lookup("a", Pooling.MEAN, THREE, np.array([0, 3]), np.ones(3, np.float32)),
        Lookup("a", Pooling.NONE, THREE, None, np.ones(3, np.float32)),
    ],
)
def test_weights_without_a_sum_were_refused_with_the_manifest(lookup):
    with pytest.raises(AssertionError, match="look-up in a is weighted"):
        Batch.of([lookup])


@pytest.mark.parametrize("offsets", [[1, 3], [0, 2], [0, 4], [0, 2, 1, 3], [0, -1, 3], [0, 5, 3], [3], [-1, 3]])
def test_offsets_that_do_not_add_up_are_refused_by_table(offsets):
    good = Lookup("good", Pooling.SUM, THREE, np.array([0, 3]))
    bad = Lookup("bad", Pooling.MEAN, THREE, np.array(offsets))
    with pytest.raises(InvalidInput, match="look-up in bad: offsets must ascend from 0 to the number of keys, 3"):
        cut(Batch.of([good, bad, good]), placement(2))


@pytest.mark.parametrize("seed", range(6))
def test_what_is_all_here_is_cut_as_one_part_like_any_other(seed):
    """The short way for a batch of one layer gives what the long one gives, of a batch and of a part of one."""
    batch = Batch.of(some_lookups(["users", LISTS], 30, seed))
    count = len(batch.tables)
    whole, some = np.zeros(count, np.int64), np.full(count, -1, np.int64)
    every, owners, waiting = np.ones((1, SLOTS), np.uint8), np.zeros((SLOTS, 1), np.uint16), np.zeros(2, np.int64)
    for each in (batch, *[part.as_batch() for part in cut(batch, placement(3))]):
        ones = np.ones(count, np.int64)
        [short] = partition(each, ones, 0, owners, waiting, Here(whole, some, every, 1))
        [long] = partition(each, ones, 0, owners, waiting, Here(some, np.zeros(count, np.int64), every, 1))
        assert (short.shard, long.shard) == (layer_id(0), layer_id(0))
        for name in ("keys", "bags", "positions", "lengths", "weights", "targets"):
            first, second = getattr(short, name), getattr(long, name)
            assert first.dtype == second.dtype
            np.testing.assert_array_equal(first, second)
    assert not waiting.any()


@pytest.mark.parametrize("layers", [1, 3])
def test_every_key_goes_to_its_layer_or_else_to_an_owner(layers):
    rng = np.random.default_rng(layers)
    batch = Batch.of(some_lookups(["users"], 60, layers))
    count = len(batch.tables)
    mask = rng.integers(0, layers + 1, SLOTS).astype(np.uint8)
    ring, waiting = Ring.even(range(3)), np.array([0, 0, 0, DOWN])
    here = Here(np.full(count, -1, np.int64), np.zeros(count, np.int64), mask[None], layers)
    owners = ring.owner_table(1)
    parts = partition(batch, np.ones(count, np.int64), 0, owners, waiting, here)
    assert sum(part.size for part in parts) == batch.keys.size
    for part in parts:
        slots = (part.positions >> np.uint64(SLOT_SHIFT)).astype(np.int64)
        if part.shard >= 0:
            assert (mask[slots] == 0).all()
            assert (owners[slots, 0] == part.shard).all()
        else:
            assert (layer_id(0) - part.shard + 1 == mask[slots]).all()
    assert waiting[:3].sum() == sum(part.size for part in parts if part.shard >= 0)
