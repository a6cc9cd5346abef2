"""`import_tables`: from sources of tables to a version of tables alone, whose rows are asked for by key.

Rows go from source to writer piece by piece, so memory is bounded by the writer's buffer. What is read is written down
every GiB: an import that was killed goes on from there, if it is of the same sources and options.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ringpull.inference.export.report import ExportReport, TableReport
from ringpull.inference.export.table_options import TableOptions, check_options, row_type_of
from ringpull.inference.export.tables_alone import write_manifest
from ringpull.inference.export.version_folder import new_version
from ringpull.inference.importers.tables.checked import checked_pieces, hashed_keys
from ringpull.inference.importers.tables.formats import open_source
from ringpull.inference.importers.tables.progress import import_progress
from ringpull.inference.importers.tables.source import TablePiece, TableSource
from ringpull.inference.importers.tables.staging import Staging, staged
from ringpull.inference.model.manifest import TableEntry
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import CorruptData, ExportError, InvalidInput, OneKey
from ringpull.ps.spec import KeyType, OnUnavailable, RowType, TableSpec, check_name
from ringpull.ps.store.checkpoint import Checkpoint
from ringpull.ps.store.writer import BUFFER_BYTES, TableWriter

CHECKPOINT_BYTES: Final = 1 << 30
"""Bytes of rows after which it is written down how far an import is: some seconds' worth."""


def import_tables(
    tables: Mapping[str, str | Path | TableSource],
    out_dir: str | Path,
    version: int,
    *,
    name: str | None = None,
    options: Mapping[str, TableOptions] | None = None,
    quiet: bool = False,
    checkpoint_bytes: int = CHECKPOINT_BYTES,
    buffer_bytes: int = BUFFER_BYTES,
) -> ExportReport:
    """Write sources of tables as the version `out_dir/VERSION/`, which predicts nothing: its rows are asked for by key.

    Args:
        tables: Where each table is, by its name: a path, a pattern or a URL, or what `open_source` returned for one,
            which is closed here.
        out_dir: The model's folder.
        version: Number from 1, which must not exist yet.
        name: The model's name; default: the name of `out_dir`.
        options: Options per table: how it is deployed, and how its rows are stored; by default as the source's own
            numbers are, float32 or shorter.
        quiet: Print no report and no progress.
        checkpoint_bytes: Bytes of rows after which it is written down how far the import is.
        buffer_bytes: Bytes of rows that are held in memory; the peak is about twice this.

    Raises:
        InvalidInput: The name, the version, a table's name or an option is not valid; or a value of a source is none
            that a table can hold. The message names the place. Nothing stays of the version.
        DuplicateKey, HashCollision: Two rows have one key; the message names it and, where the source can be read
            again, both places. Nothing stays.
        CorruptData: A source is damaged. Nothing stays.
        ExportError: The version exists, or is written by another import, or has no rows; or the disk is full.
        NotFound, Unavailable: A storage does not answer. As after a full disk or a kill, what was written down stays,
            and the same import goes on with it.
    """
    name = Path(out_dir).resolve().name if name is None else name
    target = new_version(Path(out_dir), name, version)
    chosen = options or {}
    _check_names(tables, chosen)
    console = None if quiet else Console()
    with _opened(tables) as sources, staged(target) as staging:
        staging.keep_only(frozenset(sources))
        written = []
        for table, source in sources.items():
            if console is not None:
                console.print(f"{table}: {source.described}", markup=False, highlight=False)
            plan = _Plan.make(table, source, chosen.get(table, TableOptions()))
            written.append((plan, _write(staging, plan, console, checkpoint_bytes, buffer_bytes)))
        manifest = write_manifest(staging.version, name, int(target.name), [entry for _, entry in written])
    reports = tuple(_report(plan, entry) for plan, entry in written)
    report = ExportReport(path=target, manifest=manifest, tables=reports, kept=(), check=None)
    if console is not None:
        report.print(console)
    return report


@dataclass(frozen=True, slots=True)
class _Plan:
    """One table to be written."""

    source: TableSource
    spec: TableSpec
    default: Literal["zeros", "mean"] | NDArray[np.float32] | None
    """Vector of unknown keys; None of rows of bytes."""
    live: bool
    """Whether rows of it may be pushed while it is served."""

    @classmethod
    def make(cls, table: str, source: TableSource, options: TableOptions) -> _Plan:
        """Settle what options and source leave open."""
        of_bytes = source.row_type is RowType.BYTES
        if of_bytes and (options.default is not None or options.row_type is not None):
            raise InvalidInput(f"table {table}: its rows are bytes, which have no default vector and no other row type")
        default: Literal["zeros", "mean"] | NDArray[np.float32] | None = None
        if not of_bytes:
            given = options.default
            default = given or "zeros" if given is None or isinstance(given, str) else np.asarray(given, np.float32)
        spec = TableSpec(
            name=table,
            dim=source.dim,
            row_type=RowType.BYTES if of_bytes else row_type_of(table, options, source.row_type),
            key_type=source.key_type,
            replicas=options.replicas,
            on_unavailable=OnUnavailable(options.on_unavailable),
        )
        return cls(source, spec, default, options.live)

    @property
    def made_of(self) -> str | None:
        """What decides on the table's content; None: the source may give something else the next time."""
        if self.source.fingerprint is None:
            return None
        default = self.default.tolist() if isinstance(self.default, np.ndarray) else self.default
        return json.dumps([self.source.fingerprint, self.spec.to_dict(), default])


@contextmanager
def _opened(tables: Mapping[str, str | Path | TableSource]) -> Iterator[dict[str, TableSource]]:
    """The sources of tables, closed at the end."""
    opened: dict[str, TableSource] = {}
    try:
        for table, source in tables.items():
            opened[table] = open_source(source) if isinstance(source, str | Path) else source
        yield opened
    finally:
        for source in opened.values():
            source.close()


def _check_names(tables: Mapping[str, object], options: Mapping[str, TableOptions]) -> None:
    if not isinstance(tables, Mapping) or not tables:
        raise InvalidInput("tables: give one or more, as {name: source}")
    for table in tables:
        check_name("table", table)
    if unknown := [table for table in options if table not in tables]:
        raise InvalidInput(f"options: there is no table {unknown[0]!r}; there is {', '.join(tables)}")
    check_options(options)


def _write(
    staging: Staging, plan: _Plan, console: Console | None, checkpoint_bytes: int, buffer_bytes: int
) -> TableEntry:
    """Write one table to the staged version, or what is left of it to be written."""
    table, made_of = plan.spec.name, plan.made_of
    if (entry := _whole(staging, plan)) is not None:
        _say(console, f"{table}: was imported before this import was interrupted")
        return entry
    read_rows, state = staging.begin(table, made_of)
    if state is not None:
        _say(console, f"{table}: goes on behind the first {read_rows:,} rows, which were read before")
    folder = staging.version / "tables" / table
    folder.parent.mkdir(exist_ok=True)

    def writer_from(resumed: Checkpoint | None) -> TableWriter:
        scratch = staging.scratch(table)
        return TableWriter(
            folder, plan.spec, default=plan.default, buffer_bytes=buffer_bytes, scratch=scratch, resumed=resumed
        )

    try:
        opened = writer_from(state)
    except (CorruptData, ExportError):
        if state is None:
            raise
        _say(console, f"{table}: begins again, as what was read before is damaged")
        staging.forget(table)
        read_rows, state = staging.begin(table, made_of)
        opened = writer_from(state)
    with opened as writer:
        _read(staging, plan, writer, read_rows, console, checkpoint_bytes)
        try:
            summary = writer.finish()
        except OneKey as exc:
            raise type(exc)(f"{exc}{_places(plan.source, exc.key)}", key=exc.key) from exc
    path = f"tables/{table}"
    entry = TableEntry(spec=summary.spec, path=path, rows=summary.rows, bytes=summary.bytes, live=plan.live)
    staging.remember(table, made_of, entry={"spec": entry.spec.to_dict(), "rows": entry.rows, "bytes": entry.bytes})
    staging.drop_scratch(table)
    return entry


def _whole(staging: Staging, plan: _Plan) -> TableEntry | None:
    """Return the entry of a table that an interrupted import wrote."""
    table = plan.spec.name
    known = staging.finished(table, plan.made_of)
    if known is None or not (staging.version / "tables" / table).is_dir():
        return None
    with suppress(KeyError, TypeError, InvalidInput):
        spec = TableSpec.from_dict(known["spec"])
        rows, nbytes = int(known["rows"]), int(known["bytes"])
        return TableEntry(spec=spec, path=f"tables/{table}", rows=rows, bytes=nbytes, live=plan.live)
    return None


def _read(
    staging: Staging, plan: _Plan, writer: TableWriter, read_rows: int, console: Console | None, checkpoint_bytes: int
) -> None:
    """Hand all rows but the first `read_rows` to the writer, and write down on the way how many it has."""
    table, made_of = plan.spec.name, plan.made_of
    pending_bytes = 0

    def write_down() -> None:
        state: Checkpoint = writer.checkpoint()
        staging.remember(table, made_of, read_rows=read_rows, writer=state.to_dict())

    with import_progress(console, table, plan.source.rows, read_rows) as progress:
        for piece in checked_pieces(plan.source, read_rows):
            _add(writer, piece)
            read_rows += len(piece)
            pending_bytes += _bytes_of(piece)
            progress(piece)
            if pending_bytes >= checkpoint_bytes and made_of is not None:
                write_down()
                pending_bytes = 0
    if not read_rows:
        raise InvalidInput(f"table {table}: {plan.source.described} has no rows")
    if pending_bytes and read_rows and staging.journal.get(table) is not None:
        write_down()  # what is sorted now took long to read


def _add(writer: TableWriter, piece: TablePiece) -> None:
    if isinstance(piece.rows, BytesRows):
        writer.add_bytes(piece.keys, piece.rows)
    else:
        writer.add(piece.keys, piece.rows)


def _bytes_of(piece: TablePiece) -> int:
    rows = piece.rows.data.nbytes if isinstance(piece.rows, BytesRows) else piece.rows.nbytes
    return rows + 16 * len(piece)


def _places(source: TableSource, key: int | None) -> str:
    """Return where the rows of one key are, for a message: the source is read once more, up to the second of them."""
    if key is None or source.fingerprint is None:
        return ""
    found: list[str] = []
    for piece in source.pieces():
        found += [piece.at(int(row)) for row in np.flatnonzero(hashed_keys(piece.keys) == np.uint64(key))]
        if len(found) > 1:
            return f": {found[0]}, and {found[1]}"
    return ""


def _say(console: Console | None, text: str) -> None:
    if console is not None:
        console.print(text, markup=False, highlight=False)


def _report(plan: _Plan, entry: TableEntry) -> TableReport:
    default = "no bytes" if plan.default is None else plan.default if isinstance(plan.default, str) else "given"
    keys = "strings" if entry.spec.key_type is KeyType.STRING else "integers"
    return TableReport(
        name=entry.spec.name,
        rows=entry.rows,
        dim=entry.spec.dim,
        row_type=entry.spec.row_type.value,
        bytes=entry.bytes,
        keyed_by=f"raw ids, {keys}",
        features=(),
        poolings=(),
        default=default,
    )
