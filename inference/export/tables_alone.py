"""`export_tables`: from keys and rows to a version of tables alone, whose rows are asked for by key.

It needs no torch: what was computed elsewhere, vectors of users or lists of results, is served as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ringpull.inference.export.given_rows import GivenRows, GivenTable
from ringpull.inference.export.report import ExportReport, TableReport
from ringpull.inference.export.table_options import TableOptions, check_options, row_type_of
from ringpull.inference.export.table_progress import table_progress
from ringpull.inference.export.table_samples import sample_table
from ringpull.inference.export.version_folder import new_version, written_beside
from ringpull.inference.model.manifest import FileEntry, Manifest, TableEntry, time_of_now
from ringpull.inference.model.samples import FILE as SAMPLES_FILE
from ringpull.inference.model.samples import Samples
from ringpull.ps.errors import ExportError, InvalidInput
from ringpull.ps.spec import OnUnavailable, RowType, TableSpec, check_name
from ringpull.ps.store.base import Base
from ringpull.ps.store.table import Table
from ringpull.ps.store.writer import TableWriter


def export_tables(
    tables: Mapping[str, GivenTable],
    out_dir: str | Path,
    version: int,
    *,
    name: str | None = None,
    options: Mapping[str, TableOptions] | None = None,
    quiet: bool = False,
) -> ExportReport:
    """Write tables as the version `out_dir/VERSION/`, which predicts nothing: its rows are asked for by key.

    Args:
        tables: Keys and rows of each table, by its name, as a tuple (keys, rows). Keys: integers (an int64 is taken bit
            for bit) or strings, (N,), none twice. Rows: float32 (N, dim), without NaN; or a list of bytes or texts, of
            up to 1 MiB each. What does not fit into memory comes as an iterable of such tuples, as a generator gives
            them: none is kept.
        out_dir: The model's folder.
        version: Number from 1, which must not exist yet.
        name: The model's name; default: the name of `out_dir`.
        options: Options per table: how it is deployed, and how its rows are stored.
        quiet: Print no report and no progress.

    Raises:
        InvalidInput: The name, the version, a table's name or an option is not valid, or a row type cannot hold a
            number.
        DuplicateKey, HashCollision: Two rows have one key; the message names table and key.
        ExportError: Keys and rows are none, or do not fit each other, or a row holds NaN or is too long; the message
            names the table and, of a row, its key. Nothing is written then.
    """
    name = Path(out_dir).resolve().name if name is None else name
    target = new_version(Path(out_dir), name, version)
    chosen = options or {}
    _check_names(tables, chosen)
    console = None if quiet else Console()
    with written_beside(target) as hidden:
        written = [
            _write(hidden, table, given, chosen.get(table, TableOptions()), console) for table, given in tables.items()
        ]
        manifest = write_manifest(hidden, name, int(target.name), [each.entry for each in written])
    report = ExportReport(
        path=target, manifest=manifest, tables=tuple(each.report() for each in written), kept=(), check=None
    )
    if console is not None:
        report.print(console)
    return report


@dataclass(frozen=True, slots=True)
class _Written:
    """A table that was written."""

    entry: TableEntry
    keyed_by: str
    default: str
    """Vector of unknown keys, for people."""

    def report(self) -> TableReport:
        spec = self.entry.spec
        return TableReport(
            name=spec.name,
            rows=self.entry.rows,
            dim=spec.dim,
            row_type=spec.row_type.value,
            bytes=self.entry.bytes,
            keyed_by=self.keyed_by,
            features=(),
            poolings=(),
            default=self.default,
        )


def _check_names(tables: Mapping[str, GivenTable], options: Mapping[str, TableOptions]) -> None:
    if not isinstance(tables, Mapping) or not tables:
        raise InvalidInput("tables: give one or more, as {name: (keys, rows)}")
    for table in tables:
        check_name("table", table)
    if unknown := [table for table in options if table not in tables]:
        raise InvalidInput(f"options: there is no table {unknown[0]!r}; there is {', '.join(tables)}")
    check_options(options)


def _write(
    version_dir: Path, table: str, given: GivenTable, options: TableOptions, console: Console | None
) -> _Written:
    rows = GivenRows.read(table, given)
    spec = TableSpec(
        name=table,
        dim=rows.dim,
        row_type=row_type_of(table, options) if rows.dim else _type_of_bytes(table, options),
        key_type=rows.key_type,
        replicas=options.replicas,
        on_unavailable=OnUnavailable(options.on_unavailable),
    )
    default = _default(spec, options) if rows.dim else None
    path = f"tables/{table}"
    folder = version_dir / path
    folder.parent.mkdir(exist_ok=True)
    with (
        TableWriter(folder, spec, default=default) as writer,
        table_progress(console, table, rows.total_bytes) as progress,
    ):
        for piece in rows.pieces:
            piece.write(writer)
            progress(piece.bytes)
        summary = writer.finish()
    entry = TableEntry(spec=summary.spec, path=path, rows=summary.rows, bytes=summary.bytes, live=options.live)
    shown = "no bytes" if default is None else default if isinstance(default, str) else "given"
    return _Written(entry, rows.keyed_by, shown)


def _type_of_bytes(table: str, options: TableOptions) -> RowType:
    if options.row_type not in (None, RowType.FLOAT32):
        raise InvalidInput(f"table {table}: row_type is {options.row_type!r}; rows of bytes have no other type")
    if options.default is not None:
        raise InvalidInput(f"table {table}: default is given; an unknown key of a table of bytes has no bytes")
    return RowType.BYTES


def _default(spec: TableSpec, options: TableOptions) -> Literal["zeros", "mean"] | NDArray[np.float32]:
    """Return the vector of unknown keys."""
    if options.default is None or isinstance(options.default, str):
        return options.default or "zeros"
    default = np.asarray(options.default, np.float32)
    if default.shape != (spec.dim,):
        raise ExportError(f"table {spec.name}: default has the shape {default.shape}; it must be ({spec.dim},)")
    return default


def write_manifest(version_dir: Path, name: str, version: int, tables: Sequence[TableEntry]) -> Manifest:
    """Write samples and, last, the manifest of a version of tables alone, whose tables are written; return it."""
    manifest = Manifest(
        model=name,
        version=version,
        created=time_of_now(),
        tables=tuple(tables),
    )
    (version_dir / SAMPLES_FILE).write_bytes(_sampled(version_dir, manifest).to_bytes())
    manifest = replace(manifest, samples=FileEntry.of(version_dir, SAMPLES_FILE))
    manifest.save(version_dir)
    return manifest


def _sampled(version_dir: Path, manifest: Manifest) -> Samples:
    """Return samples of tables that were written, all of whose rows are checked on the way."""
    samples = {}
    for entry in manifest.tables:
        base = Base.open(manifest.table_folder(version_dir, entry.spec.name), verify_rows=True)
        try:
            samples[entry.spec.name] = sample_table(Table(base))
        finally:
            base.close()
    return Samples.of_tables(samples)
