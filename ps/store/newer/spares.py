"""Spares: memory of blocks that nobody reads any more, kept for the next ones.

Memory that was never written to costs many times what rows cost that are copied into it: the kernel clears its pages,
and below a hypervisor they may have to be found first. Blocks come and go with every fold, so theirs is used again.
"""

from __future__ import annotations

import ctypes
import mmap
import time
import weakref
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Final, NamedTuple

MAX_WASTE: Final = 1.25
"""Largest spare that is given away, in times of what is asked for."""
KEEP_S: Final = 60.0
"""Time after which a spare that nobody asked for goes back to the system."""


def lent(memory: mmap.mmap, take_back: Callable[[mmap.mmap], None]) -> ctypes.Array[ctypes.c_uint8]:
    """Return the bytes of a piece of memory for arrays to view, which keep it; `take_back` has it when none does."""
    exported = (ctypes.c_uint8 * len(memory)).from_buffer(memory)
    weakref.finalize(exported, take_back, memory).atexit = False
    return exported


class _Spare(NamedTuple):
    memory: mmap.mmap
    since_s: float


class Spares:
    """Pieces of memory that are free. From any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._returned: deque[_Spare] = deque()
        """What came back: in the middle of whatever its last reader's thread did, so without a lock."""
        self._spares: list[_Spare] = []  # oldest first
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of all spares."""
        with self._lock:
            return sum(len(each.memory) for each in self._all())

    def put(self, memory: mmap.mmap) -> None:
        """Keep a piece that nobody reads or writes any more."""
        self._returned.append(_Spare(memory, self._clock()))

    def take(self, size: int, most: int) -> mmap.mmap | None:
        """Return a piece of `size` bytes or some more, `most` at most, with whatever is in it; None: there is none."""
        with self._lock:
            fitting = [each for each in self._all() if size <= len(each.memory) <= min(most, MAX_WASTE * size)]
            if not fitting:
                return None
            found = min(reversed(fitting), key=lambda each: len(each.memory))
            self._spares = [each for each in self._spares if each is not found]
            return found.memory

    def shrink(self, limit_bytes: int = 0) -> None:
        """Give back to the system what was not asked for lately, and the oldest spares beyond a limit."""
        with self._lock:
            spares, since_s = self._all(), self._clock() - KEEP_S
            kept = [each for each in spares if each.since_s >= since_s]
            size = sum(len(each.memory) for each in kept)
            while kept and size > limit_bytes:
                size -= len(kept.pop(0).memory)
            self._spares = kept

    def _all(self) -> list[_Spare]:
        while self._returned:
            self._spares.append(self._returned.popleft())
        return self._spares
