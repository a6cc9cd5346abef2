"""The compiled parts of directories and segments: putting, getting and walking words, and where the rows of words are.

Kernels take addresses, as those of `ringpull.ps.store.kernels` do; callers check all sizes and keep the arrays alive.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ringpull.ps.compiled import kernel
from ringpull.ps.spec import MAX_BYTES_ROW
from ringpull.ps.store.intrinsics import (
    LINE_BYTES,
    acquire_u64,
    fence,
    lowest_bit,
    prefetch_near,
    put_int64,
    release_u16,
    release_u64,
    tag_matches,
    u64,
)
from ringpull.ps.store.newer.probe import (
    BUCKET_BYTES,
    FREE,
    PLACE_BYTES,
    PLACES,
    PROBE,
    TAG_BYTES,
    WORD_AT,
    home_place,
    own_tags,
    place_of,
    tag_of,
    word_of,
)
from ringpull.ps.store.newer.words import OFFSET_MASK, SEGMENT_SHIFT

_AHEAD: Final = 16
"""Positions whose bucket is being loaded while one is put or got."""

_BUCKETS_AHEAD: Final = 4
"""Buckets from the one that is walked to the one that is being loaded."""

SEGMENT_FIELDS: Final = 4
"""Numbers of a segment, uint64: where its rows are, or of rows of bytes where their starts are; where their bytes are,
and how many; 0. The first is 0 in segments without rows: words of rows that are gone."""

DAMAGED: Final = -1


@kernel()
def put(tags_at, buckets_at, shift, positions_at, words_at, count):  # type: ignore[no-untyped-def]
    """Put uint64 words (count,) at their positions.

    Returns:
        How many could be put, up to the first that has no place, and how many of these positions are new.
    """
    new = 0
    for k in range(count):
        if k + _AHEAD < count:
            bucket = np.int64(u64(positions_at + 8 * (k + _AHEAD)) >> np.uint64(shift))
            place = home_place(shift, u64(positions_at + 8 * (k + _AHEAD)))
            prefetch_near(tags_at + TAG_BYTES * bucket)
            prefetch_near(buckets_at + BUCKET_BYTES * bucket + PLACE_BYTES * place)
        position, word = u64(positions_at + 8 * k), u64(words_at + 8 * k)
        at = place_of(tags_at, buckets_at, shift, position)
        if at != 0:
            release_u64(at + WORD_AT, word)
            continue
        tag_at, there = own_tags(tags_at, shift, position), False
        for _ in range(PROBE):
            free = tag_matches(tag_at, FREE)
            if free != 0:
                there = True
                break
            tag_at += TAG_BYTES
        if not there:
            return k, new
        # The first from its own on, or where there is none from the first of all.
        after = free >> home_place(shift, position) << home_place(shift, position)
        place = lowest_bit(after if after != 0 else free)
        at = buckets_at + BUCKET_BYTES * ((tag_at - tags_at) // TAG_BYTES) + PLACE_BYTES * place
        put_int64(at, np.int64(position))
        put_int64(at + WORD_AT, np.int64(word))
        release_u16(tag_at + 2 * place, tag_of(position))
        new += 1
    return count, new


@kernel()
def get(tags_at, buckets_at, shift, positions_at, words):  # type: ignore[no-untyped-def]
    """Write the word of each uint64 position into `words` (count,), 0 for those that are not there."""
    count = len(words)
    for k in range(count):
        if k + _AHEAD < count:
            prefetch_near(own_tags(tags_at, shift, u64(positions_at + 8 * (k + _AHEAD))))
        words[k] = word_of(tags_at, buckets_at, shift, u64(positions_at + 8 * k))


@kernel()
def walk(tags_at, buckets_at, shift, begin, last, limit, positions, words):  # type: ignore[no-untyped-def]
    """Write positions from `begin` to `last` in ascending order, and their words.

    It ends early once it has `limit` of them, at a bucket that nothing flows over from.

    Returns:
        How many were written, and the bucket behind the last one that was read.
    """
    first, after = np.int64(begin >> np.uint64(shift)), np.int64(last >> np.uint64(shift)) + PROBE
    count = 0
    for number in range(first, after):
        for line in range(0, BUCKET_BYTES, LINE_BYTES):
            prefetch_near(buckets_at + BUCKET_BYTES * (number + _BUCKETS_AHEAD) + line)
        free = tag_matches(tags_at + TAG_BYTES * number, FREE)
        fence()
        taken = ~free & ((1 << PLACES) - 1)
        while taken != 0:
            at = buckets_at + BUCKET_BYTES * number + PLACE_BYTES * lowest_bit(taken)
            taken &= taken - 1
            position = u64(at)
            if position < begin or position > last:
                continue
            word = acquire_u64(at + WORD_AT)
            k = count
            while k > 0 and positions[k - 1] > position:
                positions[k], words[k] = positions[k - 1], words[k - 1]
                k -= 1
            positions[k], words[k] = position, word
            count += 1
        if free != 0 and (count >= limit or number >= after - PROBE):
            return count, number + 1
    return count, after


@kernel()
def spans(words_at, segments_at, from_ats, lengths):  # type: ignore[no-untyped-def]
    """Write where the row of bytes of each uint64 word is, and its length.

    Returns:
        The bytes of all rows, or `DAMAGED`: where they start is.
    """
    total = np.int64(0)
    for k in range(len(from_ats)):
        word = u64(words_at + 8 * k)
        segment_at = segments_at + 8 * SEGMENT_FIELDS * np.int64(word >> np.uint64(SEGMENT_SHIFT))
        at = np.int64(u64(segment_at)) + np.int64(word & np.uint64(OFFSET_MASK))
        first, end = u64(at), u64(at + 8)
        if first > end or end > u64(segment_at + 16) or end - first > np.uint64(MAX_BYTES_ROW):
            return DAMAGED
        length = np.int64(end - first)
        from_ats[k], lengths[k] = np.int64(u64(segment_at + 8)) + np.int64(first), length
        total += length
    return total
