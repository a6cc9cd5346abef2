"""What a fold takes of a directory: rows by position, keys that are gone apart, in memory that is used again."""

from __future__ import annotations

import errno
import gc
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.spec import RowType, UInt64Array
from ringpull.ps.store.kernels import address
from ringpull.ps.store.newer.budget import Budget
from ringpull.ps.store.newer.directory import LAST_POSITION, Directory
from ringpull.ps.store.newer.fold_kernels import flip
from ringpull.ps.store.newer.fold_rows import FoldRows
from ringpull.ps.store.newer.scratch import scratch
from ringpull.ps.store.newer.segments import Segments
from ringpull.ps.store.newer.words import words_at
from tests.ps.newer_tables import small_base

ROW_BYTES = 8
FEW, MANY = 3_000, 270_000
"""Rows whose numbers have less than a huge page, and more."""


def positions_of(rng: np.random.Generator, count: int) -> UInt64Array:
    return rng.permutation(np.unique(rng.integers(0, 2**64, count + 1, np.uint64)))[:count]


@pytest.mark.parametrize(
    ("count", "gone_share"), [(0, 0.0), (1, 0.0), (1, 1.0), (FEW, 0.0), (FEW, 0.1), (FEW, 1.0), (MANY, 0.1)]
)
def test_rows_come_by_position_and_keys_that_are_gone_apart(count: int, gone_share: float) -> None:
    rng = np.random.default_rng(1)
    segments, directory = Segments(ROW_BYTES), Directory.with_room(count)
    positions, stamps = positions_of(rng, count), rng.integers(0, 2**63, count, np.uint64)
    positions[:2] = (0, LAST_POSITION)[:count]
    gone = rng.random(count) < gone_share
    words = np.empty(count, np.uint64)
    words[~gone] = segments.append(np.zeros((int((~gone).sum()), ROW_BYTES), np.uint8), stamps[~gone])
    if gone.any():
        words[gone] = segments.gone(stamps[gone])
    directory.put(positions, words)
    order = np.argsort(positions)
    for found, which in zip(FoldRows.of(directory, segments), (~gone, gone), strict=True):
        due = order[which[order]]
        assert np.array_equal(found.positions, positions[due])
        assert np.array_equal(found.words, words[due])
        assert np.array_equal(found.stamps, stamps[due])


def test_memory_of_many_numbers_is_used_again_once_nobody_has_them() -> None:
    spares = Budget(1 << 30).spares
    first, other = scratch(MANY, spares), scratch(MANY, spares)
    assert (len(first), first.dtype, spares.nbytes) == (MANY, np.uint64, 0)
    part, at = first[5:10], address(first)
    part[:] = 7
    del first
    gc.collect()
    assert spares.nbytes == 0, "somebody reads part of it"
    assert address(scratch(MANY, spares)) not in (at, address(other))
    gc.collect()
    spares.shrink()
    assert part.tolist() == [7] * 5
    del part
    gc.collect()
    assert spares.nbytes >= 8 * MANY
    assert address(scratch(MANY + 1, spares)) == at
    assert len(scratch(FEW, spares)) == FEW
    gc.collect()
    spares.shrink()
    assert spares.nbytes == 0


def test_numbers_for_which_there_is_no_memory_are_no_matter_of_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tables are folded meanwhile."""

    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(mmap, "mmap", none_left)
    with pytest.raises(MemoryError, match="Cannot allocate memory"):
        scratch(MANY, Budget(1 << 30).spares)


def test_rows_are_copied_to_memory_that_is_given_where_they_fit(tmp_path: Path) -> None:
    base = small_base(tmp_path / "table", RowType.FLOAT16)
    segments, memory = Segments(base.spec.row_bytes), np.zeros(5 * base.spec.row_bytes, np.uint8)
    number = segments.add_base(base)
    for count, fits in ((5, True), (3, True), (0, True), (6, False)):
        words = segments.words_between(number, 2, 2 + count)
        offsets = np.arange(2, 2 + count, dtype=np.uint64) * np.uint64(base.spec.row_bytes)
        assert words.tolist() == words_at(number, offsets).tolist()
        rows = segments.rows(words, memory)
        assert isinstance(rows, np.ndarray)
        assert rows.tolist() == base.sections.rows[2 : 2 + count].tolist()
        assert np.shares_memory(rows, memory) is (fits and count > 0)


def test_words_are_flipped_where_they_are_the_old_ones_and_nothing_is_put() -> None:
    rng = np.random.default_rng(2)
    positions, strange = np.split(positions_of(rng, 1_100), [1_000])
    old = np.arange(1, 1_001, dtype=np.uint64)
    directory = Directory.with_room(1_000)
    directory.put(positions, old)
    pushed = rng.random(1_000) < 0.3
    directory.put(positions[pushed], old[pushed] + np.uint64(1 << 50))
    every = np.concatenate([positions, strange])
    was, new = np.concatenate([old, np.ones(100, np.uint64)]), np.arange(5_000, 6_100, dtype=np.uint64)
    flip(directory.tags_at, directory.buckets_at, directory.shift, address(every), address(was), address(new), 1_100)
    due = np.where(pushed, old + np.uint64(1 << 50), new[:1_000])
    assert directory.get(every).tolist() == [*due.tolist(), *[0] * 100]
    assert directory.rows == 1_000
