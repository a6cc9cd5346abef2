"""Newest rows of a table in ring order: a base and what is newer, merged block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import POSITION_BYTES, SLOT_SHIFT
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.base import Base
from ringpull.ps.store.gather import gather_from
from ringpull.ps.store.newer.newer import Newer
from ringpull.ps.store.raw_rows import RawRows, lengths_of, part_of

Rows = NDArray[np.integer[Any]]
"""Numbers of rows."""


def newest_block(
    base: Base, newer: Newer | None, slots: SlotRange, after_position: int | None, max_bytes: int
) -> tuple[UInt64Array, RawRows]:
    """Return the rows of a slot range behind a position: see `Table.newest_block`."""
    begin, last = slots.begin << SLOT_SHIFT, (slots.end << SLOT_SHIFT) - 1
    if after_position is not None:
        begin = max(begin, after_position + 1)
    while begin <= last:
        positions, rows, end = _merged(base, newer, begin, last, max_bytes)
        if len(positions):
            return _cut(positions, rows, max_bytes)
        begin = end + 1
    return np.empty(0, np.uint64), base.raw_rows(0, 0)


def _merged(base: Base, newer: Newer | None, begin: int, last: int, max_bytes: int) -> tuple[UInt64Array, RawRows, int]:
    """Return rows from position `begin` on, about `max_bytes` or twice that, and up to which position these are all."""
    base_positions = base.sections.positions
    first = int(np.searchsorted(base_positions, np.uint64(begin)))
    stop = int(np.searchsorted(base_positions, np.uint64(last), side="right"))
    end_row = base.rows_within(first, stop, max_bytes) if first < stop else stop
    end = last if end_row == stop else int(base_positions[end_row]) - 1
    if newer is None:
        return base_positions[first:end_row].copy(), base.raw_rows(first, end_row), end
    limit = max(1, max_bytes // (POSITION_BYTES + (base.spec.row_bytes or POSITION_BYTES)))
    positions, words, whole_to = newer.directory.walk_between(begin, end, limit)
    if whole_to < end:
        end = whole_to
        end_row = int(np.searchsorted(base_positions, np.uint64(end), side="right"))
    there = ~newer.segments.is_gone(words)
    own = np.arange(first, end_row)[~np.isin(base_positions[first:end_row], positions, assume_unique=True)]
    all_positions = np.concatenate([base_positions[own], positions[there]])
    order = np.argsort(all_positions, kind="stable")
    rows = _in_order(_rows_of(base, first, end_row, own), newer.segments.rows(words[there]), order)
    return all_positions[order], rows, end


def _rows_of(base: Base, first: int, end: int, chosen: Rows) -> RawRows:
    """Return the chosen ones of a base's rows [first, end)."""
    rows = base.raw_rows(first, end)
    if len(chosen) == end - first:
        return rows
    if not isinstance(rows, BytesRows):
        return rows[chosen - first]
    return _picked(rows, chosen - first)


def _picked(rows: BytesRows, chosen: Rows) -> BytesRows:
    return gather_from(rows.data, rows.offsets[chosen], np.diff(rows.offsets)[chosen].astype(np.uint32))


def _in_order(one: RawRows, other: RawRows, order: Rows) -> RawRows:
    """Return the rows of both, one after the other, in another order."""
    if isinstance(one, BytesRows) and isinstance(other, BytesRows):
        offsets = np.concatenate([one.offsets, other.offsets[1:] + one.offsets[-1]])
        return _picked(BytesRows(np.concatenate([one.data, other.data]), offsets), order)
    assert not isinstance(one, BytesRows), "a table has rows of one kind"
    assert not isinstance(other, BytesRows), "a table has rows of one kind"
    return np.concatenate([one, other])[order]


def _cut(positions: UInt64Array, rows: RawRows, max_bytes: int) -> tuple[UInt64Array, RawRows]:
    """Return the first rows that have at most `max_bytes` with their positions; at least one."""
    if isinstance(rows, BytesRows):
        sizes = lengths_of(rows).astype(np.int64) + POSITION_BYTES
    else:
        sizes = np.full(len(rows), rows.shape[1] + POSITION_BYTES)
    count = max(1, int(np.searchsorted(np.cumsum(sizes), max_bytes, side="right")))
    return positions[:count], part_of(rows, 0, count)
