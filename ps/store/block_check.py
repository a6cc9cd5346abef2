"""Block check: reads stored blocks of an open base from its files, and holds them against their checksums.

It reads beside the map and not through it, without the interpreter's lock: what is read takes no memory of this
process, other threads go on meanwhile, and a file that was cut short or cannot be read is damage, where the map would
end the process (SIGBUS). Only where another file has taken the mapped one's place, the map is read. Which rows a block
has, and their checksum, is in memory from the opening of the table.

A look has three outcomes: whole, bad, and `Unavailable`: the file cannot be opened now, which says nothing of it.

Keys are checked to the slot: positions by the checksums in `position_blocks`, the index by what these positions make.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Final, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.ps.errors import CorruptData, Unavailable
from ringpull.ps.hashing import POSITION_BYTES, SLOT_SHIFT, SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.file_errors import DAMAGED, GONE

SCAN_BYTES: Final = 1 << 20
"""Size of a read where a whole file has to be read."""

Bytes = NDArray[np.uint8]
Pause = Callable[[int], None]
"""Function that is called before so many bytes are read; it may wait, or raise."""


def block_rows(base: Base, block: int) -> tuple[int, int]:
    """Return the rows [first, last) of a block."""
    firsts = base.sections.blocks[:, 0]
    return int(firsts[block]), base.rows if block + 1 == len(firsts) else int(firsts[block + 1])


def block_bytes(base: Base, block: int) -> int:
    """Return the bytes of a block's rows, and of where they start."""
    begin, end = base.block_bounds[block : block + 2].tolist()
    if not base.spec.is_bytes:
        return int(end - begin)
    first, last = block_rows(base, block)
    return int(end - begin) + (last - first + 1) * fmt.START_BYTES


def blocks_with(base: Base, ranges: Iterable[SlotRange]) -> list[int]:
    """Return the blocks that have rows of these slots, ascending; perhaps one that only has rows on either side."""
    slots = base.block_positions >> np.uint64(SLOT_SHIFT)
    touched = np.zeros(len(slots), bool)
    for each in ranges:
        touched |= (slots[:, 0] < np.uint64(each.end)) & (slots[:, 1] >= np.uint64(each.begin))
    return np.flatnonzero(touched).tolist()


class Reader:
    """Reads of one base, of which each file is opened once; a context manager, which closes them."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._files: dict[str, int] = {}
        self._buffer = np.empty(0, np.uint8)

    def read(self, name: str, mapped: NDArray[Any] | None, begin: int, end: int) -> Bytes | None:
        """Return bytes [begin, end) of a file, fewer if the storage has lost the rest; good until the next read.

        Args:
            mapped: Its map, which is read if the file is not there any more; without it the answer is None then.

        Raises:
            Unavailable: It cannot be told what the file has now.
        """
        if len(self._buffer) < end - begin:
            self._buffer = np.empty(end - begin, np.uint8)
        buffer = self._buffer[: end - begin]
        try:
            file = self._file(name)
            if file is not None:
                return buffer[: _fill(file, buffer, begin)]
        except OSError as exc:
            raise Unavailable(f"{self.base.folder / name}: cannot be read now: {exc.strerror or exc}") from exc
        if mapped is None:
            return None
        np.copyto(buffer, mapped.reshape(-1).view(np.uint8)[begin:end])
        return buffer

    def _file(self, name: str) -> int | None:
        """Return the descriptor of a file; None: it is not there any more, or another one is in its place."""
        if name in self._files:
            return self._files[name]
        path = self.base.folder / name
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            if exc.errno in GONE:
                return None
            raise Unavailable(f"{path}: cannot be opened now: {exc.strerror or exc}") from exc
        try:
            if self.base.stamps[name].is_file_of(os.fstat(file)):
                self._files[name] = file
                return file
        finally:
            if name not in self._files:
                os.close(file)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._files:
            os.close(self._files.popitem()[1])


def bad_rows(base: Base, block: int, reader: Reader | None = None) -> BadBlock | None:
    """Read the rows of a block, and where they start; return the block if they are not what was written.

    Args:
        reader: What reads them, where many blocks are read; None: the files are opened for this one.

    Raises:
        Unavailable: They cannot be read now.
    """
    if reader is None:
        with Reader(base) as reader:
            return bad_rows(base, block, reader)
    sections = base.sections
    begin, end = base.block_bounds[block : block + 2].tolist()
    data = reader.read(fmt.ROWS, sections.rows, begin, end)
    if data is None or _checksum(data) != int(sections.blocks[block, 1]):
        return as_bad(base, block)
    if base.spec.is_bytes:
        first, last = block_rows(base, block)
        data = reader.read(fmt.STARTS, sections.starts, first * fmt.START_BYTES, (last + 1) * fmt.START_BYTES)
        if data is None or _checksum(data) != int(sections.start_blocks[block, 1]):
            return as_bad(base, block, fmt.STARTS)
    return None


def as_bad(base: Base, block: int, file: str = fmt.ROWS) -> BadBlock:
    """Return a block as one that has bad rows, or where these start is bad."""
    first, last = block_rows(base, block)
    begin, end = base.block_positions[block] >> np.uint64(SLOT_SHIFT)
    return BadBlock(block, first, last - first, (int(min(begin, end)), int(max(begin, end)) + 1), file)


def is_whole(base: Base, name: str) -> bool:
    """Read a file that has one checksum; return whether it is what was written.

    Raises:
        Unavailable: It cannot be read now, or is not the file that was opened.
    """
    data = _read(base, name, None, 0, base.stamps[name].size)
    if data is None:
        raise Unavailable(f"{base.folder / name}: it is not the file any more that was opened")
    return _checksum(data) == base.checksums[name]


def key_blocks(base: Base, pause: Pause) -> UInt64Array:
    """Return the first position and the checksum of the positions of every block: uint64 (blocks, 2).

    A table of an earlier build has no such file, and one that was moved away is not there any more: all positions are
    read then.

    Raises:
        CorruptData: The file that they are in is damaged.
        Unavailable: It cannot be read now.
    """
    name = fmt.POSITION_BLOCKS
    if name not in base.stamps:
        return _scanned(base, pause)
    data = _read(base, name, None, 0, base.stamps[name].size)
    if data is None:
        return _scanned(base, pause)
    if _checksum(data) != base.checksums[name]:
        raise CorruptData(f"{base.folder / name}: the checksum does not match; the file is damaged")
    return data.view(np.uint64).reshape(-1, 2)


def bad_keys(base: Base, block: int, entries: UInt64Array) -> BadBlock | None:
    """Read the positions of a block and its part of the index; return the block if they are not what was written.

    Args:
        entries: As `key_blocks` returns them.

    Raises:
        Unavailable: They cannot be read now.
    """
    first, last = block_rows(base, block)
    own = int(entries[block, 0])
    after = int(entries[block + 1, 0]) if block + 1 < len(entries) else None
    data = _read(base, fmt.POSITIONS, base.sections.positions, first * POSITION_BYTES, last * POSITION_BYTES)
    if data is None or _checksum(data) != int(entries[block, 1]):
        end = SLOTS if after is None else (after >> SLOT_SHIFT) + 1
        return BadBlock(block, first, last - first, (own >> SLOT_SHIFT, end), fmt.POSITIONS)
    return _bad_index(base, block, data.view(np.uint64), after)


def _bad_index(base: Base, block: int, positions: UInt64Array, after: int | None) -> BadBlock | None:
    """Check the index entries from the bucket after a block's first position to that of the next block's."""
    first, last = block_rows(base, block)
    shift = 64 - base.index_bits
    begin = 0 if block == 0 else (int(positions[0]) >> shift) + 1
    end = (1 << base.index_bits) + 1 if after is None else (after >> shift) + 1
    width = base.sections.index.itemsize
    data = _read(base, fmt.INDEX, base.sections.index, begin * width, end * width)
    # The last entry of all stands for the end of the ring, which no position reaches.
    bounds = np.arange(begin, min(end, 1 << base.index_bits), dtype=np.uint64) << np.uint64(shift)
    due = np.full(end - begin, last, np.uint64)
    due[: len(bounds)] = np.searchsorted(positions, bounds) + first
    if data is not None and len(data) == width * len(due):
        wrong = np.flatnonzero(data.view(base.sections.index.dtype) != due) + begin
    else:
        wrong = np.arange(begin, end)
    if not wrong.size:
        return None
    # An entry is where one bucket ends and where the next one begins.
    low, high = max(0, int(wrong[0]) - 1), min(int(wrong[-1]), (1 << base.index_bits) - 1)
    slots = (low << shift >> SLOT_SHIFT, (((high + 1) << shift) - 1 >> SLOT_SHIFT) + 1)
    return BadBlock(block, first, last - first, slots, fmt.INDEX)


def _scanned(base: Base, pause: Pause) -> UInt64Array:
    firsts = np.append(base.sections.blocks[:, 0], np.uint64(base.rows)).astype(np.int64)
    whole = xxhash.xxh3_64()
    entries = np.empty((base.block_count, 2), np.uint64)
    step = max(1, SCAN_BYTES * base.block_count // max(1, POSITION_BYTES * base.rows))
    for begin in range(0, base.block_count, step):
        end = min(begin + step, base.block_count)
        size = int(firsts[end] - firsts[begin]) * POSITION_BYTES
        pause(size)
        start = int(firsts[begin]) * POSITION_BYTES
        data = _read(base, fmt.POSITIONS, base.sections.positions, start, start + size)
        if data is None or len(data) != size:
            break
        whole.update(data.data)
        positions = data.view(np.uint64)
        for block in range(begin, end):
            own = positions[firsts[block] - firsts[begin] : firsts[block + 1] - firsts[begin]]
            entries[block] = own[0], _checksum(own)
    if whole.intdigest() != base.checksums[fmt.POSITIONS]:
        raise CorruptData(f"{base.folder / fmt.POSITIONS}: the checksum does not match; the file is damaged")
    return entries


def _checksum(data: NDArray[Any]) -> int:
    return xxhash.xxh3_64_intdigest(data.data)


def _read(base: Base, name: str, mapped: NDArray[Any] | None, begin: int, end: int) -> Bytes | None:
    """Return bytes [begin, end) of a file, as `Reader.read` does."""
    with Reader(base) as reader:
        return reader.read(name, mapped, begin, end)


def _fill(file: int, buffer: Bytes, begin: int) -> int:
    """Read into the buffer from a place on; return how many bytes there were."""
    read = 0
    while read < len(buffer):
        try:
            count = os.preadv(file, [buffer[read:].data], begin + read)
        except OSError as exc:
            if exc.errno not in DAMAGED:
                raise
            return read
        if count == 0:
            return read
        read += count
    return read
