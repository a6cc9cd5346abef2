"""Directories against a dict: any order of puts, full buckets, the ends of the ring, keys chosen to lie together."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import InvalidInput, LimitExceeded
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.store.newer.directory import LAST_POSITION, Directory, DirectoryFull, upserted
from ringpull.ps.store.newer.probe import PLACE_BITS, PLACES, PROBE

EVERYTHING = SlotRange(0, SLOTS)


def u64(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.uint64)


def held(directory: Directory) -> dict[int, int]:
    positions, words = directory.walk(EVERYTHING)
    assert positions.tolist() == sorted(set(positions.tolist())), "ascending, and each once"
    return dict(zip(positions.tolist(), words.tolist(), strict=True))


# Few different positions, some that share a bucket, a tag or both, and both ends of the ring.
CROWDED = [*range(40), *[LAST_POSITION - i for i in range(40)], *[1 << 63 | i << 20 for i in range(40)]]
drawn_puts = st.lists(
    st.lists(
        st.tuples(st.one_of(st.sampled_from(CROWDED), st.integers(0, LAST_POSITION)), st.integers(1, LAST_POSITION)),
        max_size=50,
    ),
    max_size=8,
)


@pytest.mark.medium
@settings(deadline=None, max_examples=60)
@given(puts=drawn_puts)
def test_any_puts_leave_what_a_dict_has(puts: list[list[tuple[int, int]]]) -> None:
    directory, expected = Directory.with_room(1), dict[int, int]()
    for put in puts:
        positions, words = u64([position for position, _ in put]), u64([word for _, word in put])
        before = len(expected)
        expected.update(put)
        directory, new = upserted(directory, positions, words)
        assert new == len(expected) - before
        assert directory.rows == len(expected)
    assert held(directory) == expected
    asked = u64([*CROWDED, *expected])
    assert directory.get(asked).tolist() == [expected.get(position, 0) for position in asked.tolist()]
    for other in (directory.copied(1000), directory.grown()):
        assert held(other) == expected


@pytest.mark.parametrize("near", [0, LAST_POSITION])
def test_keys_that_overflow_their_bucket_are_found_in_the_next_ones(near: int) -> None:
    directory = Directory.with_room(1)  # two buckets, and the spare ones
    count = PLACES * PROBE
    positions = u64([near - i if near else i for i in range(count)])
    words = np.arange(1, count + 1, dtype=np.uint64)
    assert directory.put(positions, words) == count
    assert directory.get(positions).tolist() == words.tolist()
    assert directory.get(u64([near ^ 1 << 40])).tolist() == [0]
    assert list(held(directory)) == sorted(positions.tolist())
    with pytest.raises(DirectoryFull, match="no place near"):
        directory.put(u64([near - count if near else count]), u64([1]))
    assert directory.put(positions[:3], words[3:6]) == 0, "a full one still replaces"
    assert directory.rows == count


def test_positions_that_lie_too_close_together_are_refused_before_memory_ends() -> None:
    directory = Directory.with_room(100)
    positions = np.arange(2**20, dtype=np.uint64)[: PLACES * PROBE + 1]
    with pytest.raises(LimitExceeded, match="keys must be spread"):
        upserted(directory, positions, positions + np.uint64(1))


def test_words_and_positions_of_other_kinds_are_refused() -> None:
    directory = Directory.with_room(1)
    with pytest.raises(InvalidInput, match="2 positions cannot have 1 words"):
        directory.put(u64([1, 2]), u64([1]))
    with pytest.raises(InvalidInput, match="they must be uint64"):
        directory.put(np.array([1]), u64([1]))
    with pytest.raises(InvalidInput, match="no part of the ring"):
        directory.walk_between(3, 2)


def test_room_is_what_can_be_put_before_it_is_full() -> None:
    directory = Directory.with_room(1000)
    assert directory.room >= 1000
    rng = np.random.default_rng(1)
    directory.put(rng.integers(0, 2**64, directory.room, np.uint64), np.ones(directory.room, np.uint64))
    assert directory.room == 0
    assert directory.grown().room > 0


def test_a_full_directory_has_all_of_its_keys_and_no_others() -> None:
    directory = Directory.with_room(20_000)
    rng = np.random.default_rng(2)
    positions = rng.integers(0, 2**64, directory.room, np.uint64)
    buckets = np.bincount((positions >> np.uint64(directory.shift)).astype(np.int64))
    assert buckets.max() > PLACES, "some keys are not in their own bucket"
    directory.put(positions, positions | np.uint64(1))
    assert (directory.get(positions) == positions | np.uint64(1)).all()
    assert not directory.get(positions ^ np.uint64(1 << 40)).any(), "others of the same buckets and tags"
    assert held(directory).keys() == set(positions.tolist())


def test_keys_of_a_bucket_that_come_in_any_order_lie_nearly_in_that_of_the_ring() -> None:
    directory = Directory.with_room(1)
    rng = np.random.default_rng(3)
    positions = np.sort(rng.integers(0, 2**63, PLACES // 4, np.uint64))  # all of one bucket, far from full
    directory.put(rng.permutation(positions), np.ones(len(positions), np.uint64))
    places = np.ctypeslib.as_array((ctypes.c_uint64 * (2 * PLACES)).from_address(directory.buckets_at))[::2]
    homes = positions >> np.uint64(63 - PLACE_BITS)
    assert len(set(homes.tolist())) > len(homes) // 2, "keys that have a place to themselves"
    for position, home in zip(positions, homes, strict=True):
        assert 0 <= int(np.flatnonzero(places == position)[0]) - int(home) < len(positions)


@pytest.mark.parametrize("rows", [0, 1, 700, 5000])
def test_walks_of_slot_ranges_and_of_pieces_are_the_dict_in_order(rows: int) -> None:
    rng = np.random.default_rng(rows)
    positions = np.concatenate([rng.integers(0, 2**64, rows, np.uint64), u64([0, LAST_POSITION] if rows else [])])
    directory, _ = upserted(Directory.with_room(1), positions, positions | np.uint64(1))
    everything = np.sort(positions)
    for begin, end in ((0, SLOTS), (0, 1), (SLOTS - 1, SLOTS), (77, 30_001)):
        found, words = directory.walk(SlotRange(begin, end))
        due = everything[(everything >> np.uint64(SLOT_SHIFT) >= begin) & (everything >> np.uint64(SLOT_SHIFT) < end)]
        assert found.tolist() == due.tolist()
        assert words.tolist() == (due | np.uint64(1)).tolist()
    for limit in (1, 7, 1000):
        pieces, first = [], 0
        while first <= LAST_POSITION:
            some, _, whole_to = directory.walk_between(first, LAST_POSITION, limit)
            assert first <= whole_to <= LAST_POSITION
            assert len(some) < limit + PLACES * PROBE
            pieces.append(some)
            first = whole_to + 1
        assert np.concatenate(pieces).tolist() == everything.tolist()
