"""Source of one table: where keys and rows come from, piece by piece, whatever holds them.

A source is opened by `ringpull.inference.importers.tables.formats.open_source`. Opening it reads as much as says what
rows there are; every value is checked when its piece is read. What a source gives is the same each time it is read, for
as long as its fingerprint is; so an import that was killed goes on behind the rows that it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import Float32Array, KeyType, RowType

PieceKeys = NDArray[Any] | BytesRows
"""Keys of a piece, (n,): int64 or uint64; or strings, as numpy objects of `str`, or as their UTF-8 end to end, which is
what columnar files have anyway, and takes no Python object a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What the caller says of a source. Empty: it is found out where it can be, and `TableSource.described` says it."""

    id: str | None = None
    """Column (array, tensor, field) of the keys."""
    vector: tuple[str, ...] = ()
    """Column of the vectors; or several of one number each, in this order."""
    value: str | None = None
    """Column of bytes or of texts, for a table of bytes."""
    format: str | None = None
    """Format of the files, a name of `formats.FORMATS`; None: by what they look like."""
    header: bool | None = None
    """Whether a text file's first line names its columns; None: whether it looks like that."""
    delimiter: str | None = None
    """Character between the columns of a text file; None: the one that fits its first lines."""
    id_type: str | None = None
    """Type of the keys, a value of `KeyType`, where the source does not say it itself, as a text does not; None: as its
    first rows look."""
    ids: str | None = None
    """File with the keys of a tensor's rows, in their order: a line each, or `.npy`; None: as `id` says, or the numbers
    of rows."""
    query: str | None = None
    """SELECT whose result is the table, of a database."""
    table: str | None = None
    """Table of a database; None: the only one there is."""
    keys: str | None = None
    """Keys of a store: a pattern with one `*`, which stands for the id, or the name of one hash of all rows."""
    encoding: str | None = None
    """How a vector lies in one value of a store or a database, a name of `cells.ENCODINGS`; None: by what the first
    looks like."""

    def check_alone(self) -> Self:
        """Return these options, unless they contradict each other by themselves.

        Raises:
            InvalidInput: They do.
        """
        if self.id_type is not None and self.id_type not in tuple(KeyType):
            raise InvalidInput(f"id_type is {self.id_type!r}; it must be one of {', '.join(KeyType)}")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"'):
            raise InvalidInput(f"delimiter is {self.delimiter!r}; it must be one character, and no quote or line end")
        if self.vector and self.value is not None:
            raise InvalidInput(
                f"vector is {', '.join(self.vector)} and value is {self.value}; a table has vectors, or rows of bytes"
            )
        return self

    def check_own_type(self, own: KeyType, where: str) -> None:
        """Check that the keys are asked for with the type that a source says they have.

        Raises:
            InvalidInput: They are not.
        """
        if self.id_type not in (None, own.value):
            raise InvalidInput(
                f"{where}: its keys are {own.value}; they cannot be read with the id_type {self.id_type}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class TablePiece:
    """A part of a table: some MiB of keys and rows, as many of the one as of the other, and at least one."""

    keys: PieceKeys
    rows: Float32Array | BytesRows
    """float32 (n, dim), contiguous; or n rows of bytes."""
    place: str
    """File, or whatever it is, and what is counted in it: "part-0.parquet: row", "items.csv: line"."""
    first: int | None
    """Number of the piece's first row there; None: rows have no numbers, and `place` says all."""
    share: float | None = None
    """How much of the source was read when this piece was, 0 to 1, where it does not know its number of rows."""

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, row: int) -> str:
        """Return where a row of this piece came from, for people."""
        return self.place if self.first is None else f"{self.place} {self.first + row}"

    def after(self, count: int) -> TablePiece:
        """Return the piece without its first `count` rows, fewer than it has."""
        first = None if self.first is None else self.first + count
        return TablePiece(_tail(self.keys, count), _tail(self.rows, count), self.place, first, self.share)


class TableSource(Protocol):
    """Source of the keys and rows of one table. Opened for reading; `close` ends that."""

    @property
    def described(self) -> str:
        """What was taken for what, in one line: the files, how many rows, which columns hold keys and vectors."""

    @property
    def rows(self) -> int | None:
        """Number of rows; None: it is not known before they are read."""

    @property
    def dim(self) -> int:
        """Numbers per row; 0 where rows are bytes."""

    @property
    def row_type(self) -> RowType:
        """Shortest row type that holds the source's own numbers exactly, or FLOAT32; BYTES where rows are bytes."""

    @property
    def key_type(self) -> KeyType:
        """Type of the keys: every piece has keys of this type."""

    @property
    def fingerprint(self) -> str | None:
        """What stays the same only as long as the same rows are given in the same order (names, sizes and times of
        files, and the options they are read with); None: an import of this cannot go on, and begins again."""

    def pieces(self, start: int = 0) -> Iterator[TablePiece]:
        """Yield all rows but the first `start`, in the same order each time.

        Raises:
            InvalidInput: A value is none that a table can hold: a null, a vector of another length. The message names
                the place.
            CorruptData: A file is damaged or truncated, or not what it should be.
            Unavailable: A storage does not answer now.
        """

    def close(self) -> None:
        """Close what is open. Pieces that were given stay as they are."""


def skipped(pieces: Iterator[TablePiece], start: int) -> Iterator[TablePiece]:
    """Yield pieces without the first `start` rows: for sources that cannot begin elsewhere than at their beginning."""
    for piece in pieces:
        if start >= len(piece):
            start -= len(piece)
        else:
            yield piece.after(start) if start else piece
            start = 0


def _tail(values: Any, count: int) -> Any:
    if not isinstance(values, BytesRows):
        return values[count:]
    offsets = values.offsets[count:]
    return BytesRows(values.data[int(offsets[0]) :], offsets - offsets[0])
