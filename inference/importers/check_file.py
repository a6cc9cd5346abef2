"""Rows of the source's own, from a Parquet file: an import is held against its source with them (`--check`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ringpull.inference.schema.columns import Column, as_column
from ringpull.inference.schema.kinds import Feature
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import InvalidInput

MAX_ROWS: Final = 4096
"""Rows that are read, the first of the file."""


def read_check_file(path: Path, schema: Schema | None = None) -> dict[str, Column]:
    """Return the columns of the first rows of a Parquet file, by name: numbers, strings, or lists of them.

    Args:
        path: The file.
        schema: Schema of the features: a null is what stands for a missing value of its feature.

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
    features = {} if schema is None else {each.name: each for each in schema.features}
    return {name: _column(path, name, table.column(name), features.get(name)) for name in table.column_names}


def _column(path: Path, name: str, values: Any, feature: Feature | None) -> Column:
    given = values.to_pylist()
    if values.null_count:
        missing = getattr(feature, "missing", None)
        if not isinstance(missing, int | float | str) or any(isinstance(each, list) for each in given):
            raise InvalidInput(f"--check {path}: column {name} has {values.null_count:,} nulls; leave such rows out")
        given = [missing if each is None else each for each in given]
    try:
        return as_column(name, given)
    except InvalidInput as exc:
        raise InvalidInput(f"--check {path}: {exc}") from exc
