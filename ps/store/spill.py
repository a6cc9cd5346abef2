"""Sorted runs on disk, which take the rows that `TableWriter` has no memory for.

A run is one buffer of rows, sorted by position and appended to flat files. `slices` then cuts the ring into pieces
that fit the buffer again: since every run is sorted, a piece is one interval of each run, found by bisection; reading
and sorting those intervals yields the table's next rows in ring order. Files are read through maps, whose pages are
the system's and not the process's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import POSITION_BYTES
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.checkpoint import Checkpoint, grown_file, on_disk
from ringpull.ps.store.raw_rows import ordered_pieces

_TEXT_LENGTH: Final = struct.Struct("<I")

Interval = tuple[int, int]
"""Rows [first, last) of the spill files: a piece of one run."""


class Spill:
    """Sorted runs of (position, row, and for string tables where the string is)."""

    def __init__(self, folder: Path, row_bytes: int, *, texts: bool, resumed: Checkpoint | None = None) -> None:
        """Begin empty files in the existing, empty `folder`, or go on with those of a checkpoint; removing it is the
        caller's.

        Raises:
            CorruptData: A file is shorter than at the checkpoint.
        """
        self._folder = folder
        self._row_bytes = row_bytes
        self._ends = [0] if resumed is None else list(resumed.run_ends)
        rows = None if resumed is None else resumed.rows

        def opened_file(name: str, row_bytes: int) -> BinaryIO:
            return opened.enter_context(grown_file(folder / name, None if rows is None else rows * row_bytes))

        with ExitStack() as opened:
            self._positions_file = opened_file("positions", POSITION_BYTES)
            self._rows_file = opened_file("rows", row_bytes)
            self._text_pos_file = opened_file("text_positions", POSITION_BYTES) if texts else None
            texts_bytes = None if resumed is None else resumed.texts_bytes
            self._texts_file = opened.enter_context(grown_file(folder / "texts", texts_bytes)) if texts else None
            opened.pop_all()
        self._positions: UInt64Array = np.empty(0, np.uint64)
        self._rows: NDArray[np.uint8] = np.empty((0, row_bytes), np.uint8)
        self._text_pos: UInt64Array = np.empty(0, np.uint64)

    @property
    def rows(self) -> int:
        """Rows of all runs."""
        return self._ends[-1]

    def checkpoint(self) -> Checkpoint:
        """Wait until the files are on the disk, and return what counts of them: all that was appended."""
        files = (self._positions_file, self._rows_file, self._text_pos_file, self._texts_file)
        sizes = [0 if file is None else on_disk(file) for file in files]
        return Checkpoint(run_ends=tuple(self._ends), texts_bytes=sizes[-1])

    def append_texts(self, texts: Sequence[bytes] | BytesRows) -> UInt64Array:
        """Keep strings, in the order given; return for each where `text` finds it, uint64 (N,)."""
        assert self._texts_file is not None
        if isinstance(texts, BytesRows):
            starts = np.uint64(self._texts_file.tell()) + (
                texts.offsets[:-1] + _TEXT_LENGTH.size * np.arange(len(texts))
            ).astype(np.uint64)
            self._texts_file.write(_with_lengths(texts).data)
            return starts
        lengths = np.fromiter(map(len, texts), np.uint64, len(texts)) + np.uint64(_TEXT_LENGTH.size)
        starts = np.uint64(self._texts_file.tell()) + np.cumsum(lengths) - lengths
        self._texts_file.write(b"".join([_TEXT_LENGTH.pack(len(text)) + text for text in texts]))
        return starts

    def text(self, text_pos: int) -> bytes:
        """Return the string that `append_texts` put at `text_pos`."""
        assert self._texts_file is not None
        self._texts_file.seek(text_pos)
        (length,) = _TEXT_LENGTH.unpack(self._texts_file.read(_TEXT_LENGTH.size))
        return self._texts_file.read(length)

    def append_run(self, positions: UInt64Array, rows: NDArray[np.uint8], text_pos: UInt64Array | None) -> None:
        """Sort one buffer and append it: positions (n,), raw rows (n, row_bytes), and where their strings are."""
        order = np.argsort(positions)
        self._positions_file.write(positions[order].data)
        for piece in ordered_pieces(rows, order):
            self._rows_file.write(piece.reshape(-1).data)
        if self._text_pos_file is not None and text_pos is not None:
            self._text_pos_file.write(text_pos[order].data)
        self._ends.append(self.rows + len(positions))

    def slices(self, max_rows: int) -> Iterator[list[Interval]]:
        """Yield, in ring order, the intervals of the runs that make up one slice of the ring of at most `max_rows`
        (>= 2) rows.

        One position given more than `max_rows` times is cut to two of its rows: enough to refuse it.
        """
        if self.rows == 0:
            return
        for file in (self._positions_file, self._rows_file, self._text_pos_file):
            if file is not None:
                file.flush()
        self._positions = np.memmap(self._folder / "positions", np.uint64, "r").view(np.ndarray)
        self._rows = np.memmap(self._folder / "rows", np.uint8, "r").view(np.ndarray).reshape(-1, self._row_bytes)
        if self._text_pos_file is not None:
            self._text_pos = np.memmap(self._folder / "text_positions", np.uint64, "r").view(np.ndarray)
        runs = list(zip(self._ends, self._ends[1:], strict=False))
        yield from self._split(runs, 0, 1 << 64, max_rows)

    def _split(self, intervals: list[Interval], begin: int, end: int, max_rows: int) -> Iterator[list[Interval]]:
        """Halve the arc [begin, end) of the ring until its rows fit. Positions are uniform, so that halves are even."""
        rows = sum(last - first for first, last in intervals)
        if rows == 0:
            return
        if rows <= max_rows:
            yield intervals
        elif end - begin == 1:
            numbers = [row for first, last in intervals for row in range(first, min(last, first + 2))]
            yield [(row, row + 1) for row in numbers[:2]]
        else:
            middle = (begin + end) // 2
            cuts = [
                first + int(np.searchsorted(self._positions[first:last], np.uint64(middle)))
                for first, last in intervals
            ]
            lower = [(first, cut) for (first, _), cut in zip(intervals, cuts, strict=True) if first < cut]
            upper = [(cut, last) for (_, last), cut in zip(intervals, cuts, strict=True) if cut < last]
            yield from self._split(lower, begin, middle, max_rows)
            yield from self._split(upper, middle, end, max_rows)

    def read(
        self, intervals: list[Interval], positions: UInt64Array, rows: NDArray[np.uint8], text_pos: UInt64Array | None
    ) -> int:
        """Copy intervals end to end into the given buffers; return how many rows that is."""
        count = 0
        for first, last in intervals:
            end = count + last - first
            positions[count:end] = self._positions[first:last]
            rows[count:end] = self._rows[first:last]
            if text_pos is not None:
                text_pos[count:end] = self._text_pos[first:last]
            count = end
        return count

    def close(self) -> None:
        """Close the files. What a full disk does not take of them now is not missed: they are about to go."""
        for file in (self._positions_file, self._rows_file, self._text_pos_file, self._texts_file):
            if file is not None:
                with suppress(OSError):
                    file.close()


def _with_lengths(texts: BytesRows) -> NDArray[np.uint8]:
    """Return strings end to end, the length of each before it, as `append_texts` writes them."""
    size = _TEXT_LENGTH.size
    prefixes = (texts.offsets[:-1] + size * np.arange(len(texts)))[:, np.newaxis] + np.arange(size)
    out = np.empty(len(texts.data) + size * len(texts), np.uint8)
    of_text = np.ones(len(out), bool)
    of_text[prefixes] = False
    out[prefixes] = np.diff(texts.offsets).astype("<u4").view(np.uint8).reshape(-1, size)
    out[of_text] = texts.data
    return out
