"""Block cutter: cuts the stream of a table's rows into blocks, and checksums what each has in every file.

A block ends at the first slot boundary at or after BLOCK_BYTES, so that a range is mostly whole blocks; inside one huge
slot it ends at twice that. The rule needs no look ahead: the size of the next slot is not known while rows stream in.
Sizes are counted in rows where all are equal, else in bytes, those of where a row starts among them: a block of empty
rows ends, too.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import SLOT_SHIFT
from ringpull.ps.spec import TableSpec, UInt64Array
from ringpull.ps.store import format as fmt
from ringpull.ps.store.raw_rows import RawRows, flat, part_of


class BlockCutter:
    """Blocks of one table while its rows stream in."""

    def __init__(self, spec: TableSpec) -> None:
        self._min_size = fmt.BLOCK_BYTES if spec.is_bytes else -(-fmt.BLOCK_BYTES // spec.row_bytes)
        self._entries, self._position_entries, self._start_entries = array("Q"), array("Q"), array("Q")
        self._hash, self._position_hash, self._start_hash = xxhash.xxh3_64(), xxhash.xxh3_64(), xxhash.xxh3_64()
        self._first = self._next = self._first_position = self._first_start = self._next_start = 0
        self._size = 0
        self._last_slot = 0

    def append(self, positions: UInt64Array, rows: RawRows) -> None:
        """Take in the next rows, in ring order."""
        sizes = _added_up(rows)
        starts = None if not isinstance(rows, BytesRows) else (rows.offsets + self._next_start).astype(np.uint64)
        done = 0
        while done < len(positions):
            before = int(sizes[done - 1]) if done else 0
            if self._size < self._min_size:
                take = min(len(positions) - done, bisect_left(sizes, before + self._min_size - self._size) + 1 - done)
                closes = False
            else:
                left = 2 * self._min_size - self._size
                most = 0 if left <= 0 else min(len(positions) - done, bisect_left(sizes, before + left) + 1 - done)
                take = self._rest_of_slot(positions[done : done + most])
                added = int(sizes[done + take - 1]) - before if take else 0
                closes = take < most or added >= left
            if take:
                self._take(positions[done : done + take], part_of(rows, done, done + take))
                if starts is not None:
                    self._start_hash.update(starts[done : done + take].data)
                    self._next_start = int(starts[done + take])
                self._size += int(sizes[done + take - 1]) - before
                done += take
            if closes:
                self._close()

    def _rest_of_slot(self, positions: UInt64Array) -> int:
        """Return how many of these rows belong to the slot of the last row taken."""
        slots = positions >> np.uint64(SLOT_SHIFT)
        return int(np.searchsorted(slots, np.uint64(self._last_slot), side="right"))

    def _take(self, positions: UInt64Array, rows: RawRows) -> None:
        if self._next == self._first:
            self._first_position, self._first_start = int(positions[0]), self._next_start
        self._hash.update(flat(rows).data)
        self._position_hash.update(np.ascontiguousarray(positions).data)
        self._next += len(positions)
        self._last_slot = int(positions[-1]) >> SLOT_SHIFT

    def _close(self) -> None:
        self._start_hash.update(np.array([self._next_start], np.uint64).data)
        for entries, first, state in (
            (self._entries, self._first, self._hash),
            (self._position_entries, self._first_position, self._position_hash),
            (self._start_entries, self._first_start, self._start_hash),
        ):
            entries.extend((first, state.intdigest()))
            state.reset()
        self._first, self._size = self._next, 0

    def finish(self) -> None:
        """End the last block."""
        if self._next > self._first:
            self._close()

    @property
    def entries(self) -> UInt64Array:
        """(2 x blocks,): first row of each block, and the checksum of its rows."""
        return np.array(self._entries, np.uint64)

    @property
    def position_entries(self) -> UInt64Array:
        """(2 x blocks,): first position of each block, and the checksum of its positions."""
        return np.array(self._position_entries, np.uint64)

    @property
    def start_entries(self) -> UInt64Array:
        """(2 x blocks,): where the first row of each block starts, and the checksum of where its rows start and the
        last one ends; for rows of bytes."""
        return np.array(self._start_entries, np.uint64)


def _added_up(rows: RawRows) -> Sequence[int] | NDArray[np.int64]:
    """Return the size of the first row, of the first two, and so on: (n,)."""
    if not isinstance(rows, BytesRows):
        return range(1, len(rows) + 1)
    return rows.offsets[1:] + np.arange(1, len(rows) + 1, dtype=np.int64) * fmt.START_BYTES
