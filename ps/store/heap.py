"""Heap of a writer: bytes of rows of any length, of which the sorted runs beside it hold references only.

A reference is 16 bytes, where a row starts and how long it is, so that runs, slices and their sorting know rows of one
size. The buffer's rows go to the end of the file in the order of their positions: each run is one stretch of it, and a
slice of all runs reads a window of each, in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.spec import MAX_BYTES_ROW, UInt64Array
from ringpull.ps.store.checkpoint import grown_file, on_disk
from ringpull.ps.store.raw_rows import gathered_pieces

REFERENCE_BYTES: Final = 16

Bytes = NDArray[np.uint8]


class Heap:
    """Buffer of rows, and a file for those that are in a run."""

    def __init__(self, path: Path, buffer_bytes: int, resumed_bytes: int | None = None) -> None:
        """Begin an empty file, or go on with one of so many bytes; removing it is the caller's.

        Raises:
            CorruptData: It has fewer.
        """
        self._path = path
        self._file = grown_file(path, resumed_bytes)
        self._end = resumed_bytes or 0
        self._buffer = np.empty(max(buffer_bytes, MAX_BYTES_ROW), np.uint8)
        self._filled = 0
        self._mapped: Bytes = np.empty(0, np.uint8)

    def room(self, rows: BytesRows, begin: int) -> int:
        """Return how many of the rows from `begin` on fit into the buffer."""
        until = int(rows.offsets[begin]) + len(self._buffer) - self._filled
        return int(np.searchsorted(rows.offsets, until, side="right")) - 1 - begin

    def add(self, rows: BytesRows, begin: int, end: int) -> Bytes:
        """Take rows [begin, end), for which there is room, into the buffer; return their references, uint8 (n, 16)."""
        first, last = int(rows.offsets[begin]), int(rows.offsets[end])
        self._buffer[self._filled : self._filled + last - first] = rows.data[first:last]
        references = np.empty((end - begin, 2), np.int64)
        references[:, 0] = rows.offsets[begin:end] - first + self._filled
        references[:, 1] = np.diff(rows.offsets[begin : end + 1])
        self._filled += last - first
        return references.view(np.uint8)

    def flush(self, positions: UInt64Array, references: Bytes) -> None:
        """Write the buffer's rows in the order of their positions, and change the references to where they are now."""
        order = np.argsort(positions)
        numbers = references.view(np.int64)
        starts, lengths = numbers[order, 0], numbers[order, 1]
        for piece in gathered_pieces(self._buffer, starts, lengths.astype(np.uint32)):
            self._file.write(piece.data.data)
        numbers[order, 0] = self._end + np.cumsum(lengths) - lengths
        self._end += self._filled
        self._filled = 0

    def checkpoint(self) -> int:
        """Wait until the file is on the disk; return its bytes. The buffer is empty."""
        return on_disk(self._file)

    def pieces(self, references: Bytes) -> Iterator[BytesRows]:
        """Yield the rows of these references, which are in the file, in pieces of a few MiB or of one row."""
        if not len(self._mapped) and self._end:
            self._file.flush()
            self._mapped = np.memmap(self._path, np.uint8, "r").view(np.ndarray)
        numbers = np.ascontiguousarray(references).view(np.int64)
        yield from gathered_pieces(self._mapped, numbers[:, 0].copy(), numbers[:, 1].astype(np.uint32))

    def close(self) -> None:
        """Close the file. What a full disk does not take of it now is not missed: it is about to go."""
        with suppress(OSError):
            self._file.close()
