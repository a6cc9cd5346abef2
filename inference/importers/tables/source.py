"""Source of one table: where keys and rows come from, piece by piece, whatever holds them.

A source is opened by `ringpull.inference.importers.tables.formats.open_source`. Opening it reads as much as says what
rows there are; every value is checked when its piece is read. What a source gives is the same each time it is read, for
as long as its fingerprint is; so an import that was killed goes on behind the rows that it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """Character between the columns of a text file; None: the one that fits its first line."""

    def check_alone(self) -> Self:
        """Return these options, unless vectors and values are both asked for.

        Raises:
            InvalidInput: They are.
        """
        if self.vector and self.value is not None:
            raise InvalidInput(
                f"vector is {', '.join(self.vector)} and value is {self.value}; a table has vectors, or rows of bytes"
            )
        return self


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
    """Where the keys and rows of one table come from. Opened for reading; `close` ends that."""

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


def checked_dim(dims: Sequence[int], where: str) -> int:
    """Return the one length that vectors have.

    Raises:
        InvalidInput: There are several, or it is 0.
    """
    if len(set(dims)) != 1 or not dims[0]:
        raise InvalidInput(f"{where}: vectors have {sorted(set(dims))} numbers; all must have the same, at least one")
    return dims[0]


def _tail(values: Any, count: int) -> Any:
    if not isinstance(values, BytesRows):
        return values[count:]
    offsets = values.offsets[count:]
    return BytesRows(values.data[int(offsets[0]) :], offsets - offsets[0])
