"""Reading back what was imported, and sources as they are: plain dictionaries of key to row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ringpull.inference.importers.tables.checked import checked_pieces
from ringpull.inference.importers.tables.formats import open_source
from ringpull.inference.importers.tables.source import ReadOptions, TableSource
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import keys_of
from ringpull.ps.store.base import Base
from ringpull.ps.store.row_codec import decode
from tests.ps.tables import bytes_row
from tests.reference import key_of_string

Rows = dict[Any, Any]


def read_source(source: TableSource, start: int = 0) -> Rows:
    """Return the row of each key as lists of floats or as bytes; keys as int or str."""
    found: Rows = {}
    for piece in checked_pieces(source, start):
        keys = [key.decode() for key in piece.keys] if isinstance(piece.keys, BytesRows) else piece.keys.tolist()
        rows = list(piece.rows) if isinstance(piece.rows, BytesRows) else piece.rows.tolist()
        assert not found.keys() & set(keys)
        found.update(zip(keys, rows, strict=True))
    return found


def read(where: str | Path, **options: Any) -> Rows:
    """Return the rows of what `open_source` opens."""
    source = open_source(where, ReadOptions(**options))
    try:
        return read_source(source)
    finally:
        source.close()


def written(folder: Path) -> Rows:
    """Return the rows of a table on disk, by uint64 key, every one checked against its checksum."""
    base = Base.open(folder, verify_rows=True)
    try:
        keys = keys_of(base.positions_slice(0, base.rows)).tolist()
        if base.spec.is_bytes:
            return {key: bytes_row(base, number) for number, key in enumerate(keys)}
        rows = decode(np.array(base.raw_rows(0, base.rows)), base.spec)
        return dict(zip(keys, rows.tolist(), strict=True))
    finally:
        base.close()


def as_written(rows: Rows) -> Rows:
    """Return rows of a source as `written` gives them: by uint64 key."""
    return {key_of_string(key) if isinstance(key, str) else key % (1 << 64): row for key, row in rows.items()}
