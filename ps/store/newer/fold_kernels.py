"""The compiled parts of a fold: rows of words are copied, words that say that a row is gone left out, words flipped.

Kernels take addresses, as those of `ringpull.ps.store.kernels` do; callers check all sizes and keep the arrays alive.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ringpull.ps.compiled import kernel
from ringpull.ps.store.intrinsics import (
    LINE_BYTES,
    copy_bytes,
    prefetch_far,
    prefetch_near,
    put_int64,
    release_u64,
    u64,
)
from ringpull.ps.store.newer.kernels import SEGMENT_FIELDS
from ringpull.ps.store.newer.probe import BUCKET_BYTES, PLACE_BYTES, WORD_AT, home_place, own_tags, place_of
from ringpull.ps.store.newer.words import OFFSET_MASK, SEGMENT_SHIFT

_ROWS_AHEAD: Final = 32
_LINES_AHEAD: Final = 8
"""Rows that are being loaded while one is copied, and the most cache lines of each: of longer ones the processor loads
the rest by itself. A million rows of 256 bytes take 22 ms so, and 53 with 16 rows and two lines of each."""
_PLACES_AHEAD: Final = 16
"""Positions whose bucket is being loaded while the word of one is flipped."""


@kernel()
def copy_rows(words_at, segments_at, row_bytes, out_at, count):  # type: ignore[no-untyped-def]
    """Copy the vectors of uint64 words (count,) to one place end to end; return whether none of them is gone."""
    ahead_bytes = min(row_bytes, _LINES_AHEAD * LINE_BYTES)
    for k in range(count):
        if k + _ROWS_AHEAD < count:
            word = u64(words_at + 8 * (k + _ROWS_AHEAD))
            rows_at = u64(segments_at + 8 * SEGMENT_FIELDS * np.int64(word >> np.uint64(SEGMENT_SHIFT)))
            ahead = np.int64(rows_at) + np.int64(word & np.uint64(OFFSET_MASK))
            for line in range(0, ahead_bytes, LINE_BYTES):
                prefetch_far(ahead + line)
        word = u64(words_at + 8 * k)
        rows_at = u64(segments_at + 8 * SEGMENT_FIELDS * np.int64(word >> np.uint64(SEGMENT_SHIFT)))
        if rows_at == 0:
            return False
        at = np.int64(rows_at) + np.int64(word & np.uint64(OFFSET_MASK))
        copy_bytes(out_at + k * row_bytes, at, row_bytes)
    return True


@kernel()
def keep_others(gone, numbers_at):  # type: ignore[no-untyped-def]
    """Move those of uint64 numbers (n,) that are not marked in `gone`, bool (n,), to the front, in their order."""
    kept = 0
    for k in range(len(gone)):
        if not gone[k]:
            put_int64(numbers_at + 8 * kept, np.int64(u64(numbers_at + 8 * k)))
            kept += 1


@kernel()
def flip(tags_at, buckets_at, shift, positions_at, old_at, new_at, count):  # type: ignore[no-untyped-def]
    """Give each uint64 position (count,) whose word is the old one its new one. By the writer of the directory."""
    for k in range(count):
        if k + _PLACES_AHEAD < count:
            ahead = u64(positions_at + 8 * (k + _PLACES_AHEAD))
            prefetch_near(own_tags(tags_at, shift, ahead))
            place = home_place(shift, ahead)
            prefetch_near(buckets_at + BUCKET_BYTES * np.int64(ahead >> np.uint64(shift)) + PLACE_BYTES * place)
        at = place_of(tags_at, buckets_at, shift, u64(positions_at + 8 * k))
        if at != 0 and u64(at + WORD_AT) == u64(old_at + 8 * k):
            release_u64(at + WORD_AT, u64(new_at + 8 * k))
