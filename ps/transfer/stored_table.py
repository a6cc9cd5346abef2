"""Stored table: an exported table's files, read by ranges without the index.

The header, `blocks` and `position_blocks`, a few kilobytes, are read completely and verified. They give the first row,
the first position, and the checksums of rows and positions of every block of about 1 MiB. So for a slot range only the
blocks that it touches are read, and each is verified before any of its rows is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.ps.errors import CorruptData
from ringpull.ps.hashing import POSITION_BYTES, SLOT_SHIFT, SLOTS
from ringpull.ps.spec import MAX_BYTES_ROW, UInt64Array
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock
from ringpull.ps.store.format import Header
from ringpull.ps.store.links import check_links
from ringpull.ps.store.raw_rows import RawRows, rows_of
from ringpull.ps.store.sections import check_first_rows
from ringpull.ps.transfer.remote import RemoteFolder

SCAN_BYTES: Final = 8 << 20
"""Size of a read where a whole file has to be read."""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """Verified block of rows."""

    first_row: int
    positions: UInt64Array
    rows: RawRows
    """Rows as stored."""


class StoredTable:
    """Files of one table. Used by one thread at a time; every method may raise what `RemoteFolder` does."""

    def __init__(self, files: RemoteFolder, *, within: Path | None = None) -> None:
        """Refer to the files, which are read when they are first needed.

        Args:
            within: Folder that no file may lead out of through a link, for files of this machine; None: their own.
        """
        self._files = files
        self._within = within
        self._rows_below: dict[int, int] = {0: 0}
        self._positions: tuple[int, UInt64Array] | None = None
        """Positions of the block searched last; the next slot range often begins in the same block."""
        self._starts: tuple[int, UInt64Array] | None = None
        """Starts of the rows of the block asked for last."""

    @cached_property
    def header(self) -> Header:
        """Header of the table."""
        if self._files.local:
            check_links(Path(self._files.url), self._within)
        data = self._files.read(fmt.HEADER, max_bytes=fmt.MAX_HEADER_BYTES)
        return Header.from_bytes(data, self._files.where(fmt.HEADER))

    @cached_property
    def first_rows(self) -> NDArray[np.int64]:
        """First row of every block, and at the end the number of rows: int64 (blocks + 1,)."""
        return np.append(self._blocks[:, 0], np.uint64(self.header.rows)).astype(np.int64)

    def rows_below(self, slot: int) -> int:
        """Return the number of rows below a slot, 0 to 65,536, which is the number of its first row."""
        if slot == SLOTS:
            return self.header.rows
        if slot not in self._rows_below:
            self._rows_below[slot] = self._find(slot << SLOT_SHIFT)
        return self._rows_below[slot]

    def read(self, begin: int, end: int) -> list[StoredBlock]:
        """Return the blocks [begin, end), all in memory.

        Raises:
            CorruptData: A block is damaged; the message says which.
        """
        return [
            StoredBlock(
                int(self.first_rows[block]), self._verified_positions(block, positions), self._verified_rows(block, raw)
            )
            for block, positions, raw in self._raw(begin, end)
        ]

    def rows_within(self, first: int, last: int, max_bytes: int) -> int:
        """Return the end of rows [first, ...) that have about `max_bytes` together, `last` at most; at least one.

        Of a table of bytes that is the end of a block: those are read whole.
        """
        if not self.header.spec.is_bytes:
            return min(last, first + max(1, max_bytes // self.header.spec.row_bytes))
        block = int(np.searchsorted(self.first_rows, first, side="right")) - 1
        end = int(np.searchsorted(self._sizes, self._sizes[block] + max_bytes, side="right")) - 1
        return min(last, int(self.first_rows[max(block + 1, end)]))

    def rows_bytes(self, first: int, last: int) -> int:
        """Return the bytes of rows [first, last) of a table of bytes, which is where the last one ends."""
        return self._start_of(last) - self._start_of(first)

    def verify(self) -> list[BadBlock]:
        """Read everything, and return the blocks whose rows or positions are damaged.

        Raises:
            CorruptData: Anything else is damaged.
        """
        self._check_index()
        bad = []
        step = self._blocks_in(SCAN_BYTES, *fmt.ROW_FILES)
        for begin in range(0, len(self._blocks), step):
            for block, positions, raw in self._raw(begin, min(begin + step, len(self._blocks))):
                try:
                    self._verified_rows(block, raw)
                    self._verified_positions(block, positions)
                except CorruptData:
                    first, last = self.first_rows[block : block + 2].tolist()
                    slots = self._slots_of(block, positions)
                    bad.append(BadBlock(block, first, last - first, slots, self._bad_file(block, raw)))
        return bad

    def _bad_file(self, block: int, raw: tuple[bytes, bytes]) -> str:
        """Return which file has the damage of a bad block: as where it lies in an open table is said."""
        whole = xxhash.xxh3_64_intdigest(raw[0]) == int(self._blocks[block, 1])
        if whole and self.header.spec.is_bytes:
            return fmt.STARTS if xxhash.xxh3_64_intdigest(raw[1]) != int(self._start_blocks[block, 1]) else fmt.ROWS
        return fmt.ROWS

    def _raw(self, begin: int, end: int) -> Iterator[tuple[int, bytes, tuple[bytes, bytes]]]:
        """Read blocks [begin, end) at once; yield the number and positions of each, its rows and where those start, not
        verified yet."""
        if begin == end:
            return
        firsts, bounds = self.first_rows[begin : end + 1].tolist(), self._bounds[begin : end + 1].tolist()
        ranges = [(fmt.POSITIONS, POSITION_BYTES * firsts[0], POSITION_BYTES * firsts[-1])]
        ranges += [(fmt.ROWS, first, last) for first, last in pairwise(bounds)]
        if self.header.spec.is_bytes:
            ranges.append((fmt.STARTS, fmt.START_BYTES * firsts[0], fmt.START_BYTES * (firsts[-1] + 1)))
        positions, *rows = self._files.read_ranges(*ranges)
        starts = rows.pop() if self.header.spec.is_bytes else b""
        for block, (first, last), raw in zip(range(begin, end), pairwise(firsts), rows, strict=True):
            start = POSITION_BYTES * (first - firsts[0])
            size = POSITION_BYTES * (last - first)
            yield block, positions[start : start + size], (raw, starts[start : start + size + fmt.START_BYTES])

    def _slots_of(self, block: int, positions: bytes) -> tuple[int, int]:
        """Return the slots, half open, of a block's rows; if its positions are damaged, all slots that it may touch."""
        try:
            own = self._verified_positions(block, positions) >> np.uint64(SLOT_SHIFT)
        except CorruptData:
            first, *after = (self._position_blocks[block : block + 2, 0] >> np.uint64(SLOT_SHIFT)).tolist()
            return first, after[0] + 1 if after else SLOTS
        return int(own[0]), int(own[-1]) + 1

    def _find(self, position: int) -> int:
        """Return the number of positions below this one."""
        after = int(np.searchsorted(self._position_blocks[:, 0], np.uint64(position)))
        if after == 0:
            return 0
        block = after - 1  # the last block that begins below the position
        if self._positions is None or self._positions[0] != block:
            begin, end = (POSITION_BYTES * int(row) for row in self.first_rows[block : block + 2])
            [data] = self._files.read_ranges((fmt.POSITIONS, begin, end))
            self._positions = block, self._verified_positions(block, data)
        return int(self.first_rows[block]) + int(np.searchsorted(self._positions[1], np.uint64(position)))

    def _verified_rows(self, block: int, raw: tuple[bytes, bytes]) -> RawRows:
        """Return the rows of a block.

        Args:
            raw: Bytes of its rows, and of where they start and the last one ends.
        """
        data, starts = raw
        if xxhash.xxh3_64_intdigest(data) != int(self._blocks[block, 1]):
            raise self._damaged(fmt.ROWS, block)
        rows = np.frombuffer(data, np.uint8)
        if not self.header.spec.is_bytes:
            return rows.reshape(-1, self.header.spec.row_bytes)
        if xxhash.xxh3_64_intdigest(starts) != int(self._start_blocks[block, 1]):
            raise self._damaged(fmt.STARTS, block)
        first, last = self.first_rows[block : block + 2].tolist()
        # Whatever made these checksums, what is returned adds up.
        lengths = np.diff(np.frombuffer(starts, np.uint64)).astype(np.int64)
        if bool(((lengths < 0) | (lengths > MAX_BYTES_ROW)).any()):
            raise self._damaged(fmt.STARTS, block)
        return rows_of(0, last - first, rows, lengths.astype(np.uint32))

    def _verified_positions(self, block: int, data: bytes) -> UInt64Array:
        if xxhash.xxh3_64_intdigest(data) != int(self._position_blocks[block, 1]):
            raise self._damaged(fmt.POSITIONS, block)
        return np.frombuffer(data, np.uint64)

    @cached_property
    def _blocks(self) -> UInt64Array:
        """First row and checksum of the rows of every block: uint64 (blocks, 2)."""
        for name in (fmt.POSITIONS, fmt.ROWS, *([fmt.STARTS] if self.header.spec.is_bytes else [])):
            size, due = self._files.size(name), self.header.sections[name].bytes
            if size != due:
                raise CorruptData(f"{self._files.where(name)}: {size} bytes, but the header says {due}")
        blocks = self._section(fmt.BLOCKS)
        check_first_rows(blocks[:, 0], self.header.rows, self._files.where(fmt.BLOCKS))
        return blocks

    @cached_property
    def _position_blocks(self) -> UInt64Array:
        """First position and checksum of the positions of every block: uint64 (blocks, 2)."""
        if fmt.POSITION_BLOCKS in self.header.sections:
            return self._section(fmt.POSITION_BLOCKS)
        return self._scanned()

    @cached_property
    def _start_blocks(self) -> UInt64Array:
        """Start and checksum of the starts of every block of a table of bytes: uint64 (blocks, 2)."""
        return self._section(fmt.START_BLOCKS)

    @cached_property
    def _bounds(self) -> NDArray[np.int64]:
        """Begin of every block in the file of rows, and at the end its size: int64 (blocks + 1,)."""
        size = self.header.sections[fmt.ROWS].bytes
        if not self.header.spec.is_bytes:
            return self.first_rows * self.header.spec.row_bytes
        begins = self._start_blocks[:, 0]
        bounds = np.append(begins, np.uint64(size))
        if bool((bounds[1:] < bounds[:-1]).any()) or (len(begins) and begins[0] != 0):
            raise CorruptData(f"{self._files.where(fmt.START_BLOCKS)}: starts must ascend from 0 to {size}")
        return bounds.astype(np.int64)

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Bytes before every block of rows and of where they start, which blocks of empty rows have, too: int64
        (blocks + 1,)."""
        return self._bounds + self.first_rows * fmt.START_BYTES

    def _start_of(self, row: int) -> int:
        """Return where a row starts in the file of rows, from the verified starts of its block."""
        if row == self.header.rows:
            return self.header.sections[fmt.ROWS].bytes
        block = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        first, last = self.first_rows[block : block + 2].tolist()
        if row == first:
            return int(self._bounds[block])
        if self._starts is None or self._starts[0] != block:
            [data] = self._files.read_ranges((fmt.STARTS, fmt.START_BYTES * first, fmt.START_BYTES * (last + 1)))
            if xxhash.xxh3_64_intdigest(data) != int(self._start_blocks[block, 1]):
                raise self._damaged(fmt.STARTS, block)
            self._starts = block, np.frombuffer(data, np.uint64)
        return int(self._starts[1][row - first])

    def _section(self, name: str) -> UInt64Array:
        section = self.header.sections[name]
        data = self._files.read(name, max_bytes=section.bytes)
        if len(data) != section.bytes or xxhash.xxh3_64_intdigest(data) != section.checksum:
            raise CorruptData(f"{self._files.where(name)}: the checksum does not match; the file is damaged")
        return np.frombuffer(data, np.uint64).reshape(-1, 2)

    def _scanned(self) -> UInt64Array:
        """Compute the entries from all positions, in little memory, for a table of an earlier build, which has only one
        checksum for the whole file."""
        section = self.header.sections[fmt.POSITIONS]
        whole = xxhash.xxh3_64()
        entries = []
        step = self._blocks_in(SCAN_BYTES, fmt.POSITIONS)
        for begin in range(0, len(self._blocks), step):
            firsts = self.first_rows[begin : begin + step + 1]
            [raw] = self._files.read_ranges(
                (fmt.POSITIONS, POSITION_BYTES * int(firsts[0]), POSITION_BYTES * int(firsts[-1]))
            )
            data = np.frombuffer(raw, np.uint64)
            whole.update(data.data)
            for first, last in zip(firsts[:-1] - firsts[0], firsts[1:] - firsts[0], strict=True):
                entries.append((int(data[first]), xxhash.xxh3_64_intdigest(data[first:last].data)))
        if whole.intdigest() != section.checksum:
            raise CorruptData(f"{self._files.where(fmt.POSITIONS)}: the checksum does not match; the file is damaged")
        return np.array(entries, np.uint64).reshape(-1, 2)

    def _check_index(self) -> None:
        """Verify the index, which nothing else here reads."""
        section, whole = self.header.sections[fmt.INDEX], xxhash.xxh3_64()
        for begin in range(0, section.bytes, SCAN_BYTES):
            [data] = self._files.read_ranges((fmt.INDEX, begin, min(begin + SCAN_BYTES, section.bytes)))
            whole.update(data)
        if whole.intdigest() != section.checksum:
            raise CorruptData(f"{self._files.where(fmt.INDEX)}: the checksum does not match; the file is damaged")

    def _blocks_in(self, size: int, *names: str) -> int:
        """Return about how many blocks take `size` bytes of some files; at least 1."""
        total = sum(section.bytes for name, section in self.header.sections.items() if name in names)
        return max(1, size * len(self._blocks) // max(1, total))

    def _damaged(self, name: str, block: int) -> CorruptData:
        first, last = self.first_rows[block : block + 2]
        return CorruptData(
            f"{self._files.where(name)}: block {block}, rows {first} to {last}, does not match its checksum"
        )
