"""Row source: the protocol by which rows of one base are copied, and the blocks that a shard answers with.

A source delivers slot ranges, a block of rows at a time, in ring order; each block carries its checksum. Rows of a
base never change, so one source may continue where another stopped, provided both have the same identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import CorruptData, InvalidInput, Unavailable
from ringpull.ps.hashing import POSITION_BYTES, SLOT_SHIFT
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import TableSpec, UInt64Array
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.raw_rows import LENGTH_BYTES, Lengths, flat, lengths_of, rows_of
from ringpull.ps.wire.messages import RangePullReply, range_checksum

MAX_BLOCK_BYTES: Final = 64 << 20
"""Upper bound on the size of one block's rows, whatever its receiver asks for."""

Block = RangePullReply


@dataclass(frozen=True, slots=True)
class TableContent:
    """Description of a table and of one of its ranges."""

    spec: TableSpec
    identity: int
    """Identity of the table; see `Header.identity`."""
    rows: int
    """Number of rows in the range."""
    rows_bytes: int = 0
    """Bytes of these rows, for a table of bytes; 0 where the spec says how many each has."""

    @property
    def bytes(self) -> int:
        """Bytes to stream for the range: rows, positions, and the lengths of rows of bytes."""
        return streamed_bytes(self.spec, self.rows, self.rows_bytes)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the range's rows, without keys."""
        return self.rows_bytes if self.spec.is_bytes else self.rows * self.spec.row_bytes


def streamed_bytes(spec: TableSpec, rows: int, rows_bytes: int) -> int:
    """Return the bytes that rows take in a stream or a piece.

    Args:
        rows_bytes: Bytes of the rows of a table of bytes; not looked at for others.
    """
    if spec.is_bytes:
        return rows * (POSITION_BYTES + LENGTH_BYTES) + rows_bytes
    return rows * (POSITION_BYTES + spec.row_bytes)


class RowSource(Protocol):
    """Place that has rows of one table. Used by one thread at a time; any method may raise a `RingpullError`."""

    def describe(self, slots: SlotRange) -> TableContent:
        """Return the description of the table and of the range `slots`."""
        ...

    def read(self, slots: SlotRange, cursor: int, max_bytes: int) -> Block:
        """Return rows of `slots` from the row `cursor` on, at least one: about `max_bytes`, or more from a source that
        is better read in larger blocks."""
        ...


def read_block(base: Base, slots: SlotRange, cursor: int, max_bytes: int) -> Block:
    """Return the next block of a slot range: rows as they are stored, with the stored blocks they touch verified.

    A block ends where a stored block does, if it can, so that each stored block is verified once per stream.

    Raises:
        InvalidInput: The cursor lies outside the range.
        Unavailable: The base does not have the whole range.
        CorruptData: Stored rows of this block are damaged.
    """
    if not base.held_mask()[slots.begin : slots.end].all():
        raise Unavailable(f"range_pull: {base.folder} does not hold all of the slots {slots.begin} to {slots.end}")
    range_first, range_last = base.row_range(slots.begin, slots.end)
    first = range_first + cursor
    if not range_first <= first <= range_last:
        raise InvalidInput(f"range_pull: the cursor is {cursor}; the range has {range_last - range_first} rows")
    last = base.rows_within(first, range_last, min(max_bytes, MAX_BLOCK_BYTES)) if first < range_last else first
    last = range_last if last >= range_last else _end_of_stored_block(base, first, last)
    if bad := damaged_blocks(base, first, last):
        begin, end = bad[0].slots[0], bad[-1].slots[1]
        raise CorruptData(f"range_pull: {base.folder}: rows of the slots {begin} to {end} are damaged")
    rows, total_rows = base.raw_rows(first, last), range_last - range_first
    return block_of(base.positions_slice(first, last), flat(rows), lengths_of(rows), last - range_first, total_rows)


def block_of(
    positions: UInt64Array, rows: NDArray[np.uint8], lengths: Lengths, next_cursor: int, total_rows: int
) -> Block:
    """Return flat rows as a block."""
    return Block(positions, rows, range_checksum(positions, rows, lengths), next_cursor, total_rows, lengths)


def damaged_blocks(base: Base, first: int, last: int) -> list[BadBlock]:
    """Read the stored blocks of rows [first, last), and return those that do not match their checksum."""
    if first == last:
        return []
    firsts = base.sections.blocks[:, 0]
    begin = int(np.searchsorted(firsts, np.uint64(first), side="right")) - 1
    end = int(np.searchsorted(firsts, np.uint64(last)))
    return base.verify(range(begin, end))


def _end_of_stored_block(base: Base, first: int, last: int) -> int:
    """Return the end of the last stored block that ends in (first, last]; `last` if none does."""
    firsts = base.sections.blocks[:, 0]
    boundary = int(firsts[int(np.searchsorted(firsts, np.uint64(last), side="right")) - 1])
    return boundary if boundary > first else last


def check_block(block: Block, slots: SlotRange, cursor: int, content: TableContent) -> None:
    """Check a received block against its checksum and against the request.

    Raises:
        CorruptData: It is damaged, or does not fit the request.
    """
    rows = len(block.positions)
    if range_checksum(block.positions, block.rows, block.lengths) != block.checksum:
        raise CorruptData(f"a block of {rows} rows from row {cursor} of the {slots} does not match its checksum")
    if (block.total_rows, block.next_cursor) != (content.rows, cursor + rows) or block.next_cursor > content.rows:
        raise CorruptData(
            f"a block from row {cursor} has {rows} rows, goes on at {block.next_cursor} of {block.total_rows};"
            f" the {slots} has {content.rows}"
        )
    if rows == 0 and block.next_cursor < content.rows:
        raise CorruptData(f"a block from row {cursor} of the {slots} is empty; {content.rows} rows were due")
    rows_of(content.spec.row_bytes, rows, block.rows, block.lengths)
    ascend = bool((block.positions[1:] > block.positions[:-1]).all())
    ends = block.positions[[0, -1]] >> np.uint64(SLOT_SHIFT) if rows else ()
    if not ascend or not all(slots.begin <= slot < slots.end for slot in ends):
        raise CorruptData(f"the positions of a block of the {slots} do not ascend within it")
