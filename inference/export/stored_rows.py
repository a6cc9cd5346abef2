"""Rows of tables as stored, read in ring order or at some positions, whatever the tables are made of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.gather import gather_from
from ringpull.ps.store.raw_rows import RawRows, part_of
from ringpull.ps.store.table import Table

_EVERYTHING = SlotRange(0, SLOTS)


class OrderedRows:
    """Rows of a table in ring order, a few MiB of them at a time; each block of its base is verified on the way."""

    def __init__(self, table: Table, block_bytes: int) -> None:
        """Read the first rows. It raises `CorruptData` here, or later, where a block of the base is damaged."""
        self._blocks = _blocks(table, block_bytes)
        self.positions, self.rows = next(self._blocks)
        """Rows at hand: those before them were taken. None: there are no more."""

    def take_to(self, last: int) -> tuple[UInt64Array, RawRows]:
        """Take the rows at hand up to this position, and get more if none are left."""
        count = int(np.searchsorted(self.positions, np.uint64(last), side="right"))
        positions, rows = self.positions[:count], part_of(self.rows, 0, count)
        if count < len(self.positions):
            self.positions, self.rows = self.positions[count:], part_of(self.rows, count, len(self.positions))
        elif count:
            self.positions, self.rows = next(self._blocks)
        return positions, rows


def _blocks(table: Table, block_bytes: int) -> Iterator[tuple[UInt64Array, RawRows]]:
    base, first = table.base, 0
    after: int | None = None
    while True:
        positions, rows = table.newest_block(_EVERYTHING, after, block_bytes)
        after = int(positions[-1]) if len(positions) else None
        last = base.rows
        if after is not None:
            last = int(np.searchsorted(base.sections.positions, np.uint64(after), side="right"))
        base.check_rows(first, last)
        first = last
        yield positions, rows
        if after is None:
            return


def has_rows(table: Table, positions: UInt64Array) -> NDArray[np.bool_]:
    """Return which positions a table has rows at, (n,)."""
    return _places(table, positions)[0]


def rows_at(table: Table, positions: UInt64Array) -> tuple[NDArray[np.bool_], RawRows]:
    """Return which positions a table has rows at, (n,), and these rows as stored, in the order of the positions."""
    found, numbers, words = _places(table, positions)
    is_newer = words != 0
    rows = _base_rows(table, numbers[found & ~is_newer])
    if table.newer is None or not is_newer.any():
        return found, rows
    return found, _mixed(rows, table.newer.segments.rows(words[found & is_newer]), is_newer[found])


def _places(table: Table, positions: UInt64Array) -> tuple[NDArray[np.bool_], NDArray[np.int64], UInt64Array]:
    """Return which positions have rows, the base's row at each, and the word of a newer one, 0 where there is none."""
    numbers, newer = table.base.find(positions), table.newer
    found = numbers >= 0
    if newer is None:
        return found, numbers, np.zeros(len(positions), np.uint64)
    words = newer.directory.get(positions)
    is_newer = words != 0
    found[is_newer] = ~newer.segments.is_gone(words[is_newer])
    return found, numbers, words


def _base_rows(table: Table, numbers: NDArray[np.int64]) -> RawRows:
    sections = table.base.sections
    if not table.spec.is_bytes:
        return sections.rows[numbers]
    starts = sections.starts[numbers].astype(np.int64)
    ends = sections.starts[numbers + 1].astype(np.int64)
    return gather_from(sections.rows, starts, (ends - starts).astype(np.uint32))


def _mixed(base: RawRows, newer: RawRows, from_newer: NDArray[np.bool_]) -> RawRows:
    """Return rows in their order, given those of the base, the others, and which are others."""
    if isinstance(base, BytesRows) and isinstance(newer, BytesRows):
        data = np.concatenate([base.data, newer.data])
        starts, lengths = np.empty(len(from_newer), np.int64), np.empty(len(from_newer), np.uint32)
        starts[~from_newer], starts[from_newer] = base.offsets[:-1], newer.offsets[:-1] + len(base.data)
        lengths[~from_newer], lengths[from_newer] = np.diff(base.offsets), np.diff(newer.offsets)
        return gather_from(data, starts, lengths)
    assert not isinstance(base, BytesRows), "a table has rows of one kind"
    assert not isinstance(newer, BytesRows), "a table has rows of one kind"
    rows = np.empty((len(from_newer), newer.shape[1]), np.uint8)
    rows[~from_newer], rows[from_newer] = base, newer
    return rows


def differing(one: RawRows, other: RawRows) -> NDArray[np.bool_]:
    """Return which of as many rows are not the same bytes, (n,)."""
    if not isinstance(one, BytesRows) and not isinstance(other, BytesRows):
        words = np.uint64 if one.shape[1] % 8 == 0 else np.uint8
        pair = (np.ascontiguousarray(rows).view(words) for rows in (one, other))
        found: NDArray[np.bool_] = np.not_equal(*pair).any(axis=1)
        return found
    assert isinstance(one, BytesRows), "a table has rows of one kind"
    assert isinstance(other, BytesRows), "a table has rows of one kind"
    lengths = np.diff(one.offsets)
    found = lengths != np.diff(other.offsets)
    same = np.flatnonzero(~found)
    picked = [gather_from(rows.data, rows.offsets[same], lengths[same].astype(np.uint32)) for rows in (one, other)]
    bytes_at = np.flatnonzero(picked[0].data != picked[1].data)
    found[same[np.searchsorted(picked[0].offsets, bytes_at, side="right") - 1]] = True
    return found
