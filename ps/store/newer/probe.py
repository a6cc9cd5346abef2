"""Probe: finds the word of one position in a directory, from within kernels.

A directory has buckets of `PLACES` places, by the top bits of positions, in ring order. A bucket is 512 bytes: 32
positions, each with its word behind it. Beside the buckets lie the tags of all of them, 16 bits a place, one bucket to
a cache line: a position that is not there costs that line and no other, one that is there one more, and its row. A tag
has its top bit set, and 0 means that a place is free. A position takes the first free place from its `home_place` on,
so that those of a bucket lie nearly in order.
What finds its bucket full goes to the next one, up to `PROBE` from its own; so many spare ones follow the last bucket.
Places are never freed, so the first bucket that has a free one ends the search.

The one writer writes position and word first, then the tag; a row before the word that tells of it. Whoever sees a tag
sees the position and a word, whoever sees a word the row.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np

from ringpull.ps.store.intrinsics import acquire_u64, fence, lowest_bit, tag_matches, u64

PLACE_BITS: Final = 5
PLACES: Final = 1 << PLACE_BITS
PROBE: Final = 8
TAG_BYTES: Final = 2 * PLACES
PLACE_BYTES: Final = 16
BUCKET_BYTES: Final = PLACE_BYTES * PLACES
WORD_AT: Final = 8
"""Bytes from a position to its word."""

FREE: Final = np.uint16(0)
"""Tag of a place that is free."""

_TAKEN: Final = 0x8000


@numba.njit
def tag_of(position):  # type: ignore[no-untyped-def]
    """Return the tag of a position: its lowest bits, which have nothing to do with its bucket."""
    return np.uint16((position & np.uint64(_TAKEN - 1)) | np.uint64(_TAKEN))


@numba.njit
def home_place(shift, position):  # type: ignore[no-untyped-def]
    """Return which place of its bucket a position has by proportion: positions are uniform."""
    return np.int64((position << np.uint64(64 - shift)) >> np.uint64(64 - PLACE_BITS))


@numba.njit
def own_tags(tags_at, shift, position):  # type: ignore[no-untyped-def]
    """Return where the tags of the bucket of a position are."""
    return tags_at + TAG_BYTES * np.int64(position >> np.uint64(shift))


@numba.njit
def likely_place(tags_at, buckets_at, shift, position):  # type: ignore[no-untyped-def]
    """Return where the first place with the tag of a position is, 0 if there is none: few others have it."""
    bucket = np.int64(position >> np.uint64(shift))
    for number in range(bucket, bucket + PROBE):
        own = tag_matches(tags_at + TAG_BYTES * number, tag_of(position))
        if own != 0:
            return buckets_at + BUCKET_BYTES * number + PLACE_BYTES * lowest_bit(own)
        if tag_matches(tags_at + TAG_BYTES * number, FREE) != 0:
            break
    return np.int64(0)


@numba.njit
def place_of(tags_at, buckets_at, shift, position):  # type: ignore[no-untyped-def]
    """Return where a position is in a directory, 0 if it is not there; its word is `WORD_AT` further."""
    bucket = np.int64(position >> np.uint64(shift))
    for number in range(bucket, bucket + PROBE):
        own = tag_matches(tags_at + TAG_BYTES * number, tag_of(position))
        free = tag_matches(tags_at + TAG_BYTES * number, FREE)
        fence()
        while own != 0:
            at = buckets_at + BUCKET_BYTES * number + PLACE_BYTES * lowest_bit(own)
            if u64(at) == position:
                return at
            own &= own - 1
        if free != 0:
            break
    return np.int64(0)


@numba.njit
def word_of(tags_at, buckets_at, shift, position):  # type: ignore[no-untyped-def]
    """Return the word of a position, 0 if the directory has none."""
    at = place_of(tags_at, buckets_at, shift, position)
    return acquire_u64(at + WORD_AT) if at != 0 else np.uint64(0)
