"""Words: where the newest row of a position is, in 8 bytes that are written at once.

A word is `segment << 48 | byte offset`. Segments are numbered from 1. One that has no rows, but stamps of removals
alone, means that the row is gone; so does segment 0. Offsets and not addresses, so that another process can map the
segments. 0 is no word.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ringpull.ps.spec import UInt64Array

SEGMENT_SHIFT: Final = 48
MAX_SEGMENTS: Final = 1 << 16
OFFSET_MASK: Final = (1 << SEGMENT_SHIFT) - 1

GONE: Final = 1
"""Word of a row that is gone, no matter since which stamp."""


def segments_of(words: UInt64Array) -> UInt64Array:
    """Return the segment of each word."""
    return words >> np.uint64(SEGMENT_SHIFT)


def offsets_of(words: UInt64Array) -> UInt64Array:
    """Return the offset of each word."""
    return words & np.uint64(OFFSET_MASK)


def words_at(segment: int, offsets: UInt64Array) -> UInt64Array:
    """Return the words of rows at some byte offsets of a segment."""
    return offsets | np.uint64(segment << SEGMENT_SHIFT)
