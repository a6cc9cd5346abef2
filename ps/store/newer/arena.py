"""Arena: blocks of memory that newer rows are appended to, and never written again.

A block is one piece of memory: rows, in the form and order that the files of a base have them, then the stamp of each.
Its pages are huge ones where there are, and taken ahead of the rows: one by one they would cost more than the rows do.
What nobody reads any more is the memory of other blocks next (`ringpull.ps.store.newer.spares`): nothing in it is 0.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import partial
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.format import START_BYTES
from ringpull.ps.store.kernels import address
from ringpull.ps.store.mapping import HUGE_PAGE_BYTES, anonymous
from ringpull.ps.store.newer.budget import Budget
from ringpull.ps.store.newer.spares import lent
from ringpull.ps.store.raw_rows import RawRows

_MADV_POPULATE_WRITE: Final = 23
"""Linux 5.14, <asm-generic/mman-common.h>: take pages, many at a time; Python's mmap has no name for it yet."""
_MADVISE: Final = ctypes.CDLL(None).madvise
"""Called without the interpreter, which `mmap.madvise` keeps: the kernel clears a huge page for up to 3 ms."""
_MADVISE.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

STAMP_BYTES: Final = 8
_PAGE_BYTES: Final = 4096
_LINE_BYTES: Final = 64
_USUAL_ROW_BYTES: Final = 64
"""Bytes of a row of bytes, to tell how many a block can have: of shorter ones it is full before its bytes are."""

_Memory = ctypes.Array[ctypes.c_uint8]
"""Memory of one block, as long as something views it."""


class _Area:
    """Part of a block's memory, whose pages are taken as it fills."""

    def __init__(self, lease: _Memory, begin: int, size: int) -> None:
        self._memory_at, self._begin, self._end = ctypes.addressof(lease), begin, begin + size
        self.taken_bytes = 0
        """Bytes, from its first one on, whose pages are taken."""
        self.bytes: NDArray[np.uint8] = np.frombuffer(memoryview(lease), np.uint8, size, begin)

    def take(self, used: int) -> None:
        """Take the pages of the first bytes of the area."""
        if used <= self.taken_bytes:
            return
        begin = (self._begin + self.taken_bytes) // _PAGE_BYTES * _PAGE_BYTES
        end = min(self._end, self._begin + used + HUGE_PAGE_BYTES)
        # An older kernel refuses: pages are taken as they are written to.
        _MADVISE(self._memory_at + begin, end - begin, _MADV_POPULATE_WRITE)
        self.taken_bytes = end - self._begin


class Block(Protocol):
    """One piece of an arena. Its writer is one thread."""

    nbytes: int
    stamps: UInt64Array
    """Stamp of each row, or removal, by its number in the block."""
    step: int
    """Bytes from the offset of one row to that of the next."""

    @property
    def used_bytes(self) -> int:
        """Bytes of its rows and their stamps."""
        ...

    def fields(self) -> tuple[int, int, int, int]:
        """Return the numbers that kernels know of it, `kernels.SEGMENT_FIELDS` of them."""
        ...


class RowBlock(Block, Protocol):
    """Block that has rows."""

    def fitting(self, rows: RawRows, begin: int) -> int:
        """Return how many rows there is room for, of those from `begin` on."""
        ...

    def write(self, rows: RawRows, begin: int, end: int, stamps: UInt64Array | int) -> int:
        """Append rows [begin, end) and their stamps (end - begin,); return the offset of the first."""
        ...


def _mapped(size: int, budget: Budget) -> tuple[_Memory, int]:
    """Return memory of at least so many bytes, and how many; the budget gets them back when nobody has it any more."""
    size = -(-size // _PAGE_BYTES) * _PAGE_BYTES
    memory = budget.spares.take(size, budget.left_bytes)
    size = size if memory is None else len(memory)
    budget.take(size)
    try:
        if memory is None:
            memory = anonymous(size)
        lease = lent(memory, partial(_free, budget))
    except BaseException:
        budget.give_back(size)
        raise
    return lease, size


def _free(budget: Budget, memory: mmap.mmap) -> None:
    budget.spares.put(memory)
    budget.give_back(len(memory))


class VectorBlock:
    """Block of rows that have one size."""

    def __init__(self, row_bytes: int, size: int, budget: Budget) -> None:
        self._capacity = max(1, size // (row_bytes + STAMP_BYTES))
        stamps_at = -(-self._capacity * row_bytes // _LINE_BYTES) * _LINE_BYTES
        lease, self.nbytes = _mapped(stamps_at + STAMP_BYTES * self._capacity, budget)
        self._rows_area = _Area(lease, 0, stamps_at)
        self._stamps_area = _Area(lease, stamps_at, STAMP_BYTES * self._capacity)
        self._rows = self._rows_area.bytes[: self._capacity * row_bytes].reshape(self._capacity, row_bytes)
        self.rows_at: int = address(self._rows)
        self.stamps = self._stamps_area.bytes.view(np.uint64)
        self.step = row_bytes
        self._used = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of its rows and their stamps."""
        return self._used * (self.step + STAMP_BYTES)

    def fields(self) -> tuple[int, int, int, int]:
        """Return the numbers that kernels know of it."""
        return self.rows_at, 0, 0, 0

    def fitting(self, rows: RawRows, begin: int) -> int:
        """Return how many rows there is room for, of those from `begin` on."""
        return min(len(rows) - begin, self._capacity - self._used)

    def reserved(self, count: int) -> int | None:
        """Return the number of the first of so many rows that may be written next; None: there is no room for them.

        They are no rows of the block before `keep` is called: without that the next ones are written over them.
        """
        end = self._used + count
        if end > self._capacity:
            return None
        self._rows_area.take(end * self.step)
        self._stamps_area.take(end * STAMP_BYTES)
        return self._used

    def keep(self, count: int) -> None:
        """Make the next so many rows part of the block: they and their stamps were written where `reserved` said."""
        self._used += count

    def write(self, rows: RawRows, begin: int, end: int, stamps: UInt64Array | int) -> int:
        """Append rows [begin, end) and their stamps; return the offset of the first."""
        assert not isinstance(rows, BytesRows), "a table has rows of one kind"  # which its segments check
        first = self.reserved(end - begin)
        assert first is not None, "more rows than are fitting"
        self._rows[first : first + end - begin] = rows[begin:end]
        self.stamps[first : first + end - begin] = stamps
        self.keep(end - begin)
        return first * self.step


class BytesBlock:
    """Block of rows of bytes, end to end, with where each starts, and the last one ends, beside them."""

    def __init__(self, size: int, budget: Budget) -> None:
        self._capacity = max(1, size // (_USUAL_ROW_BYTES + START_BYTES + STAMP_BYTES))
        starts_at = -(-max(1, size - self._capacity * (START_BYTES + STAMP_BYTES)) // _LINE_BYTES) * _LINE_BYTES
        stamps_at = starts_at + START_BYTES * (self._capacity + 1)
        lease, self.nbytes = _mapped(stamps_at + STAMP_BYTES * self._capacity, budget)
        self._data = _Area(lease, 0, starts_at)
        self._starts_area = _Area(lease, starts_at, stamps_at - starts_at)
        self._stamps_area = _Area(lease, stamps_at, STAMP_BYTES * self._capacity)
        self._starts: UInt64Array = self._starts_area.bytes.view(np.uint64)
        self.stamps = self._stamps_area.bytes.view(np.uint64)
        self.step = START_BYTES
        self._used = self._data_used = 0
        self._starts_area.take(START_BYTES)
        self._starts[0] = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of its rows, of where they start, and of their stamps."""
        return self._data_used + self._used * (START_BYTES + STAMP_BYTES)

    def fields(self) -> tuple[int, int, int, int]:
        """Return the numbers that kernels know of it."""
        return address(self._starts), address(self._data.bytes), len(self._data.bytes), 0

    def fitting(self, rows: RawRows, begin: int) -> int:
        """Return how many rows there is room for, of those from `begin` on."""
        assert isinstance(rows, BytesRows), "a table has rows of one kind"  # which its segments check
        room = int(rows.offsets[begin]) + len(self._data.bytes) - self._data_used
        end = int(np.searchsorted(rows.offsets, room, side="right")) - 1
        return min(end - begin, self._capacity - self._used)

    def write(self, rows: RawRows, begin: int, end: int, stamps: UInt64Array | int) -> int:
        """Append rows [begin, end) and their stamps; return the offset of the first."""
        assert isinstance(rows, BytesRows), "a table has rows of one kind"
        first, self._used = self._used, self._used + end - begin
        ends = (rows.offsets[begin + 1 : end + 1] - rows.offsets[begin] + self._data_used).astype(np.uint64)
        data = rows.data[int(rows.offsets[begin]) : int(rows.offsets[end])]
        self._data.take(self._data_used + len(data))
        self._starts_area.take((self._used + 1) * START_BYTES)
        self._stamps_area.take(self._used * STAMP_BYTES)
        self._data.bytes[self._data_used : self._data_used + len(data)] = data
        self._starts[first + 1 : self._used + 1] = ends
        self.stamps[first : self._used] = stamps
        self._data_used += len(data)
        return first * START_BYTES


class GoneBlock:
    """Block of the stamps of removals, which have no rows."""

    def __init__(self, size: int, budget: Budget) -> None:
        self._capacity = max(1, size // STAMP_BYTES)
        lease, self.nbytes = _mapped(self._capacity * STAMP_BYTES, budget)
        self._area = _Area(lease, 0, self._capacity * STAMP_BYTES)
        self.stamps: UInt64Array = self._area.bytes.view(np.uint64)
        self.step = STAMP_BYTES
        self._used = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of its stamps."""
        return self._used * STAMP_BYTES

    @property
    def room(self) -> int:
        """How many removals it can take."""
        return self._capacity - self._used

    def fields(self) -> tuple[int, int, int, int]:
        """Return the numbers that kernels know of it."""
        return 0, 0, 0, 0

    def write(self, stamps: UInt64Array) -> int:
        """Append removals; return the offset of the first."""
        first, self._used = self._used, self._used + len(stamps)
        self._area.take(self.used_bytes)
        self.stamps[first : self._used] = stamps
        return first * STAMP_BYTES
