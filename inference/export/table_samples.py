"""Samples of a table that was written, for the self-check of a head before the version goes live."""

from __future__ import annotations

from itertools import chain, repeat
from typing import Final

import numpy as np

from ringpull.inference.model.samples import TableSamples, bytes_checksums, vector_checksums
from ringpull.ps.hashing import keys_of, positions_of
from ringpull.ps.store.base import Base
from ringpull.ps.store.row_codec import decode

KEYS: Final = 1024
"""Largest number of a table's own keys among its samples; a smaller table is sampled whole."""
LACKED_KEYS: Final = 64
"""Number of keys among a table's samples that it lacks."""


def sample_table(base: Base) -> TableSamples:
    """Return samples of a table: keys spread over the ring, and keys beside them that it lacks.

    The latter tell a table from one with more rows, as of another export.
    """
    numbers = np.unique(np.linspace(0, base.rows - 1, min(base.rows, KEYS)).astype(np.int64))
    positions = base.sections.positions[numbers]
    keys = keys_of(positions)
    beside = np.concatenate([keys + np.uint64(1), keys - np.uint64(1), np.arange(LACKED_KEYS, dtype=np.uint64)])
    lacked = np.unique(beside[base.find(positions_of(beside)) < 0])
    lacked = lacked[np.linspace(0, len(lacked) - 1, min(len(lacked), LACKED_KEYS)).astype(np.int64)]
    sampled = np.concatenate([keys, lacked])
    if base.spec.is_bytes:
        rows = (base.bytes_row(number) for number in numbers.tolist())
        return TableSamples(sampled, bytes_checksums(chain(rows, repeat(b"", len(lacked)))))
    vectors = decode(base.sections.rows[numbers], base.spec)
    defaults = np.tile(base.spec.default_vector(), (len(lacked), 1))
    return TableSamples(sampled, vector_checksums(np.concatenate([vectors, defaults])))
