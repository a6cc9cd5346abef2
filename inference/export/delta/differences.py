"""Differences of two tables, as stored: rows that changed or are new, and keys that went, found by one merge.

Both lie in ring order, so a merge over them needs no more memory than a block of each. Rows are the same when their
bytes are: of int8 and bfloat16 fewer change than numbers do.

What is written gets checksums of its own, so damage that is not seen here is never seen again. Of both tables every
stored block is held against its checksum, where its rows are compared: they are read once for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from ringpull.inference.export.delta.side_by_side import side_by_side
from ringpull.inference.export.delta.spool import Spool
from ringpull.inference.export.report import TableDelta
from ringpull.inference.export.stored_rows import OrderedRows
from ringpull.inference.model.manifest import TableEntry, TableKind
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.spec import KeyType, RowType, TableSpec, UInt64Array
from ringpull.ps.store.changed_rows import ChangedRows, added_rows, changed_in, compared, pieces_of
from ringpull.ps.store.raw_rows import RawRows, chosen
from ringpull.ps.store.table import Table

BLOCK_BYTES: Final = 8 << 20
"""Bytes of rows of each table that are compared at a time."""


class DeltaWriter:
    """Writes what a delta has of one table; a context manager that leaves no file of its own behind."""

    def __init__(self, version_dir: Path, entry: TableEntry, spec: TableSpec) -> None:
        """Begin without differences.

        Args:
            entry: The table in the version before.
            spec: What its rows are now.

        Raises:
            ExportError: A file cannot be made.
        """
        self._version_dir, self._before, self._spec = version_dir, entry, spec
        self._gone_spec = TableSpec(name=spec.name, dim=0, row_type=RowType.BYTES, key_type=KeyType.UINT64)
        self._rows = Spool(version_dir / f".{spec.name}.rows", spec)
        self._gone = Spool(version_dir / f".{spec.name}.gone", self._gone_spec)
        self._changed = 0

    def add(self, positions: UInt64Array, rows: RawRows, *, changed: int) -> None:
        """Add rows that are new or have changed, in ring order, of which so many have changed."""
        self._rows.add(positions, rows)
        self._changed += changed

    def add_gone(self, positions: UInt64Array) -> None:
        """Add keys that went, in ring order."""
        self._gone.add(positions, BytesRows(np.empty(0, np.uint8), np.zeros(len(positions) + 1, np.int64)))

    def finish(self) -> tuple[TableEntry, TableDelta]:
        """Write the files, if there is any difference.

        Raises:
            ExportError: The disk is full.
        """
        name, before = self._spec.name, self._before
        new = self._rows.rows - self._changed
        rows = before.rows + new - self._gone.rows
        entry = replace(before, spec=self._spec, rows=rows, path=None, gone=None, kind=TableKind.SAME)
        if not self._rows.rows and not self._gone.rows and self._spec.default == before.spec.default:
            return entry, TableDelta(name, 0, 0, 0, 0)
        path = f"tables/{name}"
        (self._version_dir / "tables").mkdir(exist_ok=True)
        size = self._rows.write(self._version_dir / path).bytes
        entry = replace(entry, path=path, kind=TableKind.DELTA)
        if self._gone.rows:
            (self._version_dir / "gone").mkdir(exist_ok=True)
            entry = replace(entry, gone=f"gone/{name}")
            size += self._gone.write(self._version_dir / "gone" / name).bytes
        return replace(entry, bytes=before.bytes + size), TableDelta(name, self._changed, new, self._gone.rows, size)

    def __enter__(self) -> DeltaWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._rows.close()
        self._gone.close()


def find_differences(before: Table, after: Table, delta: DeltaWriter, progress: Callable[[int], None]) -> None:
    """Find what differs between two tables, and add it to a delta.

    Args:
        progress: Told the bytes of rows of `after` that were compared, of two full tables about those.

    Raises:
        CorruptData: A table is damaged.
        ExportError: The disk is full.
    """
    if before.newer is None and after.newer is None:
        old_base, new_base = before.base, after.base

        def whole(piece: tuple[slice, slice]) -> ChangedRows:
            for base, rows in zip((old_base, new_base), piece, strict=True):
                base.check_rows(rows.start, rows.stop)
            return changed_in(old_base, new_base, piece)

        for found in side_by_side(pieces_of(old_base, new_base, BLOCK_BYTES), whole):
            delta.add(found.positions, found.rows, changed=found.changed)
            delta.add_gone(found.gone)
            progress(BLOCK_BYTES)
        return
    check_newer(before)
    check_newer(after)
    old, new = OrderedRows(before, BLOCK_BYTES), OrderedRows(after, BLOCK_BYTES)
    while len(old.positions) or len(new.positions):
        last = min(int(each.positions[-1]) for each in (old, new) if len(each.positions))
        old_positions, old_rows = old.take_to(last)
        positions, rows = new.take_to(last)
        differs, gone = compared(old_positions, old_rows, positions, rows)
        changed = int(differs.sum()) - added_rows(differs, gone)
        delta.add(positions[differs], chosen(rows, differs), changed=changed)
        delta.add_gone(old_positions[gone])
        progress(_bytes(rows))


def check_newer(table: Table) -> None:
    """Verify all rows that deltas brought to a table.

    Raises:
        CorruptData: Some are damaged.
    """
    for part in [] if table.newer is None else table.newer.parts:
        part.check_rows(0, part.rows)


def _bytes(rows: RawRows) -> int:
    return len(rows.data) if isinstance(rows, BytesRows) else rows.nbytes
