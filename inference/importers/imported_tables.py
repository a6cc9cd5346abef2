"""Tables of an import: streamed from their source into the files of a version."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ringpull.inference.export.table_progress import table_progress
from ringpull.inference.export.written_version import RowsOf
from ringpull.inference.model.manifest import TableEntry
from ringpull.inference.schema.transforms import keys_of_values
from ringpull.ps.spec import Float32Array, RowType, TableSpec, UInt64Array
from ringpull.ps.store.writer import TableWriter

SMALL_BYTES: Final = 4 << 20
"""Largest table that is written beside others: what that takes is waiting for the disk."""
SMALL_AT_A_TIME: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImportedTable:
    """One table to be written."""

    pieces: Iterable[tuple[NDArray[Any], Float32Array]]
    """Keys (n,), integers or strings, and rows float32 (n, dim), piece by piece; they are gone through once."""
    spec: TableSpec
    """Specification; its default vector is what `default` says."""
    keyed_by: str
    """What its keys are, for people: "row number", "raw ids, strings"."""
    features: tuple[str, ...]
    """Features that are looked up in it."""
    default: Literal["zeros", "mean"] | Float32Array = "zeros"
    """Vector of unknown ids."""
    unknown: str | None = None
    """What becomes of unknown ids, for people, where that is not this vector: "refused"."""
    total_bytes: int | None = None
    """Bytes of all rows as they are written, for the progress bar; None: not known."""
    live: bool = False
    """Whether rows of it may be pushed while it is served."""

    @property
    def default_described(self) -> str:
        """What unknown ids get, for people."""
        if self.unknown is not None:
            return self.unknown
        return self.default if isinstance(self.default, str) else "given"

    @property
    def small(self) -> bool:
        """Whether it is written beside others."""
        if not isinstance(self.pieces, list | tuple):
            return False
        return sum(len(keys) for keys, _ in self.pieces) * self.spec.row_bytes <= SMALL_BYTES


@dataclass(slots=True, eq=False)
class ExactRows:
    """Rows as a source has them, of a table whose row type rounds them: only those that a check asks for."""

    wanted: UInt64Array
    default: Float32Array
    found: dict[int, Float32Array] = field(default_factory=dict)

    def take(self, keys: NDArray[Any], rows: Float32Array) -> None:
        """Keep what is wanted of a piece."""
        prepared = keys_of_values(keys)
        for place in np.flatnonzero(np.isin(prepared, self.wanted)).tolist():
            self.found[int(prepared[place])] = rows[place].copy()

    def rows(self, keys: UInt64Array) -> tuple[Float32Array, NDArray[np.bool_]]:
        """Return rows by key, as `RowsOf` says."""
        found = [self.found.get(key) for key in keys.tolist()]
        values = [self.default if row is None else row for row in found]
        known = np.array([row is not None for row in found], np.bool_)
        return np.array(values, np.float32).reshape(len(values), len(self.default)), known


def write_tables(
    version_dir: Path,
    tables: Mapping[str, ImportedTable],
    wanted: Mapping[str, Collection[int]],
    console: Console | None,
) -> tuple[tuple[TableEntry, ...], dict[str, RowsOf]]:
    """Write tables to `version_dir / tables`.

    Args:
        wanted: Keys that a check asks for, by table.

    Returns:
        Their entries, and the rows before rounding of the tables whose row type rounds.

    Raises:
        DuplicateKey, HashCollision: Two rows of a table have one key.
        InvalidInput: A row type cannot hold a number, or keys and rows do not fit each other.
        ExportError: The disk is full.
    """
    exact = {
        name: ExactRows(np.array(sorted(wanted.get(name, ())), np.uint64), table.spec.default_vector())
        for name, table in tables.items()
        if table.spec.row_type is not RowType.FLOAT32
    }
    entries: dict[str, TableEntry] = {}
    small = [name for name, table in tables.items() if table.small]
    with ThreadPoolExecutor(SMALL_AT_A_TIME, thread_name_prefix="ringpull-tables") as pool:
        pending = {name: pool.submit(_write, version_dir, tables[name], exact.get(name), None) for name in small}
        try:
            entries |= {name: entry.result() for name, entry in pending.items()}
        finally:
            for entry in pending.values():
                entry.cancel()
    for name, table in tables.items():
        if name not in entries:
            entries[name] = _write(version_dir, table, exact.get(name), console)
    for name, rows in exact.items():
        rows.default = entries[name].spec.default_vector()
    return tuple(entries[name] for name in tables), {name: rows.rows for name, rows in exact.items()}


def _write(version_dir: Path, table: ImportedTable, exact: ExactRows | None, console: Console | None) -> TableEntry:
    spec = table.spec
    path = f"tables/{spec.name}"
    folder = version_dir / path
    folder.parent.mkdir(exist_ok=True)
    with (
        TableWriter(folder, spec, default=table.default) as writer,
        table_progress(console, spec.name, table.total_bytes) as progress,
    ):
        for keys, rows in table.pieces:
            writer.add(keys, rows)
            if exact is not None:
                exact.take(keys, rows)
            progress(len(rows) * spec.row_bytes)
        summary = writer.finish()
    return TableEntry(spec=summary.spec, path=path, rows=summary.rows, bytes=summary.bytes, live=table.live)
