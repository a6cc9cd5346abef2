"""SQLite: a table of a database file, or the result of a SELECT, read row by row.

The file is opened for reading only, and nothing but reading is allowed to the query. Vectors lie in one column, as
numbers, text or JSON (`cells`), or in one column a number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from ringpull.inference.importers.tables.cells import (
    Ids,
    Vectors,
    bytes_of,
    looks_like_vector,
    narrowed,
    refuse_lists_of_integers,
)
from ringpull.inference.importers.tables.columns import Chosen, Column, Kind, choose, is_called_as_vectors
from ringpull.inference.importers.tables.files import find_files, fingerprint_of
from ringpull.inference.importers.tables.source import ReadOptions, TablePiece, skipped
from ringpull.inference.importers.tables.tensors import PIECE_BYTES, local_path
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import CorruptData, InvalidInput, Unavailable
from ringpull.ps.spec import Float32Array, KeyType, RowType

_FIRST_ROWS: Final = 100
_BYTES_ROWS: Final = 4096
_ALLOWED: Final = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
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
            names = [each[0] for each in cursor.description or ()]
            first = cursor.fetchmany(_FIRST_ROWS)
    shown = f"{path}: {described}"
    if not first:
        raise InvalidInput(f"{shown} has no rows")
    chosen = choose(_columns(names, first[0]), options, shown)
    if chosen.value is not None and options.value is None:  # no guess: vectors that are none would be bytes unseen
        chosen = Chosen(id=chosen.id, vector=(chosen.value,))
    # A log beside it holds what was written last.
    log = path.with_name(f"{path.name}-wal")
    beside = find_files(str(log)) if log.is_file() else []
    fingerprint = fingerprint_of([*files, *beside], query, options)
    return SqliteSource(path, shown, query, names, chosen, first, options, fingerprint)


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
        if code == sqlite3.SQLITE_AUTH or "not authorized" in str(exc):
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


def _columns(names: Sequence[str], first: Sequence[Any]) -> list[Column]:
    """Return what the columns of a result may be taken for, by its first row: SQLite's own types are no promise."""
    return [Column(name, _kind(value), type(value).__name__) for name, value in zip(names, first, strict=True)]


def _kind(value: object) -> Kind:
    if isinstance(value, int):
        return Kind.INTEGER
    if isinstance(value, float):
        return Kind.NUMBER
    if looks_like_vector(value):
        return Kind.VECTOR
    return Kind.TEXT if isinstance(value, str) else Kind.OTHER


class SqliteSource:
    """A table of a database."""

    def __init__(
        self,
        path: Path,
        where: str,
        query: str,
        names: Sequence[str],
        chosen: Chosen,
        first: Sequence[tuple[Any, ...]],
        options: ReadOptions,
        fingerprint: str,
    ) -> None:
        """Use `open_table`."""
        self.fingerprint: str | None = fingerprint
        self.rows: int | None = None
        self._path = path
        self._where = where
        self._query = query
        self._chosen = chosen
        self._places = [names.index(name) for name in chosen.names]
        self._ids = Ids(where, options.id_type, [row[self._places[0]] for row in first])
        self.key_type: KeyType = self._ids.key_type
        self._vectors: Vectors | None = None
        cell = first[0][self._places[1]]
        if chosen.value is not None:
            self.dim, self.row_type = 0, RowType.BYTES
        elif len(chosen.vector) == 1 and not isinstance(cell, int | float):
            if not (options.encoding or options.vector or is_called_as_vectors(chosen.vector[0])):
                refuse_lists_of_integers([row[self._places[1]] for row in first], where)
            self._vectors = Vectors(where, options.encoding, cell, f"{chosen.vector[0]} of row 0")
            self.dim, self.row_type = self._vectors.dim, RowType.FLOAT32
        else:
            self.dim, self.row_type = len(chosen.vector), RowType.FLOAT32
        held = "" if self._vectors is None else f" of {self.dim} numbers, as {self._vectors.encoding}"
        self.described = f"{where}: {chosen.described}{held}; keys are {self.key_type.value}"

    def pieces(self, start: int = 0) -> Iterator[TablePiece]:
        """Yield all rows but the first `start`."""
        return skipped(self._pieces(), start)

    def close(self) -> None:
        """Close nothing: each reading has a connection of its own."""

    def _pieces(self) -> Iterator[TablePiece]:
        step = max(1, PIECE_BYTES // (4 * self.dim)) if self.dim else _BYTES_ROWS
        begin = 0
        with _errors(str(self._path)), closing(_connected(self._path)) as database:
            cursor = database.execute(self._query)
            while rows := cursor.fetchmany(step):
                yield self._piece(rows, begin)
                begin += len(rows)

    def _piece(self, rows: Sequence[tuple[Any, ...]], begin: int) -> TablePiece:
        chosen = self._chosen

        def shown(column: str) -> Callable[[int], str]:
            return lambda number: f"{column} of row {begin + number}"

        ids, *places = self._places
        keys = self._ids.read([row[ids] for row in rows], shown(chosen.id))
        held: Float32Array | BytesRows
        if chosen.value is not None:
            held = bytes_of([row[places[0]] for row in rows], self._where, shown(chosen.value))
        elif self._vectors is not None:
            held = self._vectors.read([row[places[0]] for row in rows], shown(chosen.vector[0]))
        else:
            held = self._numbers([tuple(row[each] for each in places) for row in rows], begin)
        return TablePiece(keys, held, f"{self._where}: row", begin)

    def _numbers(self, rows: Sequence[tuple[Any, ...]], begin: int) -> Float32Array:
        for number, row in enumerate(rows):
            for column, value in zip(self._chosen.vector, row, strict=True):
                if type(value) not in (int, float):
                    held = "null" if value is None else f"{value!r:.60}"
                    raise InvalidInput(
                        f"{self._where}: {column} of row {begin + number} is {held}; it must be a number"
                    )
        return narrowed(np.array(rows, np.float64), self._where, lambda number: f"row {begin + number}")
