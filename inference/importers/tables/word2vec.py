"""Binary of word2vec: a first line "rows dim", then for each row its word, a blank and its float32 numbers.

    3 2\\n  king <8 bytes>\\n  queen <8 bytes>\\n ...        a line end behind a row may be there or not

Words have lengths of their own, so rows are found one after the other; their numbers are taken together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np

from ringpull.inference.importers.tables.files import (
    SourceFile,
    find_files,
    fingerprint_of,
    read_exactly,
    storage_errors,
)
from ringpull.inference.importers.tables.source import ReadOptions, TablePiece, skipped
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import MAX_DIM, KeyType, RowType

_FIRST_LINE: Final = re.compile(rb"(\d{1,18}) (\d{1,9})[ \r]*\n")
_MAX_WORD_BYTES: Final = 1 << 16
_READ_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Word2VecTable:
    """One such file; only its first line was read."""

    file: SourceFile
    rows: int
    dim: int
    first_pos: int
    """Place of the first row."""

    row_type: RowType = RowType.FLOAT32
    key_type: KeyType = KeyType.STRING

    @property
    def described(self) -> str:
        """What was taken for what."""
        return f"{self.file.path}: word2vec, binary, {self.rows:,} rows; keys are words, vectors of {self.dim} numbers"

    @property
    def fingerprint(self) -> str:
        """Of the file."""
        return fingerprint_of([self.file])

    def pieces(self, start: int = 0) -> Iterator[TablePiece]:
        """Yield the rows of the file."""
        return skipped(self._pieces(), start)

    def close(self) -> None:
        """Do nothing: the file is open only while it is read."""

    def _pieces(self) -> Iterator[TablePiece]:
        where = self.file.path
        place = f"{self.file.name}: row"
        done = 0
        with self.file.open() as file:
            read_exactly(file, self.first_pos, where)
            rest = b""
            while done < self.rows:
                with storage_errors(where):
                    more = file.read(_READ_BYTES)
                data = rest + more
                words, vectors, used = self._rows_in(data, self.rows - done, f"{place} {done}", last=not more)
                if words:
                    yield TablePiece(BytesRows.of(words), vectors, place, done)
                elif not more:
                    raise CorruptData(f"{where}: has {done:,} rows; its first line says {self.rows:,}; it is truncated")
                done += len(words)
                rest = data[used:]
            self._check_end(file, rest)

    def _rows_in(
        self, data: bytes, max_rows: int, place: str, *, last: bool
    ) -> tuple[list[bytes], np.ndarray[tuple[int, int], np.dtype[np.float32]], int]:
        """Return the words and vectors of the rows that lie whole in some bytes, and how many bytes these are."""
        vector_bytes = 4 * self.dim
        words: list[bytes] = []
        starts: list[int] = []
        at = 0
        while len(words) < max_rows:
            begin = at
            while data[begin : begin + 1] == b"\n":  # behind the row before
                begin += 1
            blank = data.find(b" ", begin, begin + _MAX_WORD_BYTES)
            if blank < 0 and len(data) - begin >= _MAX_WORD_BYTES:
                raise CorruptData(f"{self.file.path}: behind {place}: there is no word; it is damaged, or no word2vec")
            if blank < 0 or blank + 1 + vector_bytes > len(data):
                break
            words.append(data[begin:blank])
            starts.append(blank + 1)
            at = blank + 1 + vector_bytes
        raw = np.frombuffer(data, np.uint8)
        places = np.array(starts, np.int64)[:, np.newaxis] + np.arange(vector_bytes)
        vectors = raw[places].view("<f4") if starts else np.empty((0, self.dim), np.float32)
        return words, vectors, at

    def _check_end(self, file: BinaryIO, rest: bytes) -> None:
        with storage_errors(self.file.path):
            more = rest + file.read(2)
        if more.strip(b"\r\n"):
            raise CorruptData(f"{self.file.path}: goes on behind the {self.rows:,} rows that its first line says")


def open_table(where: str, options: ReadOptions) -> Word2VecTable:
    """Open such a file; see `open_source`."""
    if options.id is not None or options.vector or options.value is not None:
        raise InvalidInput(f"{where}: words and vectors have no columns; leave id, vector and value out")
    options.check_own_type(KeyType.STRING, where)
    files = find_files(where)
    if len(files) > 1:
        raise InvalidInput(f"{where}: has {len(files)} files; word2vec's binary is one")
    file = files[0]
    found = _FIRST_LINE.match(file.head(64))
    if found is None:
        raise CorruptData(f'{file.path}: does not begin with a line "rows dim"; it is no binary of word2vec')
    rows, dim = int(found[1]), int(found[2])
    if not 1 <= dim <= MAX_DIM or not rows:
        raise CorruptData(f"{file.path}: its first line says {rows:,} rows of {dim} numbers; no table has that")
    if file.size < found.end() + rows * (4 * dim + 1):
        raise CorruptData(
            f"{file.path}: its first line says {rows:,} rows of {dim} numbers; it has {file.size:,} bytes, and is"
            " truncated"
        )
    return Word2VecTable(file, rows, dim, found.end())
