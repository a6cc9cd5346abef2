"""The compiled parts of asking what words say besides where a row is: since which stamp, and whether it is gone.

Kernels take addresses, as those of `ringpull.ps.store.kernels` do; callers check all sizes and keep the arrays alive.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ringpull.ps.compiled import kernel
from ringpull.ps.store.intrinsics import prefetch_near, u64
from ringpull.ps.store.newer.kernels import SEGMENT_FIELDS
from ringpull.ps.store.newer.words import OFFSET_MASK, SEGMENT_SHIFT

STAMP_FIELDS: Final = 3
"""Numbers of a segment, uint64: where its stamps are, the bytes of its words' offsets from one stamp to the next, and,
where the first is 0, the stamp of all its rows. The first and the second are 0 and `NO_SEGMENT` if it is not there."""
NO_SEGMENT: Final = 1
_AHEAD: Final = 64
"""Stamps that are fetched from memory before the first is read, as of rows in ring order each is a miss of the caches:
a million, of two, take 6 ms, and with checks apart and one by one took 20."""


@kernel()
def stamps_of(words_at, fields_at, segments, stamps):  # type: ignore[no-untyped-def]
    """Write the stamp of each uint64 word into `stamps`, (n,); return whether all are of segments that are there.

    Args:
        fields_at: `STAMP_FIELDS` of each of so many segments.
    """
    count = len(stamps)
    for begin in range(0, count, _AHEAD):
        end = min(count, begin + _AHEAD)
        for k in range(begin, end):  # First where each is.
            word = u64(words_at + 8 * k)
            segment = np.int64(word >> np.uint64(SEGMENT_SHIFT))
            if segment >= segments:
                return False
            at = fields_at + 8 * STAMP_FIELDS * segment
            stamp_at = np.int64(u64(at))
            if stamp_at == 0:
                if u64(at + 8) == NO_SEGMENT:
                    return False
                stamp_at = at + 16
            else:
                stamp_at += 8 * np.int64((word & np.uint64(OFFSET_MASK)) // u64(at + 8))
            prefetch_near(stamp_at)
            stamps[k] = np.uint64(stamp_at)
        for k in range(begin, end):
            stamps[k] = u64(np.int64(stamps[k]))
    return True


@kernel()
def gone_of(words_at, segments_at, gone):  # type: ignore[no-untyped-def]
    """Write whether the row of each uint64 word is gone into `gone`, bool (n,)."""
    for k in range(len(gone)):
        segment = np.int64(u64(words_at + 8 * k) >> np.uint64(SEGMENT_SHIFT))
        gone[k] = u64(segments_at + 8 * SEGMENT_FIELDS * segment) == 0
