"""Parquet: one file or many part files, with vectors as lists, as Spark's vectors, or one column a number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ringpull.inference.importers.tables.arrow_columns import (
    At,
    bytes_of,
    column_of,
    dim_of,
    is_list_of_integers,
    keys_of,
    kind_of,
    numbers_of,
    plain_type,
    row_type_of,
    vectors_of,
)
from ringpull.inference.importers.tables.cells import Vectors
from ringpull.inference.importers.tables.columns import Chosen, Kind, choose, refuse_vectors_as_bytes
from ringpull.inference.importers.tables.files import SourceFile, find_files, fingerprint_of, storage_errors
from ringpull.inference.importers.tables.source import ReadOptions, TablePiece
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import KeyType, RowType

PIECE_BYTES: Final = 8 << 20
"""Bytes of vectors in a piece."""
_BYTES_PIECE_ROWS: Final = 4096
"""Rows of bytes in a piece: each may be long."""


@dataclass(frozen=True, slots=True)
class ParquetTable:
    """Parquet files of one table, in the order of their names; only what their footers say was read."""

    where: str
    files: tuple[SourceFile, ...]
    counts: tuple[tuple[int, ...], ...]
    """Rows of each row group of each file."""
    chosen: Chosen
    schema: pa.Schema
    """Of the columns that are read."""
    dim: int
    cells: Vectors | None = None
    """Reader of vectors that are texts or bytes; None: they are numbers to Arrow."""

    @property
    def described(self) -> str:
        """What was taken for what."""
        files = f"{len(self.files)} files" if len(self.files) > 1 else "1 file"
        types = ", ".join(str(kind) for kind in dict.fromkeys(self.schema.types))
        types += "" if self.cells is None else f" as {self.cells.encoding}"
        return f"{self.where}: Parquet, {files}, {self.rows:,} rows; {self.chosen.described} ({types})"

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(map(sum, self.counts))

    @property
    def row_type(self) -> RowType:
        """BYTES, or what holds the vectors' own numbers."""
        if self.chosen.value is not None:
            return RowType.BYTES
        if self.cells is not None:
            return RowType.FLOAT32
        return row_type_of([self.schema.field(name).type for name in self.chosen.vector])

    @property
    def key_type(self) -> KeyType:
        """By the type of the column."""
        kind = self.schema.field(self.chosen.id).type
        if kind_of(kind) is not Kind.INTEGER:
            return KeyType.STRING
        return KeyType.UINT64 if plain_type(kind) == pa.uint64() else KeyType.INT64

    @property
    def fingerprint(self) -> str:
        """Of the files and of the columns."""
        return fingerprint_of(self.files, self.chosen, None if self.cells is None else self.cells.encoding)

    def pieces(self, start: int = 0) -> Iterator[TablePiece]:
        """Yield the rows of all row groups, one after the other."""
        batch_rows = PIECE_BYTES // (4 * self.dim) + 1 if self.dim else _BYTES_PIECE_ROWS
        for file, counts in zip(self.files, self.counts, strict=True):
            if start >= sum(counts):
                start -= sum(counts)
                continue
            with _opened(file) as parquet:
                for group, count in enumerate(counts):
                    if start >= count:
                        start -= count
                        continue
                    for piece in self._of_group(parquet, file, group, batch_rows):
                        if start >= len(piece):
                            start -= len(piece)
                        else:
                            yield piece.after(start) if start else piece
                            start = 0

    def close(self) -> None:
        """Do nothing: a file is open only while it is read."""

    def _of_group(self, parquet: Any, file: SourceFile, group: int, batch_rows: int) -> Iterator[TablePiece]:
        first = 0
        place = f"{file.name}: row group {group}, row"
        batches = parquet.iter_batches(batch_rows, [group], columns=list(self.chosen.names))
        while True:
            with arrow_errors(file.path):
                batch = next(batches, None)
            if batch is None:
                return
            if batch.num_rows:
                yield self._piece(batch, place, first)
            first += batch.num_rows

    def _piece(self, batch: pa.RecordBatch, place: str, first: int) -> TablePiece:
        chosen = self.chosen

        def at(row: int) -> str:
            return f"{place} {first + row}"

        keys = keys_of(batch.column(chosen.id), chosen.id, at)
        rows = (
            bytes_of(batch.column(chosen.value), chosen.value, at)
            if chosen.value is not None
            else self._vectors(batch, place, first, at)
        )
        return TablePiece(keys, rows, place, first)

    def _vectors(self, batch: pa.RecordBatch, place: str, first: int, at: At) -> Any:
        names = self.chosen.vector
        arrays = [batch.column(name) for name in names]
        if self.cells is not None:
            return self.cells.read(arrays[0].to_pylist(), lambda row: _of_row(names[0], place, first + row))
        if len(arrays) > 1 or kind_of(arrays[0].type) in (Kind.NUMBER, Kind.INTEGER):
            return numbers_of(arrays, names, at)
        return vectors_of(arrays[0], self.dim, names[0], at)


def open_table(where: str, options: ReadOptions) -> ParquetTable:
    """Open Parquet files; see `open_source`."""
    files = tuple(file for file in find_files(where) if file.size)
    if not files:
        raise InvalidInput(f"{where}: its files are empty")
    chosen: Chosen | None = None
    schema: pa.Schema | None = None
    counts = []
    for file in files:
        with _opened(file) as parquet:
            whole = parquet.schema_arrow
            if chosen is None:
                columns = [column_of(field) for field in whole]
                chosen = choose(columns, options, file.path)
                refuse_vectors_as_bytes(chosen, columns, options, file.path)
            missing = [name for name in chosen.names if name not in whole.names]
            if missing:
                raise InvalidInput(f"{file.path}: has no column {missing[0]!r}, which {files[0].name} has")
            own = pa.schema([whole.field(name) for name in chosen.names])
            if schema is not None and own.types != schema.types:
                raise InvalidInput(
                    f"{file.path}: its columns {', '.join(chosen.names)} are {_types(own)}; those of {files[0].name}"
                    f" {_types(schema)}"
                )
            schema = own if schema is None else schema
            metadata = parquet.metadata
            counts.append(tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))
    assert chosen is not None
    assert schema is not None
    _check_types(files[0].path, chosen, schema, options)
    dim, cells = (0, None) if chosen.value is not None else _dim(files, counts, chosen, options, where)
    table = ParquetTable(where, files, tuple(counts), chosen, schema, dim, cells)
    options.check_own_type(table.key_type, where)
    return table


def read_keys_alone(where: str, column: str | None) -> NDArray[Any] | None:
    """Return the keys of files that have that column alone: int64, uint64, or objects of `str`; None: they have others.

    Args:
        column: Its name; None: any.

    Raises:
        InvalidInput: A key is null, they are neither integers nor texts, or those of one file are of another type.
        CorruptData, NotFound, Unavailable: As of `open_table`.
    """
    found: list[NDArray[Any]] = []
    for file in (each for each in find_files(where) if each.size):
        with _opened(file) as parquet:
            names = parquet.schema_arrow.names
            if len(names) != 1 or column not in (None, names[0]):
                return None
            with arrow_errors(file.path):
                array = parquet.read().column(0).combine_chunks()
        keys: Any = keys_of(array, names[0], f"{file.name}: row {{}}".format)
        found.append(np.array([key.decode() for key in keys], object) if isinstance(keys, BytesRows) else keys)
        if found[-1].dtype != found[0].dtype:  # numpy would make floats of them
            raise InvalidInput(f"{file.path}: its keys are of another type than those of the files before")
    return np.concatenate(found) if found else None


@contextmanager
def arrow_errors(where: str) -> Iterator[None]:
    """Translate Arrow's errors of reading a file.

    Raises:
        CorruptData: It is damaged, or not what it should be.
        NotFound, Unavailable: As `storage_errors`.
    """
    with storage_errors(where):
        try:
            yield
        except FileNotFoundError:
            raise
        except (pa.ArrowException, EOFError, UnicodeDecodeError) as exc:
            raise CorruptData(f"{where}: cannot be read: {_first_line(exc)}; it is damaged, or no such file") from exc
        except OSError as exc:
            if exc.errno is not None:
                raise
            raise CorruptData(f"{where}: cannot be read: {_first_line(exc)}; it is damaged or truncated") from exc


@contextmanager
def _opened(file: SourceFile) -> Iterator[Any]:
    with arrow_errors(file.path):
        source: Any = str(file.local) if file.local is not None else file.open()
        # Without pre_buffer a row group is decoded as it is read, and is never all in memory.
        parquet = pq.ParquetFile(source, memory_map=file.local is not None, pre_buffer=False)
    try:
        yield parquet
    finally:
        parquet.close(force=True)


def _dim(
    files: tuple[SourceFile, ...], counts: list[tuple[int, ...]], chosen: Chosen, options: ReadOptions, where: str
) -> tuple[int, Vectors | None]:
    """Return the number of numbers of a vector, of the first row that there is, and how it is read if it is a cell."""
    name = chosen.vector[0]
    for file, groups in zip(files, counts, strict=True):
        filled = next((group for group, count in enumerate(groups) if count), None)
        if filled is None:
            continue
        with _opened(file) as parquet:
            kind = parquet.schema_arrow.field(name).type
            if len(chosen.vector) > 1 or kind_of(kind) in (Kind.NUMBER, Kind.INTEGER):
                return len(chosen.vector), None
            with arrow_errors(file.path):
                batch = next(parquet.iter_batches(1, [filled], columns=list(chosen.vector)))
        place = f"{file.name}: row group {filled}, row"
        if kind_of(kind) in (Kind.TEXT, Kind.BYTES):
            cells = Vectors(where, options.encoding, batch.column(name)[0].as_py(), _of_row(name, place, 0))
            return cells.dim, cells
        return dim_of(batch.column(name), name, f"{place} 0"), None
    raise InvalidInput(f"{where}: has no rows")


def _of_row(column: str, place: str, row: int) -> str:
    return f"{column} of {place} {row}"


def _check_types(where: str, chosen: Chosen, schema: pa.Schema, options: ReadOptions) -> None:
    """Refuse columns whose types cannot be what they were chosen for, before anything is read."""
    kinds = {name: kind_of(schema.field(name).type) for name in chosen.names}
    wanted: dict[str, tuple[Kind, ...]] = {chosen.id: (Kind.INTEGER, Kind.TEXT, Kind.BYTES)}
    if chosen.value is not None:
        wanted[chosen.value] = (Kind.TEXT, Kind.BYTES)
    numbers = (Kind.NUMBER, Kind.INTEGER)
    cells = (Kind.TEXT, Kind.BYTES) if options.vector else ()
    for name in chosen.vector:
        wanted[name] = numbers if len(chosen.vector) > 1 else (*numbers, Kind.VECTOR, *cells)
        if options.vector and is_list_of_integers(schema.field(name).type):
            kinds[name] = Kind.VECTOR
    if options.encoding is not None and not (chosen.vector and kinds[chosen.vector[0]] in cells):
        raise InvalidInput(f"{where}: encoding is {options.encoding}; it is for a vector of texts or bytes")
    for name, allowed in wanted.items():
        if kinds[name] not in allowed:
            which = " or ".join(sorted({kind.value for kind in allowed}))
            raise InvalidInput(f"{where}: column {name} is {schema.field(name).type}; it must be of {which} values")


def _types(schema: pa.Schema) -> str:
    return ", ".join(str(kind) for kind in schema.types)


def _first_line(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0]
