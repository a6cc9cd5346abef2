"""Reading a source to its end, as an import does, into plain Python values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ringpull.inference.importers.tables.formats import open_source
from ringpull.inference.importers.tables.source import ReadOptions, TableSource
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.spec import KeyType


def table_of(where: str | Path, **options: Any) -> dict[Any, Any]:
    """Open a source and return its rows by key: lists of numbers, or bytes."""
    source = open_source(where, ReadOptions(**options))
    try:
        found = rows_of(source)
        assert rows_of(source) == found, "a source that is read again gives the same"
        return found
    finally:
        source.close()


def rows_of(source: TableSource, start: int = 0) -> dict[Any, Any]:
    """Return the rows of an open source by key, each there once."""
    found: dict[Any, Any] = {}
    count = 0
    for piece in source.pieces(start):
        keys = [key.decode() for key in piece.keys] if isinstance(piece.keys, BytesRows) else piece.keys.tolist()
        assert len(keys) == len(piece) > 0
        if source.key_type is KeyType.STRING:
            assert all(isinstance(key, str) for key in keys)
        else:
            assert isinstance(piece.keys, np.ndarray)
            assert piece.keys.dtype == source.key_type.value
        if isinstance(piece.rows, BytesRows):
            rows: list[Any] = list(piece.rows)
        else:
            assert (piece.rows.dtype, piece.rows.shape) == (np.float32, (len(piece), source.dim))
            assert piece.rows.flags.c_contiguous
            rows = piece.rows.tolist()
        found.update(zip(keys, rows, strict=True))
        count += len(piece)
    assert len(found) == count
    assert source.rows in (None, count + start)
    return found
