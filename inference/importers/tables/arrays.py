"""Arrays in files, read from their beginning to their end: keys and rows of a table, row by row of both.

Nothing is mapped: a file that is cut short while it is read is an error, and no signal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.tables.files import read_exactly, storage_errors
from ringpull.inference.importers.tables.source import PieceKeys, TablePiece
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import MAX_DIM, Float32Array, KeyType, RowType

PIECE_BYTES: Final = 8 << 20
"""Bytes of rows, as float32, in a piece."""
BFLOAT16: Final = np.dtype("V2")
"""What numpy makes of bfloat16, which it does not know: the upper halves of float32."""
_SKIP_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """An array of one or two dimensions, end to end in a file, row after row."""

    name: str
    """Its name, for people."""
    where: str
    """File and array, for messages."""
    open: Callable[[], BinaryIO]
    """Open it where its first row begins."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * (self.shape[1] if len(self.shape) > 1 else 1)

    @property
    def described(self) -> str:
        """Name, type and shape, for people."""
        kind = "bfloat16" if self.dtype == BFLOAT16 else self.dtype.name
        return f"{self.name} ({kind}, {' x '.join(f'{size:,}' for size in self.shape)})"

    def read(self, file: BinaryIO, rows: int) -> NDArray[Any]:
        """Return the next rows of the opened file."""
        data = read_exactly(file, rows * self.row_bytes, self.where)
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])

    def skip(self, file: BinaryIO, rows: int) -> None:
        """Pass over the next rows of the opened file."""
        left = rows * self.row_bytes
        if file.seekable():
            with storage_errors(self.where):
                file.seek(left, 1)
            return
        while left:
            left -= len(read_exactly(file, min(left, _SKIP_BYTES), self.where))


@dataclass(frozen=True, slots=True)
class ArrayTable:
    """A table whose rows, and perhaps keys, are arrays; without keys its rows are keyed by their numbers."""

    what: str
    """What it is, for people: "vectors.npz: NumPy"."""
    keys: ArrayFile | None
    vectors: ArrayFile
    fingerprint: str

    @classmethod
    def make(cls, what: str, keys: ArrayFile | None, vectors: ArrayFile, fingerprint: str) -> ArrayTable:
        """Check that these are keys and vectors of one table.

        Raises:
            InvalidInput: They are not.
        """
        if len(vectors.shape) != 2 or not (vectors.dtype.kind == "f" or vectors.dtype == BFLOAT16):
            raise InvalidInput(f"{vectors.where}: is {vectors.described}; vectors must be floats (rows, dim)")
        if vectors.dtype.itemsize > np.dtype(np.float64).itemsize:
            raise InvalidInput(f"{vectors.where}: is {vectors.described}; save it as float32")
        if not 1 <= vectors.shape[1] <= MAX_DIM:
            raise InvalidInput(
                f"{vectors.where}: vectors have {vectors.shape[1]} numbers; they must have 1 to {MAX_DIM}"
            )
        if keys is not None and (len(keys.shape) != 1 or keys.dtype.kind not in "iuU"):
            raise InvalidInput(f"{keys.where}: is {keys.described}; keys must be integers or strings (rows,)")
        if keys is not None and keys.shape[0] != vectors.shape[0]:
            raise InvalidInput(
                f"{keys.where}: has {keys.shape[0]:,} keys, and {vectors.name} {vectors.shape[0]:,} vectors; there must"
                " be one key a vector"
            )
        return cls(what, keys, vectors, fingerprint)

    @property
    def described(self) -> str:
        """What was taken for what."""
        keys = "row numbers" if self.keys is None else self.keys.described
        return f"{self.what}, {self.rows:,} rows; keys {keys}, vectors {self.vectors.described}"

    @property
    def rows(self) -> int:
        """Rows of the array."""
        return self.vectors.shape[0]

    @property
    def dim(self) -> int:
        """Numbers per row."""
        return self.vectors.shape[1]

    @property
    def row_type(self) -> RowType:
        """The array's own where it is shorter than float32."""
        if self.vectors.dtype == BFLOAT16:
            return RowType.BFLOAT16
        return RowType.FLOAT16 if self.vectors.dtype.itemsize == 2 else RowType.FLOAT32

    @property
    def key_type(self) -> KeyType:
        """Type of the keys; row numbers are int64."""
        if self.keys is not None and self.keys.dtype.kind == "U":
            return KeyType.STRING
        return KeyType.UINT64 if self.keys is not None and self.keys.dtype == np.uint64 else KeyType.INT64

    def pieces(self, start: int = 0) -> Iterator[TablePiece]:
        """Yield rows of both arrays side by side."""
        step = max(1, PIECE_BYTES // (4 * self.dim))
        place = f"{self.vectors.where}: row"
        with ExitStack() as opened:
            vectors = opened.enter_context(self.vectors.open())
            self.vectors.skip(vectors, start)
            keys = None if self.keys is None else opened.enter_context(self.keys.open())
            if self.keys is not None and keys is not None:
                self.keys.skip(keys, start)
            for begin in range(start, self.rows, step):
                count = min(step, self.rows - begin)
                ids: PieceKeys = np.arange(begin, begin + count)
                if self.keys is not None and keys is not None:
                    ids = keys_of_array(self.keys.read(keys, count), self.keys.where)
                yield TablePiece(ids, floats_of_array(self.vectors.read(vectors, count)), place, begin)

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""


def keys_of_array(keys: NDArray[Any], where: str) -> NDArray[Any]:
    """Return keys as int64, uint64 or strings, in this machine's order of bytes.

    Raises:
        CorruptData: A string has a sign that is none of Unicode's.
    """
    if keys.dtype.kind == "U":
        native = keys.astype(keys.dtype.newbyteorder("="), copy=False)
        if native.size and int(native.view(np.uint32).max(initial=0)) > sys.maxunicode:
            raise CorruptData(f"{where}: a key has a sign that is none of Unicode's; the file is damaged")
        return native
    return keys.astype(np.uint64 if keys.dtype == np.uint64 else np.int64, copy=False)


def floats_of_array(rows: NDArray[Any]) -> Float32Array:
    """Return rows of any floats, bfloat16 as numpy reads it, as float32; what is beyond that becomes an infinity."""
    if rows.dtype == BFLOAT16:
        return (rows.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(rows.astype(np.float32, copy=False))
