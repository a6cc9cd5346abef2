"""Logged rows: rows of vectors where they lie in a mapped file of a log, in stretches that have one stamp each.

Nothing is copied when a log is read again: memory for its rows would cost many times what finding them does.
"""

from __future__ import annotations

import mmap
from array import array
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.kernels import address


class LoggedRows:
    """Stretches of rows of one table in one file. Its writer is one thread."""

    def __init__(self, content: mmap.mmap, row_bytes: int) -> None:
        self._content: Final = np.frombuffer(content, np.uint8)
        self._row_bytes = row_bytes
        # Mostly in the order of the file. Numbers end to end: of pushes of one row there are millions in a log, and an
        # object for each would take many times the memory of their rows.
        self._begins, self._stamps = array("q"), array("Q")

    @property
    def content(self) -> NDArray[np.uint8]:
        """The mapped file."""
        return self._content

    @property
    def last_offset(self) -> int:
        """Offset of the last stretch of the file, of those that were added."""
        return int(np.frombuffer(self._begins, np.int64).max(initial=0))

    def fields(self) -> tuple[int, int, int, int]:
        """Return the numbers that kernels know of it."""
        return address(self._content), 0, 0, 0

    def add(self, begins: NDArray[np.int64], counts: NDArray[np.int64], stamps: UInt64Array) -> UInt64Array:
        """Add stretches; return the offset of each row of them.

        Args:
            begins: Where each begins in the file, (n,).
            counts: How many rows each has.
            stamps: Stamp of each.
        """
        self._begins.frombytes(begins.tobytes())
        self._stamps.frombytes(stamps.tobytes())
        first = np.cumsum(counts) - counts
        offsets = np.repeat(begins - first * self._row_bytes, counts)
        offsets += np.arange(len(offsets)) * self._row_bytes
        return offsets.view(np.uint64)

    def stamps(self, offsets: UInt64Array) -> UInt64Array:
        """Return the stamps of rows by their offsets."""
        begins, of_each = np.frombuffer(self._begins, np.int64), np.frombuffer(self._stamps, np.uint64)
        if (begins[1:] < begins[:-1]).any():
            order = np.argsort(begins, kind="stable")
            begins, of_each = begins[order], of_each[order]
        return of_each[np.searchsorted(begins, offsets.view(np.int64), side="right") - 1]
