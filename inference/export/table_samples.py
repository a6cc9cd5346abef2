"""Samples of a table that was written, for the self-check of a head before the version goes live."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Final

import numpy as np

from ringpull.inference.export.stored_rows import has_rows, rows_at
from ringpull.inference.model.samples import TableSamples, bytes_checksums, vector_checksums
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import keys_of, positions_of
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.base import Base
from ringpull.ps.store.row_codec import decode
from ringpull.ps.store.table import Table

KEYS: Final = 1024
"""Largest number of a table's own keys among its samples; a smaller table is sampled whole."""
LACKED_KEYS: Final = 64
"""Number of keys among a table's samples that it lacks."""


def sample_table(table: Table) -> TableSamples:
    """Return samples of a table: keys spread over the ring, and keys beside them that it lacks.

    The latter tell a table from one with more rows, as of another export. Of what each delta brought there are keys,
    too: the table before it has other rows there.
    """
    spread = [_spread(table.base)]
    if table.newer is not None:
        spread += map(_spread, table.newer.parts)
    asked = np.concatenate(spread) if len(spread) == 1 else np.unique(np.concatenate(spread))
    there = has_rows(table, asked)
    keys = keys_of(asked)
    beside = np.concatenate([keys + np.uint64(1), keys - np.uint64(1), np.arange(LACKED_KEYS, dtype=np.uint64)])
    lacked = np.unique(np.concatenate([beside[~has_rows(table, positions_of(beside))], keys[~there]]))
    lacked = lacked[np.linspace(0, len(lacked) - 1, min(len(lacked), LACKED_KEYS)).astype(np.int64)]
    sampled = np.concatenate([keys[there], lacked])
    if table.spec.is_bytes:
        return TableSamples(sampled, bytes_checksums(chain(_bytes_at(table, asked[there]), repeat(b"", len(lacked)))))
    rows = rows_at(table, asked)[1]
    assert not isinstance(rows, BytesRows), "a table has rows of one kind"
    defaults = np.tile(table.spec.default_vector(), (len(lacked), 1))
    return TableSamples(sampled, vector_checksums(np.concatenate([decode(rows, table.spec), defaults])))


def _spread(base: Base) -> UInt64Array:
    """Return positions of a base that are spread over the ring."""
    numbers = np.unique(np.linspace(0, base.rows - 1, min(base.rows, KEYS)).astype(np.int64))
    return base.sections.positions[numbers]


def _bytes_at(table: Table, positions: UInt64Array) -> Iterator[bytes]:
    """Yield rows of bytes, few of which are in memory at a time."""
    for begin in range(len(positions)):
        rows = rows_at(table, positions[begin : begin + 1])[1]
        assert isinstance(rows, BytesRows), "a table has rows of one kind"
        yield rows[0]
