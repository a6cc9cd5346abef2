"""SQLite: a table of a database file, or the result of a SELECT, read row by row.

The file is opened for reading only, and nothing but reading is allowed to the query. Vectors lie in one column, as
numbers, text or JSON (`cells`), or in one column a number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from ringpull.inference.importers.tables.cells import Ids, Vectors, bytes_of
from ringpull.inference.importers.tables.files import find_files, fingerprint_of
from ringpull.inference.importers.tables.source import ReadOptions, TablePiece, skipped
from ringpull.inference.importers.tables.tensors import PIECE_BYTES, local_path
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import CorruptData, InvalidInput, Unavailable
from ringpull.ps.spec import Float32Array, KeyType, RowType

_FIRST_ROWS: Final = 100
_BYTES_ROWS: Final = 4096
_ALLOWED: Final = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
_IDS: Final = ("id", "key", "ids", "keys")
_VECTORS: Final = ("vector", "embedding", "features", "vectors", "emb")
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)


def open_table(where: str, options: ReadOptions) -> SqliteSource:
    """Open a table of a database, or the result of a query.

    Raises:
        InvalidInput: There is no such table or column, or several could be it; or the query does more than read.
        CorruptData: The file is damaged or none.
        Unavailable: It cannot be read now.
    """
    files = find_files(where)
    if len(files) != 1:
        raise InvalidInput(f"{where}: {len(files)} files; give the one that is the database")
    path = local_path(files[0])
    with _errors(str(path)):
        query, described = _query(path, options)
        with closing(_connected(path)) as database, closing(database.execute(query)) as cursor:
            names = [each[0] for each in cursor.description]
            columns = _Columns.of(f"{path}: {described}", names, options)
            first = cursor.fetchmany(_FIRST_ROWS)
    if not first:
        raise InvalidInput(f"{path}: {described} has no rows")
    # A log beside it holds what was written last.
    log = path.with_name(f"{path.name}-wal")
    beside = find_files(str(log)) if log.is_file() else []
    return SqliteSource(path, query, columns, first, options, fingerprint_of([*files, *beside], query, options))


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
    database.execute("PRAGMA trusted_schema = OFF")
    database.set_authorizer(lambda what, *_: sqlite3.SQLITE_OK if what in _ALLOWED else sqlite3.SQLITE_DENY)
    return database


@contextmanager
def _errors(where: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Warning as exc:  # two statements in one
        raise InvalidInput(f"{where}: query must be one SELECT: {exc}") from exc
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in _BUSY:
            raise Unavailable(f"{where}: cannot be read now: {exc}") from exc
        if code == sqlite3.SQLITE_AUTH:
            raise InvalidInput(f"{where}: query must do no more than read: {exc}") from exc
        if code == sqlite3.SQLITE_ERROR or not code:
            raise InvalidInput(f"{where}: query fails: {exc}") from exc
        raise CorruptData(f"{where}: cannot be read as an SQLite database: {exc}") from exc


def _query(path: Path, options: ReadOptions) -> tuple[str, str]:
    """Return the query to run, and what it is for people."""
    if options.query is not None:
        if options.table is not None:
            raise InvalidInput(f"{path}: query and table are both given; give one of them")
        return options.query, "the result of the query"
    with closing(_connected(path)) as database:
        rows = database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name")
        tables = [str(name) for (name,) in rows if not str(name).startswith("sqlite_")]
    table = options.table
    if table is None:
        if len(tables) != 1:
            raise InvalidInput(f"{path}: table must be one of {', '.join(tables) or 'none: it holds no table'}")
        table = tables[0]
    if table not in tables:
        raise InvalidInput(f"{path}: table is {table!r}; there is {', '.join(tables) or 'none'}")
    quoted = table.replace('"', '""')
    return f'SELECT * FROM "{quoted}"', f"table {table}"


class _Columns:
    """Which columns have what."""

    def __init__(self, where: str, names: Sequence[str], ids: str, vectors: Sequence[str], value: str | None) -> None:
        self.where = where
        self.names = names
        self.id = names.index(ids)
        self.vectors = [names.index(each) for each in vectors]
        self.value = None if value is None else names.index(value)

    @classmethod
    def of(cls, where: str, names: Sequence[str], options: ReadOptions) -> _Columns:
        """Find the columns that options name, or that are called so.

        Raises:
            InvalidInput: There is none, or it is there twice.
        """
        listed = ", ".join(names)
        if len(set(names)) < len(names):
            raise InvalidInput(f"{where}: two columns have one name ({listed}); name them apart with AS")
        asked = [options.id, *options.vector, options.value]
        if missing := [each for each in asked if each is not None and each not in names]:
            raise InvalidInput(f"{where}: there is no column {missing[0]!r}; there is {listed}")
        ids = options.id or next((name for name in names if name.lower() in _IDS), None)
        if ids is None:
            raise InvalidInput(f"{where}: id must be one of its columns: {listed}")
        if options.value is not None:
            return cls(where, names, ids, (), options.value)
        rest = [name for name in names if name != ids]
        vectors = options.vector or (rest if len(rest) == 1 else [name for name in rest if name.lower() in _VECTORS])
        if not vectors or (not options.vector and len(vectors) > 1):
            raise InvalidInput(f"{where}: vector must be one or more of its columns: {listed}")
        return cls(where, names, ids, vectors, None)


class SqliteSource:
    """A table of a database."""

    def __init__(
        self,
        path: Path,
        query: str,
        columns: _Columns,
        first: Sequence[tuple[Any, ...]],
        options: ReadOptions,
        fingerprint: str,
    ) -> None:
        """Use `open_table`."""
        self.fingerprint: str | None = fingerprint
        self.rows: int | None = None
        self._path = path
        self._query = query
        self._columns = columns
        where, names = columns.where, columns.names
        self._ids = Ids(where, options.strings, [row[columns.id] for row in first])
        self.key_type: KeyType = self._ids.key_type
        self._vectors: Vectors | None = None
        if columns.value is not None:
            self.dim, self.row_type, held = 0, RowType.BYTES, f"bytes in {names[columns.value]}"
        elif len(columns.vectors) == 1 and not isinstance(cell := first[0][columns.vectors[0]], int | float):
            self._vectors = Vectors(where, options.encoding, cell, f"{names[columns.vectors[0]]} of row 0")
            self.dim, self.row_type = self._vectors.dim, RowType.FLOAT32
            held = f"{self.dim} numbers in {names[columns.vectors[0]]}, as {self._vectors.encoding}"
        else:
            self.dim, self.row_type = len(columns.vectors), RowType.FLOAT32
            held = f"a number each in {', '.join(names[each] for each in columns.vectors)}"
        self.described = f"{where}: ids in {names[columns.id]} ({self.key_type.value}), {held}"

    def pieces(self, start: int = 0) -> Iterator[TablePiece]:
        """Yield all rows but the first `start`."""
        return skipped(self._pieces(), start)

    def close(self) -> None:
        """Close nothing: each reading has a connection of its own."""

    def _pieces(self) -> Iterator[TablePiece]:
        step = max(1, PIECE_BYTES // (4 * self.dim)) if self.dim else _BYTES_ROWS
        place, begin = f"{self._columns.where}: row", 0
        with _errors(str(self._path)), closing(_connected(self._path)) as database:
            cursor = database.execute(self._query)
            while rows := cursor.fetchmany(step):
                yield self._piece(rows, place, begin)
                begin += len(rows)

    def _piece(self, rows: Sequence[tuple[Any, ...]], place: str, begin: int) -> TablePiece:
        columns = self._columns

        def shown(column: int) -> Any:
            return lambda number: f"{columns.names[column]} of row {begin + number}"

        keys = self._ids.read([row[columns.id] for row in rows], shown(columns.id))
        held: Float32Array | BytesRows
        if columns.value is not None:
            held = bytes_of([row[columns.value] for row in rows], columns.where, shown(columns.value))
        elif self._vectors is not None:
            (column,) = columns.vectors
            held = self._vectors.read([row[column] for row in rows], shown(column))
        else:
            held = self._numbers([tuple(row[each] for each in columns.vectors) for row in rows], begin)
        return TablePiece(keys, held, place, begin)

    def _numbers(self, rows: Sequence[tuple[Any, ...]], begin: int) -> Float32Array:
        for number, row in enumerate(rows):
            for column, value in zip(self._columns.vectors, row, strict=True):
                if type(value) not in (int, float):
                    held = "null" if value is None else f"{value!r:.60}"
                    raise InvalidInput(
                        f"{self._columns.where}: {self._columns.names[column]} of row {begin + number} is {held}; it"
                        " must be a number"
                    )
        with np.errstate(over="ignore"):
            exact = np.array(rows, np.float64)
            narrow = exact.astype(np.float32)
        if (beyond := (np.isinf(narrow) & np.isfinite(exact)).any(axis=1)).any():
            raise InvalidInput(
                f"{self._columns.where}: row {begin + int(np.argmax(beyond))} holds a number beyond float32"
            )
        return narrow
