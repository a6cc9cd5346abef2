"""Scratch: numbers of many rows in memory that is used again, as that of blocks is.

A fold has some of each row, and memory that was never written to costs more than to fill it. Spares have it in between,
which let go of it when nobody folds for long, or rows need the room.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import weakref
from typing import Final

import numpy as np

from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.newer.spares import Spares

_HUGE_PAGE_BYTES: Final = 2 << 20
_NUMBER_BYTES: Final = 8


def scratch(count: int, spares: Spares) -> UInt64Array:
    """Return numbers, uint64 (count,), with whatever is in them; their memory is spare again once nobody has them.

    Raises:
        MemoryError: There is none left.
    """
    if count * _NUMBER_BYTES < _HUGE_PAGE_BYTES:
        return np.empty(count, np.uint64)
    size = -(-count * _NUMBER_BYTES // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    memory = spares.take(size, 2 * size)
    if memory is None:
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as exc:  # which would end the round of all tables
            raise MemoryError(str(exc)) from exc
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    # Arrays view what this exports, and so keep it: when it goes, nobody reads the memory.
    exported = (ctypes.c_uint8 * len(memory)).from_buffer(memory)
    weakref.finalize(exported, spares.put, memory).atexit = False
    return np.frombuffer(memoryview(exported), np.uint64, count)
