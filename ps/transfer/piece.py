"""Piece: an append-only file of copied rows, kept until they are merged into a base.

It holds all rows of the slots [begin, until), and the first `tail_rows` rows of slot `until`. These determine the next
row to copy, so copying resumes after any interruption, from any source, whatever ranges are wanted by then.
Little-endian:

    0   8  magic, b"RPLPIECE"      8  4  u32 format version        12  4  u32 bytes of a row
    16  8  u64 identity of the table (`ringpull.ps.store.format`)           24  8  u64 first slot

followed by blocks in the order in which they arrived:

    0   8  u64 xxh3_64 of the 24 bytes after this
    8   8  u64 xxh3_64 of positions and rows                       16  8  u64 number of rows, n
    24  8  u64 until: with this block, the slots below it are complete
    32     n x u64 positions, then n rows

In format version 1 all rows have the same number of bytes. In version 2, of rows of bytes, that number is 0, and
between positions and rows lie n x u32, how many bytes each row has.

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
from ringpull.ps.hashing import POSITION_BYTES, SLOT_SHIFT, SLOTS
from ringpull.ps.private_files import write_private
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.base_writer import translated
from ringpull.ps.store.file_errors import opened
from ringpull.ps.store.raw_rows import LENGTH_BYTES, NO_LENGTHS, Lengths, RawRows, part_of, rows_of
from ringpull.ps.transfer.source import Block
from ringpull.ps.wire.messages import range_checksum

MAGIC: Final = b"RPLPIECE"
FORMAT_VERSIONS: Final = (1, 2)
"""Versions that this build reads: of rows of one size, and of rows of bytes."""
HEADER: Final = struct.Struct("<8sIIQQ")
BLOCK: Final = struct.Struct("<Q24s")
_BLOCK_FIELDS: Final = struct.Struct("<QQQ")


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
    data_bytes: int
    """Bytes of its rows."""
    tail_bytes: int
    """Bytes of the payload that the tail rows take."""


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

        Args:
            row_bytes: Bytes of each row; 0: they have lengths of their own.

        Raises:
            ExportError: The file cannot be written.
        """
        with translated(path.parent.name, path):
            write_private(path, HEADER.pack(MAGIC, 1 if row_bytes else 2, row_bytes, identity, begin))
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
            if len(header) < HEADER.size or header[:8] != MAGIC:
                raise CorruptData(f"{path}: not a piece")
            _, version, row_bytes, identity, begin = HEADER.unpack(header)
            if version not in FORMAT_VERSIONS or (version == 1) != (row_bytes > 0):
                known = " and ".join(map(str, FORMAT_VERSIONS))
                raise CorruptData(
                    f"{path}: not a piece of format version {known}: it is of {version}, with rows of {row_bytes} bytes"
                )
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
    def tail_bytes(self) -> int:
        """Bytes of these rows, with positions and lengths."""
        return self._blocks[-1].tail_bytes if self._blocks else 0

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
            for part in (
                head,
                block.positions.tobytes(),
                block.lengths.tobytes(),
                np.ascontiguousarray(block.rows).data,
            ):
                file.write(part)
        self._count_in(block.positions, block.lengths, block.checksum, until)

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

    def row_data_bytes(self, slots: SlotRange) -> int:
        """Return how many bytes its rows of these slots have, without keys."""
        if self.row_bytes:
            return self.count(slots) * self.row_bytes
        size = 0
        with self.path.open("rb") as file:
            for block in self._blocks_of(slots):
                if block.first >= slots.begin << SLOT_SHIFT and block.last < slots.end << SLOT_SHIFT:
                    size += block.data_bytes
                else:
                    file.seek(block.start)
                    begin, end = _interval(np.fromfile(file, np.uint64, block.rows), slots)
                    size += int(np.fromfile(file, np.uint32, block.rows)[begin:end].sum(dtype=np.int64))
        return size

    def read(self, slots: SlotRange) -> Iterator[tuple[UInt64Array, RawRows]]:
        """Yield positions and rows of these slots in ring order.

        Raises:
            Unavailable: A block was damaged since it was written. The file was truncated before it; the rest has to be
                copied again.
        """
        with self.path.open("rb") as file:
            for block in self._blocks_of(slots):
                file.seek(block.start)
                positions, lengths, data = self._payload(file, block.rows, block.end)
                if len(data) != block.data_bytes or range_checksum(positions, data, lengths) != block.checksum:
                    self._cut(block)
                    raise Unavailable(f"{self.path} was damaged; it was cut before the damage: prepare again")
                begin, end = _interval(positions, slots)
                yield positions[begin:end], part_of(rows_of(self.row_bytes, block.rows, data, lengths), begin, end)

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
        if file.tell() + rows * self._min_row_bytes > size:
            return False
        positions, lengths, data = self._payload(file, rows, size)
        if range_checksum(positions, data, lengths) != checksum:
            return False
        try:
            rows_of(self.row_bytes, rows, data, lengths)
        except CorruptData:
            return False
        self._count_in(positions, lengths, checksum, until)
        return True

    @property
    def _min_row_bytes(self) -> int:
        """Bytes of the payload that a row takes, of rows of bytes without these."""
        return POSITION_BYTES + (self.row_bytes or LENGTH_BYTES)

    def _payload(self, file: BinaryIO, rows: int, end: int) -> tuple[UInt64Array, Lengths, NDArray[np.uint8]]:
        """Read a payload of so many rows, which ends before a file position: positions, lengths, and bytes of rows."""
        positions = np.fromfile(file, np.uint64, rows)
        if self.row_bytes:
            return positions, NO_LENGTHS, np.fromfile(file, np.uint8, rows * self.row_bytes)
        lengths = np.fromfile(file, np.uint32, rows)
        size = max(0, min(int(lengths.sum(dtype=np.int64)), end - file.tell()))
        return positions, lengths, np.fromfile(file, np.uint8, size)

    def _count_in(self, positions: UInt64Array, lengths: Lengths, checksum: int, until: int) -> None:
        tail = _interval(positions, SlotRange(until, SLOTS)) if until < SLOTS else (0, 0)
        start, rows = self.bytes + BLOCK.size, len(positions)
        tail_rows = tail[1] - tail[0]
        tail_bytes = tail_rows * self._min_row_bytes + int(lengths[tail[0] : tail[1]].sum(dtype=np.int64))
        own_bytes = int(lengths.sum(dtype=np.int64))
        self._blocks.append(
            _Stored(
                start=start,
                end=start + rows * self._min_row_bytes + own_bytes,
                rows=rows,
                checksum=checksum,
                first=int(positions[0]) if rows else 0,
                last=int(positions[-1]) if rows else 0,
                until=until,
                tail_rows=tail_rows + (self.tail_rows if until == self.until else 0),
                data_bytes=rows * self.row_bytes + own_bytes,
                tail_bytes=tail_bytes + (self.tail_bytes if until == self.until else 0),
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
