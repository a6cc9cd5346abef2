"""The ring: its invariants and the bounds of ARCHITECTURE.md, over random histories of joins and leaves."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import SLOTS
from ringpull.ps.rank_fill import run_starts
from ringpull.ps.ring import MAX_SHARD, OwnedRange, Ring, SlotRange
from ringpull.ps.spec import ALL

MAX_SHARDS = 64


# -- what is promised ------------------------------------------------------------------------------------------------


def owners(ring: Ring) -> NDArray[np.uint16]:
    return ring.owner_table(ring.ranks)


def assert_bounds(ring: Ring) -> None:
    """Within 5% of even, and at most 128 runs, for every shard at every rank."""
    shards = np.array(ring.shards)
    for rank in range(ring.ranks):
        column = owners(ring)[:, rank]
        slots = np.bincount(column, minlength=MAX_SHARD + 1)[shards]
        assert abs(slots * len(shards) / SLOTS - 1).max() <= 0.05, f"rank {rank}: {slots}"
        runs = np.bincount(column[run_starts(column[:, None])])[shards]
        assert runs.max() <= 128, f"rank {rank}: {runs}"


def gained(old: Ring, new: Ring, replicas: int) -> NDArray[np.uint16]:
    """The owners that gained a slot of a table of this many copies, once per slot."""
    before, after = old.owner_table(replicas), new.owner_table(replicas)
    return after[~(after[:, :, None] == before[:, None, :]).any(axis=2)]


def copies_moved(old: Ring, new: Ring, replicas: int) -> float:
    """How much of a table of this many copies moves, in tables."""
    return len(gained(old, new, replicas)) / SLOTS


def copies_held(ring: Ring, shard: int, replicas: int) -> float:
    return ring.owned_mask(shard, replicas).sum() / SLOTS


def joined(ring: Ring, shard: int) -> Ring:
    """Join, and assert what a join promises, for tables of any number of copies."""
    new = ring.join(shard)
    assert new.shards == tuple(sorted((*ring.shards, shard)))
    assert_bounds(new)
    for replicas in range(1, new.ranks + 1):
        assert copies_moved(ring, new, replicas) <= 1.05 * replicas / len(new.shards)
        assert set(gained(ring, new, replicas)) == {shard}, "only the newcomer gains"
    return new


def left(ring: Ring, shard: int) -> Ring:
    """Leave, and assert what a leave promises, for tables of any number of copies."""
    new = ring.leave(shard)
    assert new.shards == tuple(other for other in ring.shards if other != shard)
    assert_bounds(new)
    for replicas in range(1, new.ranks + 1):
        assert copies_moved(ring, new, replicas) <= 1.05 * copies_held(ring, shard, replicas)
        assert set(gained(new, ring, replicas)) == {shard}, "only the leaver loses"
    return new


def walk(ring: Ring, steps: list[int], least: int, most: int) -> Ring:
    """Take random steps: an even number joins, an odd one lets the shard at this index leave."""
    newest = max(ring.shards)
    for step in steps:
        shards = ring.shards
        if len(shards) <= least or (len(shards) < most and step % 2 == 0):
            newest += 1
            ring = joined(ring, newest)
        else:
            ring = left(ring, shards[step // 2 % len(shards)])
    return ring


STEP = st.integers(0, 2 * MAX_SHARDS - 1)


# -- bounds over histories -------------------------------------------------------------------------------------------


@pytest.mark.medium
@settings(deadline=None, max_examples=15)
@given(st.integers(2, 8), st.integers(1, 3), st.lists(STEP, min_size=5, max_size=25))
def test_bounds_hold_over_histories_of_few_shards(shards, ranks, steps):
    """Few shards are the hard case: nearly every shard owns every slot, so there is little choice."""
    walk(Ring.even(range(shards), ranks), steps, least=2, most=8)


@pytest.mark.medium
@settings(deadline=None, max_examples=10)
@given(st.integers(2, MAX_SHARDS), st.integers(1, 3), st.lists(STEP, max_size=6))
def test_bounds_hold_over_histories_of_many_shards(shards, ranks, steps):
    ring = Ring.even(range(shards), ranks)
    assert_bounds(ring)
    walk(ring, steps, least=2, most=MAX_SHARDS)


@pytest.mark.medium
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_bounds_hold_while_growing_to_many_and_shrinking_to_few(ranks):
    """Every size from 2 to 24 and back, leavers in random order; the slow suite goes to 64."""
    grow_and_shrink(ranks, most=24)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_bounds_hold_while_growing_to_the_most_shards_and_shrinking_to_few(ranks):
    grow_and_shrink(ranks, most=MAX_SHARDS)


@pytest.mark.slow
@pytest.mark.parametrize(("most", "ranks"), [(4, 3), (8, 2), (8, 3), (MAX_SHARDS, 3)])
def test_bounds_hold_over_long_histories(most, ranks):
    """Fragments do not pile up, and co-owners do not drift together, in hundreds of steps."""
    rng = random.Random(most * ranks)
    walk(Ring.even(range(2), ranks), [rng.randrange(2 * MAX_SHARDS) for _ in range(400)], least=2, most=most)


def grow_and_shrink(ranks: int, most: int) -> None:
    rng = random.Random(ranks)
    ring = Ring.even(range(2), ranks)
    for shard in range(2, most):
        ring = joined(ring, shard)
    while len(ring.shards) > 2:
        ring = left(ring, rng.choice(ring.shards))


# -- several shards at once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2])
def test_growing_by_several_moves_the_least_there_is(ranks):
    """2 -> 8 one by one would move 1.22 tables per rank; what the final map needs is 0.75."""
    old = Ring.even(range(2), ranks)
    new = old.with_shards(range(8))
    assert new.shards == tuple(range(8))
    assert_bounds(new)
    assert copies_moved(old, new, 1) <= 1.05 * 0.75


def test_a_shard_that_is_replaced_moves_only_what_it_had():
    old = Ring.even(range(5), 2)
    new = old.with_shards([0, 1, 9, 3, 4])
    assert copies_moved(old, new, 2) == pytest.approx(copies_held(old, 2, 2))
    assert (owners(new) == np.where(owners(old) == 2, 9, owners(old))).all()


def test_with_shards_shrinks_and_replaces_together():
    new = Ring.even(range(6), 2).with_shards([0, 7, 3])
    assert new.shards == (0, 3, 7)
    assert_bounds(new)
    assert new.with_shards(new.shards) == new


# -- ranks -------------------------------------------------------------------------------------------------------------


def test_ranks_are_as_many_as_wanted_while_there_are_shards_enough():
    ring = Ring.even([0, 1], 3)
    assert (ring.ranks, ring.wanted) == (2, 3)
    ring = ring.join(2)
    assert ring.ranks == 3
    assert ring.leave(0).ranks == 2
    assert ring.leave(0).leave(1).ranks == 1


@pytest.mark.medium
@settings(deadline=None, max_examples=20)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 6))
def test_with_ranks_keeps_earlier_ranks_and_balances_new_ones(shards, before, after):
    old = Ring.even(range(shards), before)
    new = old.with_ranks(after)
    assert new.ranks == min(after, shards)
    kept = min(old.ranks, new.ranks)
    assert (owners(new)[:, :kept] == owners(old)[:, :kept]).all()
    assert_bounds(new)


@pytest.mark.medium
@settings(deadline=None, max_examples=10)
@given(st.integers(4, 6), st.lists(STEP, max_size=6))
def test_more_ranks_than_bounds_are_promised_for_still_make_valid_rings(ranks, steps):
    """The constructor checks what every ring must be; walking only joins and leaves. The last shard cannot leave."""
    ring = Ring.even(range(ranks), ranks)
    for newest, step in enumerate(steps, start=ranks):
        joins = step % 2 or len(ring.shards) == 1
        ring = ring.join(newest) if joins else ring.leave(ring.shards[step // 2 % len(ring.shards)])
        assert ring.ranks == min(ranks, len(ring.shards))


def test_the_same_shards_make_the_same_ring():
    assert Ring.even([3, 1, 2], 2) == Ring.even({1, 2, 3}, 2)
    assert Ring.even(range(4), 2).join(7) == Ring.even(range(4), 2).join(7)
    assert Ring.even(range(4), 2).leave(1) == Ring.even(range(4), 2).leave(1)


def test_co_owners_are_mixed():
    """A shard's slots have all others as second owners, so that its leaving burdens all alike."""
    table = owners(Ring.even(range(5), 2))
    pairs = np.zeros((5, 5))
    np.add.at(pairs, (table[:, 0], table[:, 1]), 5 * 4 / SLOTS)
    off_diagonal = pairs[~np.eye(5, dtype=bool)]
    assert off_diagonal.min() > 0.4
    assert off_diagonal.max() < 1.8


# -- reading rings -----------------------------------------------------------------------------------------------------


def small() -> Ring:
    return Ring(
        (
            OwnedRange(SlotRange(0, 100), (4, 2)),
            OwnedRange(SlotRange(100, 40_000), (2, 9)),
            OwnedRange(SlotRange(40_000, SLOTS), (9, 4)),
        )
    )


def test_owner_tables_and_masks_say_what_ranges_say():
    ring = small()
    assert ring.shards == (2, 4, 9)
    assert (ring.ranks, ring.wanted) == (2, 2)
    table = ring.owner_table(2)
    assert table.dtype == np.uint16
    assert table.shape == (SLOTS, 2)
    assert table[[0, 99, 100, 39_999, 40_000, 65_535]].tolist() == [[4, 2], [4, 2], [2, 9], [2, 9], [9, 4], [9, 4]]
    assert ring.owner_table(1).shape == (SLOTS, 1)
    assert ring.owner_table(7).shape == (SLOTS, 2)
    assert ring.owned_mask(4, 1).nonzero()[0].tolist() == list(range(100))
    assert ring.owned_mask(4, 2).sum() == 100 + SLOTS - 40_000
    assert ring.owned_mask(9, ALL).dtype == np.uint8
    assert ring.owned_mask(9, ALL).all()
    assert not ring.owned_mask(5, ALL).any()
    assert not ring.owned_mask(5, 2).any()


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 9), st.integers(1, 3))
def test_a_ring_survives_json(shards, ranks):
    ring = Ring.even(range(shards), ranks)
    assert Ring.from_dict(json.loads(json.dumps(ring.to_dict()))) == ring


def test_repr_says_how_large_a_ring_is():
    assert repr(small()) == "<Ring [3 shards, 2 ranks, 3 ranges]>"


# -- what is no ring ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ([], "must cover"),
        ([[0, 100, [0]]], "end at slot 100"),
        ([[0, 100, [0]], [200, SLOTS, [0]]], "begins at slot 200; the one before ends at 100"),
        ([[0, 200, [0]], [100, SLOTS, [0]]], "begins at slot 100"),
        ([[0, SLOTS, []]], "owners"),
        ([[0, SLOTS, [0, 0]]], "different shards"),
        ([[0, 9, [0]], [9, SLOTS, [0, 1]]], "every range must list 1"),
        ([[0, SLOTS, [65_535]]], "shard ids are 0..65534"),
        ([[0, SLOTS, [-1]]], "shard ids"),
        ([[0, SLOTS + 1, [0]]], "within"),
        ([[5, 5, [0]]], "not empty"),
        ([[0, SLOTS, ["0"]]], "not an integer"),
        ([[0, SLOTS]], "ring: "),
        (7, "ring: "),
    ],
)
def test_ranges_that_are_no_ring_are_refused(ranges, reason):
    with pytest.raises(InvalidInput, match=reason):
        Ring.from_dict({"wanted": 1, "ranges": ranges})


def test_fields_that_are_missing_or_disagree_are_named():
    with pytest.raises(InvalidInput, match="'ranges' is missing"):
        Ring.from_dict({"wanted": 1})
    with pytest.raises(InvalidInput, match="2 owners are wanted of 2 shards, but ranges list 1"):
        Ring.from_dict({"wanted": 2, "ranges": [[0, 9, [0]], [9, SLOTS, [1]]]})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Ring.even([]), "at least one shard"),
        (lambda: Ring.even([1, 1]), "named twice"),
        (lambda: Ring.even([MAX_SHARD + 1]), "must be 0..65534"),
        (lambda: Ring.even([0], 0), "at least 1"),
        (lambda: Ring.even([0]).with_ranks(0), "at least 1"),
        (lambda: Ring.even([0]).join(0), "named twice"),
        (lambda: Ring.even([0, 1]).leave(5), "not in the ring"),
        (lambda: Ring.even([0]).leave(0), "the last"),
        (lambda: Ring.even([0]).with_shards([]), "at least one shard"),
        (lambda: Ring.even([0]).owner_table(0), "at least 1"),
    ],
)
def test_changes_that_make_no_ring_are_refused(make, reason):
    with pytest.raises(InvalidInput, match=reason):
        make()
