"""Fold: all pushed rows of one table as a file of their shard, so that neither memory nor log must keep them.

    SHARD.live/MODEL/LINEAGE/TABLE/fold-000003/
        rows/     an ordinary table folder; its spec is that of numbers of as many bytes as a row has
        stamps    u64 of each of its rows
        gone      u64 positions of removed keys, ascending, then u64 stamp of each
        about     16 hexadecimal digits, xxh3_64 of what follows the line; then JSON: what it is of, and checksums

A fold has all that was pushed up to the stamp `through`, and perhaps later pushes, too: those are in the log. It is
written in a hidden folder, synced, and renamed. A table has one; when a new one is used, the one before it is deleted,
or hidden: the next is written over its files then, if nobody reads them any more.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from weakref import ref

import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.live.log_file import sync_folder
from ringpull.ps.live.record import LiveName
from ringpull.ps.private_files import make_private_folder, open_private
from ringpull.ps.spec import RowType, TableSpec, UInt64Array
from ringpull.ps.store.base import Base
from ringpull.ps.store.base_writer import BaseWriter, take_over
from ringpull.ps.store.mapping import watched
from ringpull.ps.store.raw_rows import RawRows

FORMAT: Final = 1
PREFIX: Final = "fold-"
ROWS, STAMPS, GONE, ABOUT = "rows", "stamps", "gone", "about"
MIN_SPARE_BYTES: Final = 2 << 20
"""Bytes of rows from which on a fold is kept to be written over: one write of a file, and one huge page."""
_DIGEST_CHARS: Final = 16
_FOLDERS_ABOVE: Final = 5
"""TABLE, LINEAGE, MODEL, the folder of folds, and that of the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AboutFold:
    """What a fold is of."""

    format: int
    model: str
    lineage: int
    table: str
    shard: int
    row_bytes: int
    through: int
    """Stamp of the last push of which it has all."""
    stamps_checksum: int
    gone_checksum: int

    @property
    def name(self) -> LiveName:
        """Name of the table."""
        return LiveName(self.model, self.lineage, self.table)


@dataclass(frozen=True, slots=True)
class Fold:
    """Fold that is open."""

    folder: Path
    about: AboutFold
    base: Base
    stamps: UInt64Array
    gone_positions: UInt64Array
    gone_stamps: UInt64Array


@dataclass(frozen=True, slots=True)
class SpareFold:
    """Fold that another one replaced, kept out of sight for the next one to be written over its files.

    Their pages and their blocks on disk are there, and are no more than those of a fold that is mapped and deleted.
    """

    folder: Path
    """A hidden one, which a start deletes."""
    maps: tuple[ref[mmap.mmap], ...]

    @property
    def is_read(self) -> bool:
        """Whether somebody may read it still: a look-up, a stream or a check that has its table, or its base.

        Once nobody does, nobody can: its files are nowhere but in these maps. Other processes are told of no fold.
        """
        return any(each() is not None for each in self.maps)

    def remove(self) -> None:
        """Delete what is left of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def spared(base: Base) -> SpareFold | None:
    """Hide a fold that was replaced, and keep it; None: it is not worth that, or cannot be hidden.

    Args:
        base: Its rows.
    """
    folder, sections = base.folder.parent, base.sections
    if base.rows_bytes < MIN_SPARE_BYTES:
        return None
    hidden = folder.with_name(f".{folder.name}.spare.tmp")
    try:
        folder.rename(hidden)
        sync_folder(folder.parent)  # A power cut must not bring back its name once it is written over.
    except OSError:
        return None
    mapped = (sections.index, sections.positions, sections.rows, sections.starts)
    return SpareFold(hidden, tuple(watched(each) for each in mapped if each.size))


def spec_of(name: LiveName, row_bytes: int) -> TableSpec:
    """Return the spec of a fold's rows: no look-up reads them by it, only their size counts."""
    if not row_bytes:
        return TableSpec(name=name.table, dim=0, row_type=RowType.BYTES)
    if row_bytes % 4:
        return TableSpec(name=name.table, dim=row_bytes // 2, row_type=RowType.BFLOAT16)
    return TableSpec(name=name.table, dim=row_bytes // 4)


def folder_of(live: Path, name: LiveName) -> Path:
    """Return the folder that the folds of a table lie in."""
    return live / name.model / f"{name.lineage:016x}" / name.table


def fold_folders(live: Path) -> Iterator[Path]:
    """Yield the folders of all folds of a shard, those that are not whole left out, older ones of a table first."""
    yield from sorted(live.glob(f"*/*/*/{PREFIX}*"), key=lambda path: (path.parent, _number(path)))


def remove_unfinished(live: Path) -> None:
    """Delete what folds that were not written, or not deleted, to their end left."""
    for path in live.glob(f"*/*/*/.{PREFIX}*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def next_folder(live: Path, name: LiveName) -> Path:
    """Return the folder of the next fold of a table."""
    numbers = [_number(path) for path in folder_of(live, name).glob(f"{PREFIX}*")]
    return folder_of(live, name) / f"{PREFIX}{max(numbers, default=0) + 1:06d}"


def _number(path: Path) -> int:
    text = path.name.removeprefix(PREFIX)
    return int(text) if text.isdecimal() else 0


class FoldWriter:
    """Writes one fold: rows in ring order, then what else is of it."""

    def __init__(self, folder: Path, name: LiveName, row_bytes: int, rows: int, spare: SpareFold | None = None) -> None:
        """Begin a fold of exactly so many rows.

        Args:
            spare: One that nobody reads, to be written over. Nothing of it is left in the end, whatever fails.

        Raises:
            OSError: The disk is full, or fails.
            ExportError: It is.
        """
        self._folder, self._name, self._row_bytes = folder, name, row_bytes
        self._hidden = folder.with_name(f".{folder.name}.tmp")
        self._spare = spare
        shutil.rmtree(self._hidden, ignore_errors=True)
        over = None if spare is None else spare.folder / ROWS
        try:
            make_private_folder(self._hidden)
            self._rows = BaseWriter(self._hidden / ROWS, spec_of(name, row_bytes), rows, private=True, over=over)
        except BaseException:
            self._remove()
            raise

    def append(self, positions: UInt64Array, rows: RawRows) -> None:
        """Write the next rows."""
        self._rows.append(positions, rows)

    def finish(
        self, shard: int, through: int, stamps: UInt64Array, gone_positions: UInt64Array, gone_stamps: UInt64Array
    ) -> Path:
        """Write what is left, sync, and let the folder appear."""
        self._rows.finish()
        gone = np.concatenate([gone_positions, gone_stamps])
        about = AboutFold(
            format=FORMAT,
            model=self._name.model,
            lineage=self._name.lineage,
            table=self._name.table,
            shard=shard,
            row_bytes=self._row_bytes,
            through=through,
            stamps_checksum=_checksum(stamps),
            gone_checksum=_checksum(gone),
        )
        body = json.dumps(asdict(about)).encode()
        content = f"{xxhash.xxh3_64_hexdigest(body)}\n".encode() + body
        for file, data in ((STAMPS, stamps.data), (GONE, gone.data), (ABOUT, memoryview(content))):
            self._write(self._hidden / file, data)
        if self._spare is not None:
            self._spare.remove()
        sync_folder(self._hidden)
        os.rename(self._hidden, self._folder)
        for above in self._folder.parents[:_FOLDERS_ABOVE]:  # which may be new themselves
            sync_folder(above)
        return self._folder

    def abort(self) -> None:
        """Remove what was written; nothing after `finish`."""
        self._rows.abort()
        self._remove()

    def _write(self, path: Path, data: memoryview) -> None:
        over = self._spare is not None and take_over(self._spare.folder / path.name, path)
        with open_private(path, "r+b" if over else "xb") as out:
            out.write(data)
            out.truncate()
            out.flush()
            os.fsync(out.fileno())

    def _remove(self) -> None:
        shutil.rmtree(self._hidden, ignore_errors=True)
        if self._spare is not None:
            self._spare.remove()


def open_fold(folder: Path, stamps: UInt64Array | None = None) -> Fold:
    """Open a fold, and check all of it but its rows, whose blocks have checksums.

    Args:
        stamps: Its stamps, where they were written just now; None: they are read.

    Raises:
        CorruptData: It is damaged; names the file.
    """
    about = _about(folder)
    base = Base.open(folder / ROWS)
    stamps = _numbers(folder / STAMPS, about.stamps_checksum) if stamps is None else stamps
    gone = _numbers(folder / GONE, about.gone_checksum)
    if len(stamps) != base.rows or len(gone) % 2:
        raise CorruptData(f"{folder}: {len(stamps)} stamps and {len(gone)} numbers of keys that went; {base.rows} rows")
    half = len(gone) // 2
    return Fold(folder, about, base, stamps, gone[:half], gone[half:])


def remove_folds(folder: Path, *, but: Path | None = None, spare: SpareFold | None = None) -> None:
    """Delete the folds of a table but one, and what was left of unfinished ones, but for a spare one."""
    for path in folder.glob(f"{PREFIX}*"):
        if path != but:
            remove_fold(path)
    for path in folder.glob(f".{PREFIX}*.tmp"):
        if spare is None or path != spare.folder:
            shutil.rmtree(path, ignore_errors=True)


def remove_fold(path: Path) -> None:
    """Delete a fold: it is whole or not there, also where this is killed."""
    hidden = path.with_name(f".{path.name}.tmp")
    with suppress(OSError):
        path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _about(folder: Path) -> AboutFold:
    path = folder / ABOUT
    try:
        content = path.read_bytes()
        digest, body = content[:_DIGEST_CHARS], content[_DIGEST_CHARS + 1 :]
        if digest.decode() != xxhash.xxh3_64_hexdigest(body):
            raise CorruptData(f"{path}: is damaged")
        fields: dict[str, Any] = json.loads(body)
        if fields["format"] != FORMAT:
            raise CorruptData(f"{path}: is of format {fields['format']}; this build reads {FORMAT}")
        return AboutFold(**fields)
    except (OSError, ValueError, TypeError, KeyError, InvalidInput) as exc:
        raise CorruptData(f"{path}: cannot be read: {exc}") from exc


def _numbers(path: Path, checksum: int) -> UInt64Array:
    try:
        numbers: NDArray[np.uint64] = np.frombuffer(path.read_bytes(), np.uint64)
    except (OSError, ValueError) as exc:
        raise CorruptData(f"{path}: cannot be read: {exc}") from exc
    if _checksum(numbers) != checksum:
        raise CorruptData(f"{path}: is damaged")
    return numbers


def _checksum(numbers: UInt64Array) -> int:
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(numbers).data)
