"""Segments: rows and stamps come back as given, within a budget, and memory goes when its last reader does."""

from __future__ import annotations

import gc
import mmap
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput, LimitExceeded
from ringpull.ps.spec import MAX_BYTES_ROW, RowType
from ringpull.ps.store.format import START_BYTES
from ringpull.ps.store.newer.arena import STAMP_BYTES
from ringpull.ps.store.newer.budget import Budget
from ringpull.ps.store.newer.directory import Directory
from ringpull.ps.store.newer.newer import Newer
from ringpull.ps.store.newer.segments import FIRST_BLOCK_BYTES, Segments
from ringpull.ps.store.newer.words import GONE, MAX_SEGMENTS, segments_of, words_at
from tests.ps.newer_tables import LiveTable, random_positions, row_at, small_base, stored_rows


@pytest.mark.parametrize("row_type", [RowType.FLOAT32, RowType.INT8, RowType.BYTES])
def test_rows_and_stamps_come_back(tmp_path: Path, row_type: RowType) -> None:
    base = small_base(tmp_path / "table", row_type, dim=64)
    segments, rng = Segments(base.spec.row_bytes), np.random.default_rng(1)
    kept, words, stamps = [], [], []
    for count in (1, 9_000, 3, 0, 11_000):
        rows = stored_rows(rng, base.spec, count)
        some = rng.integers(0, 2**63, count, np.uint64)
        words.append(segments.append(rows, some))
        stamps.append(some)
        kept += [row_at(rows, i) for i in range(count)]
    every = np.concatenate(words)
    assert len(np.unique(every)) == len(every)
    order = rng.permutation(len(every))
    rows = segments.rows(every[order])
    assert [row_at(rows, i) for i in range(len(order))] == [kept[i] for i in order]
    assert segments.stamps(every[order]).tolist() == np.concatenate(stamps)[order].tolist()
    assert sum(map(len, kept)) < segments.arena_bytes < segments.memory_bytes
    assert len(segments.seal()) > 1, "more than one block"


def test_rows_of_a_base_are_not_copied(tmp_path: Path) -> None:
    for row_type in (RowType.FLOAT16, RowType.BYTES):
        base = small_base(tmp_path / row_type.value, row_type)
        segments = Segments(base.spec.row_bytes)
        one, other = segments.add_base(base, 7), segments.add_base(base, np.arange(base.rows, dtype=np.uint64))
        numbers = np.array([5, 0, base.rows - 1])
        for number, stamps in ((one, [7, 7, 7]), (other, numbers.tolist())):
            words = segments.words_between(number, 0, base.rows)[numbers]
            rows = segments.rows(words)
            assert [row_at(rows, i) for i in range(3)] == [row_at(base.raw_rows(i, i + 1), 0) for i in numbers.tolist()]
            assert segments.stamps(words).tolist() == stamps
        assert segments.arena_bytes == 0
    with pytest.raises(InvalidInput, match="others do not"):
        Segments(4).add_base(base)


def test_removals_have_stamps(tmp_path: Path) -> None:
    segments = Segments(8)
    words = np.concatenate([segments.gone(9, 3), segments.gone([4, 2**63]), [np.uint64(GONE)]])
    assert segments.stamps(words).tolist() == [9, 9, 9, 4, 2**63, 0]
    assert segments.is_gone(words).all()
    there = segments.append(np.zeros((1, 8), np.uint8), 1)
    assert segments.is_gone(np.append(words, there)).tolist() == [True] * 6 + [False]
    with pytest.raises(InvalidInput, match="gone have no rows"):
        segments.rows(words)


def test_removals_apart_go_with_their_segment_and_others_do_not() -> None:
    budget = Budget(1 << 20)
    segments = Segments(8, budget)
    before, used = segments.gone(9, 3), budget.used_bytes
    number, words = segments.gone_apart(np.array([4, 2**63], np.uint64))
    after = segments.gone(5)
    assert segments.stamps(np.concatenate([before, words, after])).tolist() == [9, 9, 9, 4, 2**63, 5]
    assert segments.is_gone(words).all()
    segments.drop(number)
    assert segments.stamps(np.concatenate([before, after])).tolist() == [9, 9, 9, 5]
    assert budget.used_bytes == used


def test_words_of_all_kinds_of_segments_have_their_stamps(tmp_path: Path) -> None:
    base, rng = small_base(tmp_path / "table", RowType.FLOAT32, dim=16), np.random.default_rng(2)
    row_bytes = base.spec.row_bytes
    segments = Segments(row_bytes)
    of_rows = np.arange(2 * base.rows, dtype=np.uint64)[::2] + np.uint64(10**6)  # not contiguous
    numbered, one = segments.add_base(base, of_rows), segments.add_base(base, 77)
    log, logged = segments.add_log(mmap.mmap(-1, 1 << 16))
    offsets = logged.add(np.array([64, 32_768]), np.array([3, 5]), np.array([2**63, 5], np.uint64))
    parts = [
        (segments.words_between(numbered, 0, base.rows), of_rows.tolist()),
        (segments.words_between(one, 0, base.rows), [77] * base.rows),
        (words_at(log, offsets), [2**63] * 3 + [5] * 5),
        (segments.append(stored_rows(rng, base.spec, 50), np.arange(50, dtype=np.uint64)), list(range(50))),
        (segments.gone(9, 4), [9] * 4),
    ]
    words = np.concatenate([each for each, _ in parts])
    due = [stamp for _, stamps in parts for stamp in stamps]
    order = rng.permutation(len(words))
    assert segments.stamps(words[order]).tolist() == [due[k] for k in order]
    assert np.flatnonzero(segments.is_gone(words)).tolist() == [*range(len(words) - 4, len(words))]


def test_a_word_of_a_segment_that_is_gone_has_no_stamp() -> None:
    segments = Segments(4)
    words = segments.append(np.zeros((3, 4), np.uint8), 5)
    for number in segments.seal():
        segments.drop(number)
    with pytest.raises(KeyError, match="no more"):
        segments.stamps(words)
    assert segments.stamps(np.array([GONE], np.uint64)).tolist() == [0]


def test_a_word_without_a_segment_is_found_among_many_that_have_one() -> None:
    segments = Segments(4)
    lost = segments.append(np.zeros((1, 4), np.uint8), 5)
    (dropped,) = segments.seal()
    kept = segments.append(np.zeros((300, 4), np.uint8), np.arange(300))
    segments.drop(dropped)
    assert segments.stamps(kept).tolist() == list(range(300))
    never = words_at(MAX_SEGMENTS - 1, np.array([0], np.uint64))
    for word in (lost, never):
        for at in (0, 150, 300):
            with pytest.raises(KeyError, match="no more"):
                segments.stamps(np.insert(kept, at, word))


def test_beyond_the_budget_nothing_is_written() -> None:
    budget = Budget(3 * FIRST_BLOCK_BYTES)
    segments = Segments(256, budget)
    rows = np.ones((1000, 256), np.uint8)
    written = 0
    while rows.nbytes < 0.9 * budget.left_bytes or written == 0 or segments.arena_bytes < 0.8 * budget.limit_bytes:
        segments.append(rows, 1)
        written += len(rows)
    with pytest.raises(LimitExceeded, match="newer rows have"):
        segments.append(np.ones((len(rows) * 4, 256), np.uint8), 1)
    assert segments.arena_bytes == written * 264
    assert budget.used_bytes == segments.memory_bytes <= budget.limit_bytes
    segments.append(rows[:1], 1)  # which there is room for
    with pytest.raises(LimitExceeded):
        Segments(0, budget).append(BytesRows.of([b"x" * MAX_BYTES_ROW]), 1)


@pytest.mark.parametrize("row_bytes", [0, 8])
def test_rows_of_another_kind_are_refused(row_bytes: int) -> None:
    segments = Segments(row_bytes)
    strange = [np.zeros((2, 9), np.uint8), np.zeros((2, 8), np.int8), np.zeros(8, np.uint8)]
    for rows in [*strange, BytesRows.of([b"12345678"]) if row_bytes else np.zeros((2, 8), np.uint8)]:
        with pytest.raises(InvalidInput, match="they must be"):
            segments.append(rows, 1)
    if not row_bytes:
        with pytest.raises(InvalidInput, match="more than"):
            segments.append(BytesRows.of([b"", bytes(MAX_BYTES_ROW + 1)]), 1)
    assert segments.arena_bytes == 0


def test_memory_goes_with_the_last_table_that_can_read_it(tmp_path: Path) -> None:
    budget, rng = Budget(1 << 30), np.random.default_rng(1)
    live = LiveTable.of(small_base(tmp_path / "table"), budget=budget)
    positions = random_positions(rng, live.base, 200)
    live.push(positions, stored_rows(rng, live.base.spec, len(positions)))
    before = Newer(live.directory, live.segments)
    live.segments.seal()
    # Written after `before` was made, and still read through it: they share the directory.
    live.push(positions[:50], stored_rows(rng, live.base.spec, 50))
    dropped = live.segments.tidied([live.directory])
    live.check()
    after = Newer(live.directory, live.segments)
    for number in dropped:
        live.segments.drop(number)
    used = budget.used_bytes
    del before
    gc.collect()
    assert budget.used_bytes == used, "`after` was made before they were dropped"
    del after
    gc.collect()
    assert budget.used_bytes == live.segments.memory_bytes < used
    live.check()
    assert live.segments.seal()[0] not in dropped
    live.push(positions, stored_rows(rng, live.base.spec, len(positions)))
    assert set(live.segments.seal()) & set(dropped), "numbers are used again"
    live.check()


def _dead_bytes(segments: Segments, *directories: Directory) -> int:
    """Return how many of the arena's bytes none of the directories points to."""
    blocks = np.array([number for number, each in segments._segments.items() if each.block], np.uint64)
    every = np.unique(np.concatenate([each.walk_between(0, 2**64 - 1)[1] for each in directories]))
    live = every[np.isin(segments_of(every), blocks)]
    rows = segments.rows(live[~segments.is_gone(live)])
    starts = START_BYTES * len(rows) if segments.is_bytes else 0
    data = sum(len(row_at(rows, i)) for i in range(len(rows)))
    return segments.arena_bytes - data - starts - STAMP_BYTES * len(live)


@pytest.mark.parametrize("row_type", [RowType.BFLOAT16, RowType.BYTES])
def test_tidying_keeps_what_is_pointed_to_and_nothing_else(tmp_path: Path, row_type: RowType) -> None:
    rng, base = np.random.default_rng(3), small_base(tmp_path / "table", row_type)
    live = LiveTable.of(base)
    for stamp in range(1, 8):
        positions = random_positions(rng, base, 100)
        live.push(positions, stored_rows(rng, base.spec, len(positions)), stamp)
        live.remove(positions[:10], stamp)
    other = live.directory.copied()  # of another version, which has rows that this one has not any more
    rows = stored_rows(rng, base.spec, len(positions))
    live.push(positions, rows, 9)
    others, words = other.walk_between(0, 2**64 - 1)[:2]
    kept, stamps = live.segments.rows(words[~live.segments.is_gone(words)]), live.segments.stamps(words)
    assert 0 < _dead_bytes(live.segments, live.directory, other) < _dead_bytes(live.segments, live.directory)
    for number in live.segments.tidied([live.directory, other]):
        live.segments.drop(number)
    live.check()
    assert _dead_bytes(live.segments, live.directory, other) == 0
    again, words = other.walk_between(0, 2**64 - 1)[:2]
    assert again.tolist() == others.tolist()
    assert live.segments.stamps(words).tolist() == stamps.tolist()
    rows = live.segments.rows(words[~live.segments.is_gone(words)])
    assert len(rows) == len(kept)
    assert all(row_at(rows, i) == row_at(kept, i) for i in range(len(rows)))
