"""Columns of a source: which holds the keys and which the rows, as the caller says or as only one can.

A guess is taken only where there is nothing else that it could be; else the error lists the columns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final

from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.ps.errors import InvalidInput

_KEY_NAMES: Final = ("id", "key")
_VECTOR_NAMES: Final = ("features", "vector", "embedding", "emb", "emb_vector", "values")
_INDEX: Final = re.compile(r"(__index_level_\d+__)?")
"""Names that pandas gives to the numbers of rows it writes along, in Parquet and in CSV."""
_NUMBERED: Final = re.compile(r"(.*?)\d+")


class Kind(Enum):
    """What the values of a column may be taken for."""

    INTEGER = "integer"
    TEXT = "text"
    NUMBER = "number"
    VECTOR = "vector"
    BYTES = "bytes"
    INTEGERS = "lists of integers"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a source."""

    name: str
    kind: Kind
    type: str
    """Its type as the source names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The columns that a table is read from."""

    id: str
    vector: tuple[str, ...] = ()
    """One column of vectors, or several of one number each; none where rows are bytes."""
    value: str | None = None
    """Column of bytes; None where rows are vectors."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, keys first."""
        return (self.id, *self.vector) if self.value is None else (self.id, self.value)

    @property
    def described(self) -> str:
        """What was taken, for people."""
        if self.value is not None:
            return f"keys {self.id}, rows of bytes {self.value}"
        if len(self.vector) == 1:
            return f"keys {self.id}, vectors {self.vector[0]}"
        return f"keys {self.id}, vectors {self.vector[0]} to {self.vector[-1]} ({len(self.vector)} columns)"


def choose(columns: Sequence[Column], options: ReadOptions, where: str) -> Chosen:
    """Return which columns hold keys and rows.

    Raises:
        InvalidInput: A column that is asked for is not there, or is there twice, or it can't be told which it is.
    """
    known = {column.name: column for column in columns}
    if len(known) < len(columns):
        twice = next(column.name for column in columns if [each.name for each in columns].count(column.name) > 1)
        raise InvalidInput(f"{where}: there are two columns of the name {twice!r}")
    vector = _expanded(options.vector, columns, where)
    for name in (options.id, options.value):
        if name is not None and name not in known:
            raise InvalidInput(f"{where}: there is no column {name!r}; {_listed(columns)}")
    taken = {*vector, *([options.value] if options.value is not None else [])}
    id_column = options.id or _guess_id([column for column in columns if column.name not in taken], columns, where)
    if id_column in taken:
        raise InvalidInput(f"{where}: column {id_column!r} is taken for keys and for rows; {_listed(columns)}")
    if options.value is not None:
        return Chosen(id=id_column, value=options.value)
    if vector:
        return Chosen(id=id_column, vector=vector)
    return _guess_rows(id_column, [column for column in columns if column.name != id_column], columns, where)


def _expanded(given: Sequence[str], columns: Sequence[Column], where: str) -> tuple[str, ...]:
    """Return the names of vector columns, in place of a pattern all that it fits in their order."""
    names: list[str] = []
    for each in given:
        fitting = [column.name for column in columns if column.name == each] or [
            column.name for column in columns if fnmatchcase(column.name, each)
        ]
        if not fitting:
            raise InvalidInput(f"{where}: there is no column {each!r}; {_listed(columns)}")
        names += fitting
    if len(set(names)) < len(names):
        raise InvalidInput(f"{where}: a column is given twice for vectors: {', '.join(given)}")
    return tuple(names)


def _guess_id(free: Sequence[Column], columns: Sequence[Column], where: str) -> str:
    """Return the only column that can be the keys, or the only one that is called so.

    Numbers of rows that pandas writes along are keys only where all other columns are the vector; beside them, the keys
    are the column that is called so.
    """
    rest: Sequence[Column] = [column for column in free if not _INDEX.fullmatch(column.name)]
    if len(rest) < len(free) and ([each.kind for each in rest] == [Kind.VECTOR] or (rest[1:] and _is_vector(rest))):
        rest = free
    found = [column.name for column in rest if column.kind in (Kind.INTEGER, Kind.TEXT)]
    if len(rest) < len(free):
        found = []
    named = [column for column in rest if column.kind in (Kind.INTEGER, Kind.TEXT, Kind.BYTES, Kind.OTHER)]
    if len(found) != 1:
        found = [column.name for column in named if column.name.lower() in _KEY_NAMES]
    if len(found) != 1:
        found = [column.name for column in named if is_called_as_keys(column.name)]
    if len(found) != 1 and rest is free:
        found = [column.name for column in free if _INDEX.fullmatch(column.name)]
    if len(found) != 1:
        raise InvalidInput(f"{where}: say which column holds the keys, with id; {_listed(columns)}")
    return found[0]


def _guess_rows(id_column: str, free: Sequence[Column], columns: Sequence[Column], where: str) -> Chosen:
    vectors = [column.name for column in free if column.kind in (Kind.VECTOR, Kind.INTEGERS)]
    if len(vectors) > 1:
        vectors = [name for name in vectors if is_called_as_vectors(name)]
    if len(vectors) == 1:
        return Chosen(id=id_column, vector=tuple(vectors))
    free = [column for column in free if not _INDEX.fullmatch(column.name)]
    if not vectors and free:
        if _is_vector(free):
            return Chosen(id=id_column, vector=tuple(column.name for column in free))
        if len(free) == 1 and free[0].kind in (Kind.TEXT, Kind.BYTES):
            return Chosen(id=id_column, value=free[0].name)
    raise InvalidInput(f"{where}: say which columns hold the rows, with vector or value; {_listed(columns)}")


def _is_vector(columns: Sequence[Column]) -> bool:
    """Return whether columns can only be the numbers of one vector: numbered alike, or with nothing else among them.

    A count or a year beside v0 to v63 would be a number of the vector without anybody's notice.
    """
    if not all(column.kind in (Kind.NUMBER, Kind.INTEGER) for column in columns):
        return False
    stems = {found[1] if (found := _NUMBERED.fullmatch(column.name)) else None for column in columns}
    if len(stems) == 1 and None not in stems:
        return True
    return len(columns) == 1 or (stems == {None} and all(column.kind is Kind.NUMBER for column in columns))


def is_called_as_keys(name: str) -> bool:
    """Return whether a column is called as keys are."""
    return name.lower().endswith(_KEY_NAMES)


def refuse_vectors_as_bytes(chosen: Chosen, columns: Sequence[Column], options: ReadOptions, where: str) -> None:
    """Refuse texts or bytes that nobody called rows of bytes, and whose column is called as vectors are.

    Raises:
        InvalidInput: They are that: they would be rows of bytes without anybody's notice.
    """
    if options.value is None and chosen.value is not None and is_called_as_vectors(chosen.value):
        held = next(column.type for column in columns if column.name == chosen.value)
        raise InvalidInput(
            f"{where}: column {chosen.value} is called as vectors are, and holds {held}; say vector if they are, or"
            " value if they are rows of bytes"
        )


def is_called_as_vectors(name: str) -> bool:
    """Return whether a column is called as vectors are."""
    return name.lower() in _VECTOR_NAMES


def _listed(columns: Sequence[Column]) -> str:
    shown = [f"{column.name} ({column.type})" for column in columns[:40]]
    more = f" and {len(columns) - 40} more" if len(columns) > 40 else ""
    return f"its columns are {', '.join(shown)}{more}"
