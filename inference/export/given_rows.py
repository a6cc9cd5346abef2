"""The keys and rows of a table as an exporter gives them: all at once, or in chunks. Checked here, piece by piece.

What is wrong is an `ExportError` that names the table and, of a row, its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.keys import Keys, key_type_of, read_ids
from ringpull.ps.errors import ExportError
from ringpull.ps.spec import Float32Array, KeyType

Rows = NDArray[np.float32]
"""Rows of a table: float32 (N, dim)."""
GivenTable = tuple[Keys, Rows] | Iterable[tuple[Keys, Rows]]
"""A table: keys and rows, or an iterable of such pairs, which is no tuple of two."""

PIECE_BYTES: Final = 16 * 1024 * 1024
"""Bytes of rows that are looked at, and handed to the writer, at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A part of a table: keys and rows, as many of the one as of the other."""

    keys: NDArray[Any]
    """(n,): int64, uint64, or an object array of strings."""
    rows: Float32Array
    """(n, dim)."""

    @property
    def bytes(self) -> int:
        """Bytes of the rows as given."""
        return self.rows.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class GivenRows:
    """The rows of one table, of which the first piece is known."""

    table: str
    key_type: KeyType
    dim: int
    total_bytes: int | None
    """Bytes of all rows as given; None: they come in chunks."""
    pieces: Iterator[Piece]
    """All pieces; to be gone through once."""

    @classmethod
    def read(cls, table: str, given: Any) -> GivenRows:
        """Look at the first rows.

        Raises:
            ExportError: There are none, or they are none.
        """
        at_once = isinstance(given, tuple) and len(given) == 2
        chunks = iter([given]) if at_once else _chunks(table, given)
        pieces = (
            piece
            for number, chunk in enumerate(chunks)
            for piece in _pieces(table, "" if at_once else f" in chunk {number}", chunk)
        )
        first = next(pieces, None)
        if first is None:
            raise ExportError(f"table {table}: has no rows; give it one or more, or leave the table out")
        total_bytes = given[1].nbytes if at_once else None
        dim = first.rows.shape[1]
        return cls(table, key_type_of(first.keys), dim, total_bytes, _alike(table, first, pieces))

    @property
    def keyed_by(self) -> str:
        """Description of the keys, for people."""
        return f"raw ids, {'strings' if self.key_type is KeyType.STRING else 'integers'}"


def _chunks(table: str, given: Any) -> Iterator[Any]:
    try:
        return iter(given)
    except TypeError:
        raise ExportError(
            f"table {table}: is {type(given).__name__}; it must be a tuple (keys, rows), or an iterable of such tuples"
        ) from None


def _pieces(table: str, which: str, chunk: Any) -> Iterator[Piece]:
    """Yield the rows of one chunk, checked by themselves."""
    if not isinstance(chunk, tuple) or len(chunk) != 2:
        raise ExportError(
            f"table {table}: its content{which} is {type(chunk).__name__}; it must be a tuple (keys, rows)"
        )
    keys, rows = chunk
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float32 or rows.ndim != 2 or not rows.shape[1]:
        what = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ExportError(f"table {table}: rows{which} are {what}; they must be float32 (N, dim)")
    ids = read_ids(table, keys)
    if len(ids) != len(rows):
        raise ExportError(f"table {table}: {len(ids)} keys and {len(rows)} rows{which}; there must be one key a row")
    step = max(1, PIECE_BYTES // (4 * rows.shape[1]))
    for begin in range(0, len(rows), step):
        piece = Piece(ids[begin : begin + step], rows[begin : begin + step])
        nan = np.isnan(piece.rows).any(axis=1)
        if nan.any():
            raise ExportError(f"table {table}: the row of key {_shown(piece.keys, int(np.argmax(nan)))} holds NaN")
        yield piece


def _alike(table: str, first: Piece, rest: Iterator[Piece]) -> Iterator[Piece]:
    """Yield the pieces, all of which must have keys and rows of one kind."""
    yield first
    strings, dim = first.keys.dtype == object, first.rows.shape[1]
    for piece in rest:
        if (piece.keys.dtype == object) is not strings:
            raise ExportError(f"table {table}: some keys are strings and some are integers; they must be of one kind")
        if piece.rows.shape[1] != dim:
            raise ExportError(
                f"table {table}: rows have {dim} numbers, and those of a later chunk {piece.rows.shape[1]}"
            )
        yield piece


def _shown(keys: NDArray[Any], row: int) -> str:
    return repr(keys.tolist()[row]) if keys.dtype == object else str(keys[row])
