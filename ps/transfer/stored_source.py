"""Stored source: the files of an export as a source of rows, in a shared folder or at a URL.

Stored blocks are read as a whole, because checksums are per block. The last block of a read is kept, since the next
read, or the next range, often begins inside it. Remote storage, which answers slowly, is asked for several at once.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from ringpull.ps.errors import CorruptData, InvalidInput, NotFound, Unavailable
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import mask_of, minus
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.raw_rows import NO_LENGTHS, RawRows, flat, lengths_of, part_of
from ringpull.ps.transfer.remote import RemoteFolder, is_url
from ringpull.ps.transfer.source import MAX_BLOCK_BYTES, Block, TableContent, block_of
from ringpull.ps.transfer.stored_table import StoredBlock, StoredTable

READ_BYTES: Final = 8 << 20
"""Size of rows requested at once, a MiB per request: ps/README.md, "Decisions"."""


class StoredSource:
    """Row source of one table in a folder or at a URL. Nothing is read before it is first used."""

    def __init__(self, folder: str, *, read_bytes: int = READ_BYTES, within: str = "") -> None:
        """Refer to the table.

        Args:
            folder: Its path or URL.
            within: Folder that no file may lead out of through a link; empty: the table's own.
            read_bytes: Lower bound on what is read at a time if it is not on this machine.
        """
        self._folder = folder
        self._read_bytes = read_bytes
        self._within = Path(within) if within and not is_url(within) else None
        self._last: StoredBlock | None = None

    def __repr__(self) -> str:
        return f"files in {self._folder}"

    def identity(self) -> int | None:
        """Return the table's identity; None if its header cannot be read or is damaged."""
        try:
            return self._table.header.identity
        except (InvalidInput, NotFound, Unavailable, CorruptData):
            return None

    def describe(self, slots: SlotRange) -> TableContent:
        first, last = self._row_range(slots)
        header = self._table.header
        rows_bytes = self._table.rows_bytes(first, last) if header.spec.is_bytes else 0
        return TableContent(header.spec, header.identity, last - first, rows_bytes)

    def read(self, slots: SlotRange, cursor: int, max_bytes: int) -> Block:
        range_first, range_last = self._row_range(slots)
        first = range_first + cursor
        if not range_first <= first <= range_last:
            raise InvalidInput(f"{self!r}: the cursor is {cursor}; the range has {range_last - range_first} rows")
        least = 0 if self._files.local else self._read_bytes
        last = range_last
        if first < range_last:
            wanted = min(max(max_bytes, least), MAX_BLOCK_BYTES)
            last = self._end(first, self._table.rows_within(first, range_last, wanted), range_last)
        parts = [_cut(block, first, last) for block in self._blocks(first, last)]
        positions = np.concatenate([np.empty(0, np.uint64), *[positions for positions, _ in parts]])
        rows = np.concatenate([np.empty(0, np.uint8), *[flat(rows) for _, rows in parts]])
        lengths = np.concatenate([NO_LENGTHS, *[lengths_of(rows) for _, rows in parts]])
        return block_of(positions, rows, lengths, next_cursor=last - range_first, total_rows=range_last - range_first)

    def _row_range(self, slots: SlotRange) -> tuple[int, int]:
        held = mask_of(SlotRange(begin, end) for begin, end in self._table.header.held)
        if minus(mask_of([slots]), held).any():
            raise Unavailable(f"{self!r} do not hold all of the slots {slots.begin} to {slots.end}")
        return self._table.rows_below(slots.begin), self._table.rows_below(slots.end)

    def _end(self, first: int, last: int, range_last: int) -> int:
        """Return the end of a read up to `last`: moved back to the end of a stored block, if one ends on the way."""
        if last >= range_last:
            return range_last
        firsts = self._table.first_rows
        boundary = int(firsts[int(np.searchsorted(firsts, last, side="right")) - 1])
        return boundary if boundary > first else last

    def _blocks(self, first: int, last: int) -> list[StoredBlock]:
        """Return the stored blocks with rows [first, last)."""
        if first == last:
            return []
        firsts = self._table.first_rows
        begin = int(np.searchsorted(firsts, first, side="right")) - 1
        end = int(np.searchsorted(firsts, last))
        here = [self._last] if self._last is not None and self._last.first_row == int(firsts[begin]) else []
        blocks = here + self._table.read(begin + len(here), end)
        self._last = blocks[-1]
        return blocks

    @cached_property
    def _files(self) -> RemoteFolder:
        return RemoteFolder(self._folder)

    @cached_property
    def _table(self) -> StoredTable:
        return StoredTable(self._files, within=self._within)


def _cut(block: StoredBlock, first: int, last: int) -> tuple[UInt64Array, RawRows]:
    """Return the positions and the rows of a block that are among [first, last)."""
    begin, end = max(0, first - block.first_row), min(len(block.positions), last - block.first_row)
    return block.positions[begin:end], part_of(block.rows, begin, end)
