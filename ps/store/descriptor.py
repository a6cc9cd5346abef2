"""Descriptor: one look-up of a table as kernels see it, a row of numbers; and how a kernel may end."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple


class TableDescriptor(NamedTuple):
    """Table as kernels see it: addresses and sizes. Its maker keeps the arrays alive."""

    index_at: int
    index_entry_bytes: int
    index_shift: int
    """`position >> index_shift` is the bucket."""
    positions_at: int
    rows_at: int
    rows: int
    row_bytes: int
    dim: int
    row_type: int
    """The number of its row type in `reducers.ROW_TYPES`."""
    default_at: int
    """float32 (dim,), whatever the row type; 0 for rows of bytes."""
    answered_at: int
    """uint8 (65536,), not 0 for slots that may be answered for; address 0: all may."""
    data_at: int = 0
    """Rows of bytes, end to end; for them `rows_at` is uint64 (rows+1,), where each begins, and `row_bytes` 8."""
    data_bytes: int = 0
    tags_at: int = 0
    """The directory of newer rows: `ringpull.ps.store.newer.newer.NewerDescriptor`; address 0: there is none."""
    buckets_at: int = 0
    newer_shift: int = 0
    segments_at: int = 0


# The columns of a frame's descriptors, int64: the table's fields, then the look-up's own.
INDEX_AT, ENTRY_BYTES, SHIFT, POSITIONS_AT, ROWS_AT, ROWS, ROW_BYTES, DIM = range(8)
ROW_TYPE, DEFAULT_AT, ANSWERED_AT, DATA_AT, DATA_BYTES = range(8, 13)
TAGS_AT, BUCKETS_AT, NEWER_SHIFT, SEGMENTS_AT = range(13, 17)
OWNED_AT, OP, KEYS, BAGS, WEIGHTED = range(17, 22)
DESCRIPTOR_FIELDS: Final = 22
TABLE: Final = struct.Struct("=17q")
LOOKUP: Final = struct.Struct("=5q")
"""The two parts of a descriptor: the table's, packed once, and the look-up's."""

OP_ROWS, OP_MAX = 0, 2
"""Values of `ringpull.ps.pull_messages.Op`; the third is SUM."""

SEGMENT_BYTES: Final = 32
"""Bytes of the numbers of a segment: see `ringpull.ps.store.newer.kernels.SEGMENT_FIELDS`."""

BYTES: Final = -1
"""Row type of rows of bytes, which `locate_bytes` looks up and `pull_frame` leaves out."""

DONE, BAD_LENGTHS, NOT_OWNED, NOT_ANSWERED, DAMAGED = range(5)
"""Outcomes of `pull_frame` and `locate_bytes`."""
