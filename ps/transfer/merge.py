"""Merge: writes one new base from ranges of the older base and from copied pieces.

All rows are verified as they are read, so that damaged ones are not given a new checksum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringpull.ps.errors import RingpullError
from ringpull.ps.hashing import POSITION_BYTES
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import mask_of, runs
from ringpull.ps.spec import TableSpec, UInt64Array
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.base_writer import BaseWriter
from ringpull.ps.store.raw_rows import RawRows
from ringpull.ps.transfer.job import Job
from ringpull.ps.transfer.pace import Pace
from ringpull.ps.transfer.piece import Piece
from ringpull.ps.transfer.source import damaged_blocks

STEP_BYTES: Final = 4 << 20
"""Size of rows read at a time from the older base."""


class DamagedBase(RingpullError):
    """Raised when rows of the older base do not match their checksum; they must be copied from elsewhere."""

    def __init__(self, base: Base, bad: Sequence[BadBlock]) -> None:
        super().__init__(f"{base.folder}: rows of the slots {bad[0].slots[0]} to {bad[-1].slots[1]} are damaged")
        self.base = base
        self.bad = tuple(bad)


@dataclass(frozen=True, slots=True)
class Part:
    """Range of slots, and the base or piece that has its rows."""

    slots: SlotRange
    holder: Base | Piece

    @property
    def rows(self) -> int:
        if isinstance(self.holder, Piece):
            return self.holder.count(self.slots)
        first, last = self.holder.row_range(self.slots.begin, self.slots.end)
        return last - first

    @property
    def bytes(self) -> int:
        """Bytes of its rows as stored, without keys."""
        if isinstance(self.holder, Piece):
            return self.holder.row_data_bytes(self.slots)
        begin, end = self.holder.byte_range(*self.holder.row_range(self.slots.begin, self.slots.end))
        return end - begin


def merge(
    folder: Path, spec: TableSpec, identity: int, parts: Sequence[Part], job: Job, pace: Pace | None = None
) -> Base:
    """Write a base with the rows of all parts, and return it opened. It is complete and synced when `folder` appears.

    Args:
        identity: Identity of the table.
        parts: Parts in ascending order, disjoint. The base holds exactly the slots that they cover.
        pace: Gives way to pulls; None: there are none.

    Raises:
        DamagedBase: Rows of a base are damaged.
        Unavailable: A piece is damaged.
        ExportError: The disk is full.
        Cancelled: The job was given up.
    """
    held = tuple((slots.begin, slots.end) for slots in runs(mask_of(part.slots for part in parts)))
    rows = sum(part.rows for part in parts)
    pace = pace or Pace()
    began_s = pace.now_s()
    with BaseWriter(folder, spec, rows, held=held, copied_from=identity, private=True) as writer:
        for part in parts:
            for positions, raw in _rows_of(part):
                job.check()
                writer.append(positions, raw)
                pace.rest(began_s, job)
                began_s = pace.now_s()
        writer.finish()
    return Base.open(folder)


def base_bytes(rows: int, rows_bytes: int, spec: TableSpec) -> int:
    """Return about how many bytes a base with this many rows takes on disk.

    Args:
        rows_bytes: Bytes of these rows, as stored.
    """
    starts = (rows + 1) * fmt.START_BYTES if spec.is_bytes else 0
    index = ((1 << fmt.index_bits(rows)) + 1) * fmt.index_entry_bytes(rows)
    blocks = ((rows_bytes + starts) // fmt.BLOCK_BYTES + 1) * (3 if spec.is_bytes else 2) * fmt.BLOCK_ENTRY_BYTES
    header = 4096 + (0 if spec.default is None else 9 * spec.dim)
    return rows * POSITION_BYTES + rows_bytes + starts + index + blocks + header


def _rows_of(part: Part) -> Iterator[tuple[UInt64Array, RawRows]]:
    if isinstance(part.holder, Piece):
        yield from part.holder.read(part.slots)
        return
    base = part.holder
    begin, end = base.row_range(part.slots.begin, part.slots.end)
    first = begin
    while first < end:
        last = base.rows_within(first, end, STEP_BYTES)
        if bad := damaged_blocks(base, first, last):
            raise DamagedBase(base, bad)
        yield base.positions_slice(first, last), base.raw_rows(first, last)
        first = last
