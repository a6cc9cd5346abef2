"""Rows of the source's own, from a Parquet file: an import is held against its source with them (`--check`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ringpull.inference.schema.columns import Column, as_column
from ringpull.ps.errors import InvalidInput

MAX_ROWS: Final = 4096
"""Rows that are read, the first of the file."""


def read_check_file(path: Path) -> dict[str, Column]:
    """Return the columns of the first rows of a Parquet file, by name: numbers, strings, or lists of them.

    Raises:
        InvalidInput: It is no Parquet file, has no rows, or a column is of another kind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
        batches = []
        for batch in file.iter_batches(MAX_ROWS):
            batches.append(batch)
            if sum(len(each) for each in batches) >= MAX_ROWS:
                break
    except (pa.ArrowException, OSError) as exc:
        raise InvalidInput(f"--check {path}: is no Parquet file that can be read: {exc}") from exc
    if not batches or not sum(len(each) for each in batches):
        raise InvalidInput(f"--check {path}: has no rows")
    table = pa.Table.from_batches(batches).slice(0, MAX_ROWS)
    return {name: _column(path, name, table.column(name)) for name in table.column_names}


def _column(path: Path, name: str, values: Any) -> Column:
    if values.null_count:
        raise InvalidInput(f"--check {path}: column {name} has {values.null_count:,} nulls; leave such rows out")
    try:
        return as_column(name, values.to_pylist())
    except InvalidInput as exc:
        raise InvalidInput(f"--check {path}: {exc}") from exc
