"""The writer of a base: takes rows in ring order, writes its files in one pass and little memory, all or nothing.

Invariants: positions strictly ascend over all `append`s and lie in the held slot ranges; files grow in a hidden
folder beside the target, are synced, and appear under their name in one rename. Sorting is
`ringpull.ps.store.writer`'s; a copy of some ranges of a base comes in order already.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import ExportError
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS
from ringpull.ps.private_files import make_private_folder, opener
from ringpull.ps.spec import TableSpec, UInt64Array
from ringpull.ps.store import format as fmt
from ringpull.ps.store.block_cutter import BlockCutter
from ringpull.ps.store.format import Header, Section, SlotRanges
from ringpull.ps.store.raw_rows import RawRows, flat

_INDEX_PIECE: Final = 1 << 16
"""Index entries made at a time, so that a wide gap between positions costs no memory."""

_WRITE_BYTES: Final = 2 << 20
"""Bytes per write of a file: one huge page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSummary:
    """A table that was written."""

    folder: Path
    spec: TableSpec
    rows: int
    bytes: int
    """Bytes of all files."""


class BaseWriter:
    """Writes one base; a context manager that leaves nothing behind unless `finish` returned."""

    def __init__(
        self,
        folder: Path,
        spec: TableSpec,
        rows: int,
        *,
        held: SlotRanges = fmt.FULL,
        copied_from: int | None = None,
        private: bool = False,
        over: Path | None = None,
    ) -> None:
        """Begin a base of exactly `rows` rows.

        Args:
            folder: Where it will be; must not exist.
            spec: Written as is.
            rows: How many rows will be appended.
            held: The slot ranges it has all rows of.
            copied_from: Of a copy: the `identity` of the base whose rows these are.
            private: It is its user's alone; else as the umask has it: another user may serve an export.
            over: Folder of a base that nobody reads any more: its files are taken, as far as they are there, and
                written over. Their pages and their blocks on disk need not be found then.

        Raises:
            ExportError: The folder exists or cannot be made.
        """
        self.folder = folder
        self._spec = spec
        self._rows_due = rows
        self._held = fmt.check_held(held)
        self._copied_from = copied_from
        self._bits = fmt.index_bits(rows)
        self._rows = 0
        self._next_bucket = 0
        self._last_position = -1
        self._blocks = BlockCutter(spec)
        self._row_bytes = 0
        self._private, self._over = private, over
        self._hidden = hidden_folder(folder, private=private)
        self._files: dict[str, _File] = {}
        try:
            with translated(spec.name, folder):
                for name in fmt.section_names(spec):
                    self._files[name] = self._file(name, checksum=name != fmt.ROWS)
        except BaseException:
            self.abort()
            raise

    def append(self, positions: UInt64Array, rows: RawRows) -> None:
        """Write the next rows.

        Args:
            positions: uint64 (n,), strictly ascending, all above the last one appended, inside the held ranges.
            rows: uint8 (n, row_bytes), C-contiguous: the rows as stored; for a table of bytes, n rows of bytes.

        Raises:
            ExportError: The positions break a rule above, or the disk is full.
        """
        count = len(positions)
        self._check_shape(rows, count)
        if count == 0:
            return
        if int(positions[0]) <= self._last_position or bool((positions[1:] <= positions[:-1]).any()):
            raise ExportError(f"table {self._spec.name}: positions do not ascend near row {self._rows}")
        self._check_held(positions)
        with translated(self._spec.name, self.folder):
            self._extend_index(positions)
            self._files[fmt.POSITIONS].write(positions)
            self._files[fmt.ROWS].write(flat(rows))
            if isinstance(rows, BytesRows):
                self._files[fmt.STARTS].write((rows.offsets[:-1] + self._row_bytes).astype(np.uint64))
                self._row_bytes += len(rows.data)
        self._blocks.append(positions, rows)
        self._rows += count
        self._last_position = int(positions[-1])

    def finish(self) -> TableSummary:
        """Write what is left, sync, and let the folder appear.

        Raises:
            ExportError: Fewer or more rows came than announced, the folder exists by now, or the disk is full.
        """
        if self._rows != self._rows_due:
            raise ExportError(f"table {self._spec.name}: {self._rows} rows came, {self._rows_due} were announced")
        with translated(self._spec.name, self.folder):
            self._write_index(np.empty(0, np.uint64), 1 << self._bits)
            self._blocks.finish()
            self._files[fmt.BLOCKS].write(self._blocks.entries)
            self._files[fmt.POSITION_BLOCKS].write(self._blocks.position_entries)
            if self._spec.is_bytes:
                self._files[fmt.STARTS].write(np.array([self._row_bytes], np.uint64))
                self._files[fmt.START_BLOCKS].write(self._blocks.start_entries)
            header = Header(
                spec=self._spec,
                rows=self._rows,
                index_bits=self._bits,
                held=self._held,
                sections={name: file.close() for name, file in self._files.items()},
                copied_from=self._copied_from,
            )
            header_file = self._files[fmt.HEADER] = self._file(fmt.HEADER, checksum=False)
            header_file.write(np.frombuffer(header.to_bytes(), np.uint8))
            header_bytes = header_file.close().bytes
            _sync_folder(self._hidden)
            if self.folder.exists():
                raise ExportError(f"table {self._spec.name}: {self.folder} exists already")
            os.rename(self._hidden, self.folder)
            _sync_folder(self.folder.parent)
        return TableSummary(
            folder=self.folder, spec=self._spec, rows=self._rows, bytes=header.section_bytes + header_bytes
        )

    def abort(self) -> None:
        """Remove what was written so far; nothing after `finish`."""
        for file in self._files.values():
            file.discard()
        shutil.rmtree(self._hidden, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _file(self, name: str, *, checksum: bool) -> _File:
        path = self._hidden / name
        over = self._over is not None and take_over(self._over / name, path)
        if over and name == fmt.ROWS and not self._spec.is_bytes:  # The disk may need the rest before the end.
            os.truncate(path, min(self._rows_due * self._spec.row_bytes, path.stat().st_size))
        return _File(path, checksum=checksum, private=self._private, over=over)

    def _check_shape(self, rows: RawRows, count: int) -> None:
        if isinstance(rows, BytesRows):
            right = self._spec.is_bytes and len(rows) == count
            what = f"{len(rows)} rows of bytes"
        else:
            right = not self._spec.is_bytes and rows.shape == (count, self._spec.row_bytes)
            what = f"shape {rows.shape}"
        if not right:
            due = "rows of bytes" if self._spec.is_bytes else f"rows of {self._spec.row_bytes} bytes"
            raise ExportError(f"table {self._spec.name}: raw rows have {what}, where {count} {due} are due")

    def _check_held(self, positions: UInt64Array) -> None:
        if self._held == fmt.FULL:
            return
        slots = (positions >> np.uint64(SLOT_SHIFT)).astype(np.int64)
        held = np.zeros(SLOTS, bool)
        for begin, end in self._held:
            held[begin:end] = True
        if not held[slots].all():
            slot = int(slots[~held[slots]][0])
            raise ExportError(
                f"table {self._spec.name}: a row of slot {slot} lies outside the held ranges {self._held}"
            )

    def _extend_index(self, positions: UInt64Array) -> None:
        """Write the entries up to the bucket of the last of these positions: what comes after cannot change them."""
        self._write_index(positions, int(positions[-1]) >> (64 - self._bits))

    def _write_index(self, positions: UInt64Array, last_bucket: int) -> None:
        entry = np.uint32 if fmt.index_entry_bytes(self._rows_due) == 4 else np.uint64
        shift = np.uint64(64 - self._bits)
        while self._next_bucket <= last_bucket:
            end = min(last_bucket + 1, self._next_bucket + _INDEX_PIECE)
            buckets = np.arange(self._next_bucket, end, dtype=np.uint64)
            counts = np.searchsorted(positions >> shift, buckets) + self._rows
            self._files[fmt.INDEX].write(counts.astype(entry))
            self._next_bucket = end


class _File:
    """A file being written, its size and, if wanted, its checksum.

    Bytes go out in whole, aligned WRITE_BYTES: the page cache then holds them in huge pages, where the file system
    can (ext4 and xfs of Linux 6.16 and later), and a mapped table costs the processor far fewer page walks.
    """

    def __init__(self, path: Path, *, checksum: bool, private: bool, over: bool) -> None:
        self._over, mode = over, "r+b" if over else "xb"
        self._file = open(path, mode, buffering=0, opener=opener if private else None)  # noqa: SIM115 - see `close`
        self._hash = xxhash.xxh3_64() if checksum else None
        self._bytes = 0
        self._pending = np.empty(_WRITE_BYTES, np.uint8)
        self._filled = 0

    def write(self, values: NDArray[np.generic]) -> None:
        if values.nbytes == 0:
            return
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        if self._hash is not None:
            self._hash.update(data.data)
        self._bytes += len(data)
        done = 0
        while done < len(data):
            if not self._filled and len(data) - done >= _WRITE_BYTES:
                self._put(data[done : done + _WRITE_BYTES])
                done += _WRITE_BYTES
                continue
            take = min(len(data) - done, _WRITE_BYTES - self._filled)
            self._pending[self._filled : self._filled + take] = data[done : done + take]
            self._filled += take
            done += take
            if self._filled == _WRITE_BYTES:
                self._flush()

    def _flush(self) -> None:
        self._put(self._pending[: self._filled])
        self._filled = 0

    def _put(self, data: NDArray[np.uint8]) -> None:
        rest = data.data
        while len(rest):
            rest = rest[self._file.write(rest) :]

    def close(self) -> Section:
        self._flush()
        if self._over:
            self._file.truncate()  # what is left of a longer one
        os.fsync(self._file.fileno())
        self._file.close()
        return Section(bytes=self._bytes, checksum=None if self._hash is None else self._hash.intdigest())

    def discard(self) -> None:
        self._file.close()


def take_over(spare: Path, path: Path) -> bool:
    """Move a file to where it is to be written over; return whether it is there.

    One that has another name is left: somebody keeps what is in it.
    """
    try:
        found = os.lstat(spare)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            return False
        os.rename(spare, path)
    except OSError:
        return False
    return True


def hidden_folder(folder: Path, *, private: bool = False) -> Path:
    """Make and return a new hidden folder beside `folder`, on the same file system, for files not complete yet.

    Args:
        private: It is its user's alone, as is what it lies in if that is missing; else as the umask has it.

    Raises:
        ExportError: `folder` exists, or nothing can be made beside it.
    """
    if folder.exists():
        raise ExportError(f"table folder {folder} exists already; an export never overwrites")
    hidden = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        if private:
            make_private_folder(hidden)
        else:
            hidden.mkdir(parents=True)
    except OSError as exc:
        raise ExportError(f"cannot make {hidden}: {exc}") from exc
    return hidden


@contextmanager
def translated(table: str, folder: Path) -> Iterator[None]:
    """Turn the operating system's errors while writing `folder` into `ExportError`."""
    try:
        yield
    except OSError as exc:
        raise ExportError(f"table {table}: cannot write {folder}: {exc}") from exc


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
