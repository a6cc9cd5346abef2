"""Piece: an append-only file of copied rows, kept until they are merged into a base.

It holds all rows of the slots [begin, until), and the first `tail_rows` rows of slot `until`. These determine the next
row to copy, so copying resumes after any interruption, from any source, whatever ranges are wanted by then.
Little-endian:

    0   8  magic, b"RPLPIECE"      8  4  u32 format version, 1     12  4  u32 bytes of a row
    16  8  u64 identity of the table (`ringpull.ps.store.format`)           24  8  u64 first slot

followed by blocks in the order in which they arrived:

    0   8  u64 xxh3_64 of the 24 bytes after this
    8   8  u64 xxh3_64 of positions and rows                       16  8  u64 number of rows, n
    24  8  u64 until: with this block, the slots below it are complete
    32     n x u64 positions, then n rows

Nothing is synced: opening reads the whole file, and truncates it before the first incomplete block. The base that
pieces are merged into is synced before they are deleted.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.ps.errors import CorruptData, Unavailable
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS
from ringpull.ps.private_files import write_private
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.base_writer import translated
from ringpull.ps.store.file_errors import opened
from ringpull.ps.transfer.source import Block
from ringpull.ps.wire.messages import range_checksum

MAGIC: Final = b"RPLPIECE"
FORMAT_VERSION: Final = 1
HEADER: Final = struct.Struct("<8sIIQQ")
BLOCK: Final = struct.Struct("<Q24s")
_BLOCK_FIELDS: Final = struct.Struct("<QQQ")
POSITION_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class _Stored:
    """Block of the file, and the progress of the piece including it."""

    start: int
    """File position of its payload."""
    end: int
    rows: int
    checksum: int
    first: int
    """Ring position of its first row; 0 when it has no rows."""
    last: int
    until: int
    tail_rows: int


class Piece:
    """File of copied rows. Used by one thread at a time."""

    def __init__(self, path: Path, begin: int, row_bytes: int, identity: int) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.begin = begin
        self.row_bytes = row_bytes
        self.identity = identity
        self._blocks: list[_Stored] = []

    @classmethod
    def create(cls, path: Path, begin: int, row_bytes: int, identity: int) -> Self:
        """Create an empty piece that begins at slot `begin`.

        Raises:
            ExportError: The file cannot be written.
        """
        with translated(path.parent.name, path):
            write_private(path, HEADER.pack(MAGIC, FORMAT_VERSION, row_bytes, identity, begin))
        return cls(path, begin, row_bytes, identity)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing piece, and cut off an incomplete block at its end.

        Raises:
            CorruptData: The file does not have the header of a piece.
        """
        with opened(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            header = file.read(HEADER.size)
            if len(header) < HEADER.size or header[:12] != MAGIC + FORMAT_VERSION.to_bytes(4, "little"):
                raise CorruptData(f"{path}: not a piece of format version {FORMAT_VERSION}")
            _, _, row_bytes, identity, begin = HEADER.unpack(header)
            piece = cls(path, begin, row_bytes, identity)
            while piece._recover(file, size):
                pass
        if piece.bytes < size:
            os.truncate(path, piece.bytes)
        return piece

    @property
    def until(self) -> int:
        """End of the complete slots: all rows of [begin, until) are in the file."""
        return self._blocks[-1].until if self._blocks else self.begin

    @property
    def tail_rows(self) -> int:
        """Number of rows of slot `until` in the file."""
        return self._blocks[-1].tail_rows if self._blocks else 0

    @property
    def rows(self) -> int:
        """Number of rows in the file."""
        return sum(block.rows for block in self._blocks)

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self._blocks[-1].end if self._blocks else HEADER.size

    def append(self, block: Block, until: int) -> None:
        """Append the next block, which was checked before. With it the slots below `until` are complete.

        Raises:
            ExportError: The disk is full.
        """
        fields = _BLOCK_FIELDS.pack(block.checksum, len(block.positions), until)
        head = BLOCK.pack(xxhash.xxh3_64_intdigest(fields), fields)
        with translated(self.path.parent.name, self.path), self.path.open("r+b") as file:
            file.seek(self.bytes)
            for part in (head, block.positions.tobytes(), np.ascontiguousarray(block.rows).data):
                file.write(part)
        self._count_in(block.positions, block.checksum, until)

    def count(self, slots: SlotRange) -> int:
        """Return how many rows of these slots it has."""
        rows = 0
        with self.path.open("rb") as file:
            for block in self._blocks_of(slots):
                if block.first >= slots.begin << SLOT_SHIFT and block.last < slots.end << SLOT_SHIFT:
                    rows += block.rows
                else:
                    file.seek(block.start)
                    begin, end = _interval(np.fromfile(file, np.uint64, block.rows), slots)
                    rows += end - begin
        return rows

    def read(self, slots: SlotRange) -> Iterator[tuple[UInt64Array, NDArray[np.uint8]]]:
        """Yield positions and rows, uint8 (n, row_bytes), of these slots in ring order.

        Raises:
            Unavailable: A block was damaged since it was written. The file was truncated before it; the rest has to be
                copied again.
        """
        with self.path.open("rb") as file:
            for block in self._blocks_of(slots):
                file.seek(block.start)
                positions, rows = self._payload(file, block.rows)
                if len(rows) != block.rows * self.row_bytes or range_checksum(positions, rows) != block.checksum:
                    self._cut(block)
                    raise Unavailable(f"{self.path} was damaged; it was cut before the damage: prepare again")
                begin, end = _interval(positions, slots)
                yield positions[begin:end], rows.reshape(-1, self.row_bytes)[begin:end]

    def __repr__(self) -> str:
        return f"<Piece {self.path.name} slots {self.begin} to {self.until} rows={self.rows}>"

    def _recover(self, file: BinaryIO, size: int) -> bool:
        """Take in the block at the file's position if it is complete and undamaged; return whether it was."""
        head = file.read(BLOCK.size)
        if len(head) < BLOCK.size:
            return False
        head_checksum, fields = BLOCK.unpack(head)
        if xxhash.xxh3_64_intdigest(fields) != head_checksum:
            return False
        checksum, rows, until = _BLOCK_FIELDS.unpack(fields)
        if file.tell() + rows * (POSITION_BYTES + self.row_bytes) > size:
            return False
        positions, raw = self._payload(file, rows)
        if range_checksum(positions, raw) != checksum:
            return False
        self._count_in(positions, checksum, until)
        return True

    def _payload(self, file: BinaryIO, rows: int) -> tuple[UInt64Array, NDArray[np.uint8]]:
        return np.fromfile(file, np.uint64, rows), np.fromfile(file, np.uint8, rows * self.row_bytes)

    def _count_in(self, positions: UInt64Array, checksum: int, until: int) -> None:
        tail = _interval(positions, SlotRange(until, SLOTS)) if until < SLOTS else (0, 0)
        start, rows = self.bytes + BLOCK.size, len(positions)
        self._blocks.append(
            _Stored(
                start=start,
                end=start + rows * (POSITION_BYTES + self.row_bytes),
                rows=rows,
                checksum=checksum,
                first=int(positions[0]) if rows else 0,
                last=int(positions[-1]) if rows else 0,
                until=until,
                tail_rows=tail[1] - tail[0] + (self.tail_rows if until == self.until else 0),
            )
        )

    def _blocks_of(self, slots: SlotRange) -> list[_Stored]:
        """Return the blocks that have rows of these slots."""
        begin, end = slots.begin << SLOT_SHIFT, slots.end << SLOT_SHIFT
        return [block for block in self._blocks if block.rows and block.first < end and block.last >= begin]

    def _cut(self, damaged: _Stored) -> None:
        del self._blocks[self._blocks.index(damaged) :]
        os.truncate(self.path, self.bytes)


def _interval(positions: UInt64Array, slots: SlotRange) -> tuple[int, int]:
    """Return which of these ascending positions lie in the slots, half open."""
    begin = int(np.searchsorted(positions, np.uint64(slots.begin << SLOT_SHIFT)))
    if slots.end == SLOTS:
        return begin, len(positions)
    return begin, int(np.searchsorted(positions, np.uint64(slots.end << SLOT_SHIFT)))
