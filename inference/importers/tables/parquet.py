"""Parquet: one file or many part files, with vectors as lists, as Spark's vectors, or one column a number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from ringpull.inference.importers.tables.arrow_columns import (
    At,
    bytes_of,
    column_of,
    dim_of,
    keys_of,
    kind_of,
    numbers_of,
    row_type_of,
    vectors_of,
)
from ringpull.inference.importers.tables.columns import Chosen, Kind, choose
from ringpull.inference.importers.tables.files import SourceFile, find_files, fingerprint_of, storage_errors
from ringpull.inference.importers.tables.source import ReadOptions, TablePiece
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

    @property
    def described(self) -> str:
        """What was taken for what."""
        files = f"{len(self.files)} files" if len(self.files) > 1 else "1 file"
        types = ", ".join(str(kind) for kind in dict.fromkeys(self.schema.types))
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
        return row_type_of([self.schema.field(name).type for name in self.chosen.vector])

    @property
    def key_type(self) -> KeyType:
        """By the type of the column."""
        kind = self.schema.field(self.chosen.id).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not pa.types.is_integer(plain):
            return KeyType.STRING
        return KeyType.UINT64 if plain == pa.uint64() else KeyType.INT64

    @property
    def fingerprint(self) -> str:
        """Of the files and of the columns."""
        return fingerprint_of(self.files, self.chosen)

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
            else _vectors(batch, chosen, self.dim, at)
        )
        return TablePiece(keys, rows, place, first)


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
                chosen = choose([column_of(field) for field in whole], options, file.path)
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
    _check_types(files[0].path, chosen, schema)
    dim = _dim(files, counts, chosen, where)
    table = ParquetTable(where, files, tuple(counts), chosen, schema, dim)
    options.check_own_type(table.key_type, where)
    return table


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


def _vectors(batch: pa.RecordBatch, chosen: Chosen, dim: int, at: At) -> Any:
    arrays = [batch.column(name) for name in chosen.vector]
    if len(arrays) > 1 or kind_of(arrays[0].type) in (Kind.NUMBER, Kind.INTEGER):
        return numbers_of(arrays, chosen.vector, at)
    return vectors_of(arrays[0], dim, chosen.vector[0], at)


def _dim(files: tuple[SourceFile, ...], counts: list[tuple[int, ...]], chosen: Chosen, where: str) -> int:
    """Return the number of numbers of a vector, of the first row that there is."""
    if chosen.value is not None:
        return 0
    for file, groups in zip(files, counts, strict=True):
        filled = next((group for group, count in enumerate(groups) if count), None)
        if filled is None:
            continue
        with _opened(file) as parquet:
            kind = parquet.schema_arrow.field(chosen.vector[0]).type
            if len(chosen.vector) > 1 or kind_of(kind) in (Kind.NUMBER, Kind.INTEGER):
                return len(chosen.vector)
            with arrow_errors(file.path):
                batch = next(parquet.iter_batches(1, [filled], columns=list(chosen.vector)))
        first = f"{file.name}: row group {filled}, row 0"
        return dim_of(batch.column(chosen.vector[0]), chosen.vector[0], first)
    raise InvalidInput(f"{where}: has no rows")


def _check_types(where: str, chosen: Chosen, schema: pa.Schema) -> None:
    """Refuse columns whose types cannot be what they were chosen for, before anything is read."""
    kinds = {name: kind_of(schema.field(name).type) for name in chosen.names}
    wanted: dict[str, tuple[Kind, ...]] = {chosen.id: (Kind.INTEGER, Kind.TEXT)}
    if chosen.value is not None:
        wanted[chosen.value] = (Kind.TEXT, Kind.BYTES)
    numbers = (Kind.NUMBER, Kind.INTEGER)
    for name in chosen.vector:
        wanted[name] = numbers if len(chosen.vector) > 1 else (*numbers, Kind.VECTOR)
    for name, allowed in wanted.items():
        if kinds[name] not in allowed:
            which = " or ".join(sorted({kind.value for kind in allowed}))
            raise InvalidInput(f"{where}: column {name} is {schema.field(name).type}; it must be of {which} values")


def _types(schema: pa.Schema) -> str:
    return ", ".join(str(kind) for kind in schema.types)


def _first_line(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0]
