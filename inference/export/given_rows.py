"""The keys and rows of a table as an exporter gives them: all at once, or in chunks. Checked here, piece by piece.

What is wrong is an `ExportError` that names the table and, of a row, its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.keys import Keys, key_type_of, read_ids
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import ExportError
from ringpull.ps.spec import MAX_BYTES_ROW, Float32Array, KeyType
from ringpull.ps.store.writer import TableWriter

Rows = NDArray[np.float32] | Sequence[bytes] | Sequence[str] | BytesRows
"""Rows of a table: float32 (N, dim), or N rows of bytes; a text is its UTF-8."""
GivenTable = tuple[Keys, Rows] | Iterable[tuple[Keys, Rows]]
"""A table: keys and rows, or an iterable of such pairs, which is no tuple of two."""

PIECE_BYTES: Final = 16 * 1024 * 1024
"""Bytes of vectors that are looked at, and handed to the writer, at a time."""
PIECE_ROWS: Final = 1 << 16
"""Number of rows of bytes that are, likewise."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A part of a table: keys and rows, as many of the one as of the other."""

    keys: NDArray[Any]
    """(n,): int64, uint64, or strings, as objects or numpy's own."""
    rows: Float32Array | BytesRows
    """(n, dim), or n rows of bytes."""

    @property
    def dim(self) -> int:
        """Numbers per row; 0 where rows are bytes."""
        return 0 if isinstance(self.rows, BytesRows) else int(self.rows.shape[1])

    @property
    def bytes(self) -> int:
        """Bytes of the rows as given."""
        return self.rows.data.nbytes if isinstance(self.rows, BytesRows) else self.rows.nbytes

    def write(self, writer: TableWriter) -> None:
        """Hand it to the writer of its table."""
        if isinstance(self.rows, BytesRows):
            writer.add_bytes(self.keys, self.rows)
        else:
            writer.add(self.keys, self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class GivenRows:
    """The rows of one table, of which the first piece is known."""

    table: str
    key_type: KeyType
    dim: int
    """Numbers per row; 0 where rows are bytes."""
    total_bytes: int | None
    """Bytes of all rows as given; None: they come in chunks, or are not counted before."""
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
        total_bytes = given[1].nbytes if at_once and isinstance(given[1], np.ndarray) else None
        return cls(table, key_type_of(first.keys), first.dim, total_bytes, _alike(table, first, pieces))

    @property
    def keyed_by(self) -> str:
        """Description of the keys, for people."""
        return f"raw ids, {'strings' if self.key_type is KeyType.STRING else 'integers'}"


def _chunks(table: str, given: Any) -> Iterator[Any]:
    try:
        chunks = iter(given)
    except TypeError:
        raise ExportError(
            f"table {table}: is {type(given).__name__}; it must be a tuple (keys, rows), or an iterable of such tuples"
        ) from None
    return _read(table, chunks)


def _read(table: str, chunks: Iterator[Any]) -> Iterator[Any]:
    """Yield the chunks. An error of reading them is told from one of writing the version."""
    try:
        yield from chunks
    except OSError as exc:
        raise ExportError(f"table {table}: its chunks cannot be read: {exc}") from exc


def _pieces(table: str, which: str, chunk: Any) -> Iterator[Piece]:
    """Yield the rows of one chunk, checked by themselves."""
    if not isinstance(chunk, tuple) or len(chunk) != 2:
        raise ExportError(
            f"table {table}: its content{which} is {type(chunk).__name__}; it must be a tuple (keys, rows)"
        )
    keys, rows = chunk
    of_bytes = isinstance(rows, BytesRows) or (_is_list(rows) and len(rows) > 0 and isinstance(rows[0], bytes | str))
    if not of_bytes and isinstance(rows, list | tuple) and not rows:
        rows = np.empty((0, 1), np.float32)  # of any kind: there is none
    if not of_bytes and (
        not isinstance(rows, np.ndarray) or rows.dtype != np.float32 or rows.ndim != 2 or not rows.shape[1]
    ):
        what = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ExportError(
            f"table {table}: rows{which} are {what}; they must be float32 (N, dim), or a list of bytes or of texts"
        )
    ids = read_ids(table, keys)
    if len(ids) != len(rows):
        raise ExportError(f"table {table}: {len(ids)} keys and {len(rows)} rows{which}; there must be one key a row")
    step = PIECE_ROWS if of_bytes else max(1, PIECE_BYTES // (4 * rows.shape[1]))
    for begin in range(0, len(rows), step):
        end = min(begin + step, len(rows))
        own = ids[begin:end]
        yield Piece(own, _bytes(table, own, rows, begin, end) if of_bytes else _vectors(table, own, rows[begin:end]))


def _is_list(rows: Any) -> bool:
    """Whether rows are one value after the other. An array of numpy's own bytes is not: those lose zeros at the end."""
    return isinstance(rows, list | tuple) or (
        isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype.kind != "S"
    )


def _vectors(table: str, keys: NDArray[Any], rows: Float32Array) -> Float32Array:
    nan = np.isnan(rows).any(axis=1)
    if nan.any():
        raise ExportError(f"table {table}: the row of key {_shown(keys, int(np.argmax(nan)))} holds NaN")
    return rows


def _bytes(table: str, keys: NDArray[Any], rows: Any, begin: int, end: int) -> BytesRows:
    encoded = []
    for place, row in enumerate(rows[number] for number in range(begin, end)):
        try:
            content = row.encode() if isinstance(row, str) else row
        except UnicodeEncodeError as exc:
            raise ExportError(f"table {table}: the row of key {_shown(keys, place)} is no text: {exc.reason}") from exc
        if not isinstance(content, bytes):
            raise ExportError(
                f"table {table}: the row of key {_shown(keys, place)} is {type(row).__name__}; it must be bytes or text"
            )
        if len(content) > MAX_BYTES_ROW:
            raise ExportError(
                f"table {table}: the row of key {_shown(keys, place)} has {len(content)} bytes; a row may have at most"
                f" {MAX_BYTES_ROW}"
            )
        encoded.append(content)
    return BytesRows.of(encoded)


def _alike(table: str, first: Piece, rest: Iterator[Piece]) -> Iterator[Piece]:
    """Yield the pieces, all of which must have keys and rows of one kind."""
    yield first
    strings = first.keys.dtype.kind in "UO"
    for piece in rest:
        if (piece.keys.dtype.kind in "UO") is not strings:
            raise ExportError(f"table {table}: some keys are strings and some are integers; they must be of one kind")
        if piece.dim != first.dim:
            was, now = (f"{dim} numbers" if dim else "bytes" for dim in (first.dim, piece.dim))
            raise ExportError(f"table {table}: rows have {was}, and those of a later chunk {now}")
        yield piece


def _shown(keys: NDArray[Any], row: int) -> str:
    return repr(str(keys[row])) if keys.dtype.kind in "UO" else str(keys[row])
