"""Spool: rows in ring order that wait until it is known how many they are, which their table says first.

Few of them wait in memory, more in a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import ExportError
from ringpull.ps.hashing import POSITION_BYTES
from ringpull.ps.spec import TableSpec, UInt64Array
from ringpull.ps.store.base_writer import BaseWriter, TableSummary, translated
from ringpull.ps.store.raw_rows import LENGTH_BYTES, RawRows, flat, lengths_of, rows_of

MEMORY_BYTES: Final = 64 << 20
"""Bytes that wait in memory at most."""


class Spool:
    """Rows of one table that are collected, and written as a base in the end."""

    def __init__(self, path: Path, spec: TableSpec) -> None:
        """Begin without rows.

        Args:
            path: File that is made for those that memory is not to hold, and grows; it goes with `close`.
        """
        self._spec = spec
        self._path = path
        self._file: BinaryIO | None = None
        self._blocks: list[tuple[int, int]] = []
        """Rows and bytes of rows of each block in the file."""
        self._kept: list[tuple[UInt64Array, RawRows]] = []
        """Blocks in memory, which come after those in the file."""
        self._kept_bytes = 0
        self.rows = 0

    def add(self, positions: UInt64Array, rows: RawRows) -> None:
        """Add rows, which come after those that were added, and are the spool's from now on.

        Raises:
            ExportError: The disk is full.
        """
        if not len(positions):
            return
        self._kept.append((positions, rows))
        self._kept_bytes += sum(part.nbytes for part in _parts(positions, rows))
        self.rows += len(positions)
        if self._kept_bytes > MEMORY_BYTES:
            with translated(self._spec.name, self._path):
                self._spill()

    def _spill(self) -> None:
        """Move what is in memory to the file."""
        if self._file is None:
            self._file = self._path.open("w+b")
        for positions, rows in self._kept:
            for part in _parts(positions, rows):
                self._file.write(np.ascontiguousarray(part).data)
            self._blocks.append((len(positions), len(flat(rows))))
        self._kept, self._kept_bytes = [], 0

    def write(self, folder: Path) -> TableSummary:
        """Write what was added as a base.

        Raises:
            ExportError: The folder exists or cannot be made, or the disk is full.
        """
        with BaseWriter(folder, self._spec, self.rows) as writer:
            for positions, rows in self._read():
                writer.append(positions, rows)
            return writer.finish()

    def close(self) -> None:
        """Let go of the rows, and remove the file."""
        self._kept = []
        if self._file is not None:
            with suppress(OSError):  # what it buffers may not fit the disk
                self._file.close()
            self._path.unlink(missing_ok=True)

    def _read(self) -> Iterator[tuple[UInt64Array, RawRows]]:
        if self._file is not None:
            yield from self._read_file(self._file)
        yield from self._kept

    def _read_file(self, file: BinaryIO) -> Iterator[tuple[UInt64Array, RawRows]]:
        with translated(self._spec.name, self._path):
            file.seek(0)
        for count, size in self._blocks:
            lengths = np.empty(count if self._spec.is_bytes else 0, np.uint32)
            content = np.fromfile(file, np.uint8, count * POSITION_BYTES + len(lengths) * LENGTH_BYTES + size)
            positions, rest = np.split(content, [count * POSITION_BYTES])
            raw_lengths, data = np.split(rest, [len(lengths) * LENGTH_BYTES])
            if len(data) != size:
                raise ExportError(f"table {self._spec.name}: {self._path} was cut")
            lengths = raw_lengths.view(np.uint32)
            yield positions.view(np.uint64), rows_of(self._spec.row_bytes, count, data, lengths)

    def __repr__(self) -> str:
        return f"<Spool {self._path} {self.rows} rows>"


def _parts(positions: UInt64Array, rows: RawRows) -> tuple[NDArray[Any], ...]:
    """Return what is written of a block."""
    return positions, lengths_of(rows), flat(rows)
