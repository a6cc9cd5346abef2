"""The first steps of a look-up, for blocks of keys: start, aim, locate. Compiled into the kernels that make them.

Each step starts the loads of the next. Where a table has newer rows, their directory is aimed at first, and only a key
that it does not have goes on to the base, at the cost of one more cache miss.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numba
import numpy as np

from ringpull.ps.hashing import SLOT_SHIFT
from ringpull.ps.store.descriptor import (
    ANSWERED_AT,
    BUCKETS_AT,
    DEFAULT_AT,
    DONE,
    ENTRY_BYTES,
    INDEX_AT,
    NEWER_SHIFT,
    NOT_ANSWERED,
    NOT_OWNED,
    OP,
    OP_ROWS,
    OWNED_AT,
    POSITIONS_AT,
    ROW_BYTES,
    ROWS,
    ROWS_AT,
    SEGMENT_BYTES,
    SEGMENTS_AT,
    SHIFT,
    TAGS_AT,
)
from ringpull.ps.store.intrinsics import (
    LINE_BYTES,
    acquire_u64,
    fence,
    lowest_bit,
    matches,
    prefetch_far,
    prefetch_near,
    tag_matches,
    u8,
    u64,
    u64_unaligned,
)
from ringpull.ps.store.newer.probe import FREE, WORD_AT, likely_place, own_tags, tag_of, word_of
from ringpull.ps.store.newer.words import OFFSET_MASK, SEGMENT_SHIFT

BLOCK: Final = 64
"""Keys per step; see ps/README.md, "Decisions"."""
RING: Final = 4 * BLOCK
"""Keys for which the results of one step are kept for the next: a power of two."""
_PREFETCHED_LINES: Final = 8
"""Lines of a row that are prefetched; the processor follows a longer row by itself."""
_BUCKET_SCAN: Final = 64
"""Rows of the largest bucket that is not halved first. Only keys chosen to lie together make larger ones."""

# What a loop over keys calls and LLVM would not inline by itself is inlined by force, and takes numbers, no arrays: a
# call may raise, and where one can, numba counts references to all arrays of the loop's function, with atomic
# instructions, in every block, and to arrays that are passed on, for every key.


@numba.njit
def bucket(index_at, entry_bytes, shift, position):  # type: ignore[no-untyped-def]
    """Return the rows [first, last) of the bucket of a position."""
    at = index_at + entry_bytes * np.int64(position >> np.uint64(shift))
    if entry_bytes == 4:
        both = u64_unaligned(at)
        return np.int64(both & np.uint64(0xFFFFFFFF)), np.int64(both >> np.uint64(32))
    return np.int64(u64(at)), np.int64(u64(at + 8))


@numba.njit
def guess(first, last, shift, position):  # type: ignore[no-untyped-def]
    """Return about which row of its bucket a position is: positions are uniform, so by proportion."""
    share = (position << np.uint64(64 - shift)) >> np.uint64(32)
    return first + np.int64((np.uint64(last - first) * share) >> np.uint64(32))


@numba.njit
def search(positions_at, first, last, row, position):  # type: ignore[no-untyped-def]
    """Return the row of `position` among the ascending rows [first, last), or -1; `row` is a guess."""
    while last - first > _BUCKET_SCAN:
        middle = (first + last) >> 1
        if u64(positions_at + 8 * middle) <= position:
            first = middle
        else:
            last = middle
    if first == last:
        return -1
    row = min(max(row, first), last - 1)
    while row < last and u64(positions_at + 8 * row) < position:
        row += 1
    while row > first and u64(positions_at + 8 * (row - 1)) >= position:
        row -= 1
    return row if row < last and u64(positions_at + 8 * row) == position else -1


@numba.njit
def _window(positions_at, last_at, at):  # type: ignore[no-untyped-def]
    """Return where the window of a guess begins: the 8 positions to compare, at least two of them on either side of it.

    All are in the lines around the guess that are loaded. Windows begin at half lines, none after `last_at`, the line
    of the last position: the map may end there.
    """
    return max(positions_at, min((at - 16) & -(LINE_BYTES // 2), last_at))


@numba.njit
def _last_line(d):  # type: ignore[no-untyped-def]
    """Return where the line of the last position is."""
    return (d[POSITIONS_AT] + 8 * d[ROWS] - 1) & -LINE_BYTES


@numba.njit(forceinline=True)
def row_of(index_at, entry_bytes, shift, positions_at, position):  # type: ignore[no-untyped-def]
    """Return the row of a position in the base, or -1: the whole search."""
    first, last = bucket(index_at, entry_bytes, shift, position)
    return search(positions_at, first, last, guess(first, last, shift, position), position)


@numba.njit(forceinline=True)
def _start(d, wanted_at, begin, end):  # type: ignore[no-untyped-def]
    """Check the slots of keys [begin, end) and start loading their index entries."""
    index_at, entry_bytes, shift = d[INDEX_AT], d[ENTRY_BYTES], d[SHIFT]
    owned_at, answered_at = d[OWNED_AT], d[ANSWERED_AT]
    for k in range(begin, end):
        position = u64(wanted_at + 8 * k)
        slot = np.int64(position >> np.uint64(SLOT_SHIFT))
        if owned_at != 0 and u8(owned_at + slot) == 0:
            return NOT_OWNED, slot
        if answered_at != 0 and u8(answered_at + slot) == 0:
            return NOT_ANSWERED, slot
        prefetch_far(index_at + entry_bytes * np.int64(position >> np.uint64(shift)))
    return DONE, 0


@numba.njit
def _start_newer(d, wanted_at, begin, end):  # type: ignore[no-untyped-def]
    """Do what `_start` does, and start loading the tags of the directory."""
    tags_at, newer_shift = d[TAGS_AT], d[NEWER_SHIFT]
    for k in range(begin, end):
        prefetch_far(own_tags(tags_at, newer_shift, u64(wanted_at + 8 * k)))
    return _start(d, wanted_at, begin, end)


@numba.njit
def _aim_base(d, wanted_at, begin, end, aim_at):  # type: ignore[no-untyped-def]
    """Guess in which window of positions each key is, keep that in `aim_at`, and start loading its lines."""
    index_at, entry_bytes, shift, positions_at = d[INDEX_AT], d[ENTRY_BYTES], d[SHIFT], d[POSITIONS_AT]
    last_at = _last_line(d)
    for k in range(begin, end):
        position = u64(wanted_at + 8 * k)
        first, last = bucket(index_at, entry_bytes, shift, position)
        at = positions_at + 8 * guess(first, last, shift, position)
        prefetch_far(at - 16)
        prefetch_far(at + 16)
        # Nothing is read for an empty bucket: its guess may lie beyond the last position, even beyond the map.
        aim_at[k & (RING - 1)] = _window(positions_at, last_at, at) if first < last else 0


@numba.njit
def _aim_newer(d, wanted_at, begin, end, aim_at):  # type: ignore[no-untyped-def]
    """Do what `_aim_base` does, but of keys that the directory may have keep less than 0: where it has them."""
    index_at, entry_bytes, shift, positions_at = d[INDEX_AT], d[ENTRY_BYTES], d[SHIFT], d[POSITIONS_AT]
    last_at = _last_line(d)
    tags_at, buckets_at, newer_shift = d[TAGS_AT], d[BUCKETS_AT], d[NEWER_SHIFT]
    for k in range(begin, end):
        position = u64(wanted_at + 8 * k)
        own_at = own_tags(tags_at, newer_shift, position)
        if tag_matches(own_at, tag_of(position)) != 0 or tag_matches(own_at, FREE) == 0:
            place = likely_place(tags_at, buckets_at, newer_shift, position)
            if place != 0:
                prefetch_near(place)
                aim_at[k & (RING - 1)] = -place
                continue
        first, last = bucket(index_at, entry_bytes, shift, position)
        at = positions_at + 8 * guess(first, last, shift, position)
        prefetch_far(at - 16)
        prefetch_far(at + 16)
        aim_at[k & (RING - 1)] = _window(positions_at, last_at, at) if first < last else 0


@numba.njit(forceinline=True)
def _newest(tags_at, buckets_at, newer_shift, place, position):  # type: ignore[no-untyped-def]
    """Return the word of a key's newer row, 0 if it has none, given where its tag was found."""
    fence()
    if u64(place) == position:
        return acquire_u64(place + WORD_AT)
    return word_of(tags_at, buckets_at, newer_shift, position)


def _locator(newer: bool) -> Any:
    """Return what finds keys [begin, end), keeps in `row_at` where their rows are, starts loading those, and counts the
    absent.

    Those that are pooled are noted in `absents` from `absents_pos` on, unless it is empty. Of newer rows less than 0 is
    kept in `aim_at`: their segment. Tables that have none have a loop without them, at no cost.
    """

    @numba.njit
    def locate_any(  # type: ignore[no-untyped-def]
        d, wanted_at, begin, end, aim_at, row_at, found, found_pos, absents, absents_pos, first_key
    ):
        positions_at, rows_at, rows, row_bytes = d[POSITIONS_AT], d[ROWS_AT], d[ROWS], d[ROW_BYTES]
        default_at = d[DEFAULT_AT]
        unpooled = d[OP] == OP_ROWS
        noted = not unpooled and absents.size > 0
        lines = min(_PREFETCHED_LINES, (row_bytes + LINE_BYTES - 1) // LINE_BYTES)
        absent = 0
        for k in range(begin, end):
            position = u64(wanted_at + 8 * k)
            aimed = aim_at[k & (RING - 1)]
            row, at = np.int64(-1), default_at
            if aimed > 0:
                bits = matches(aimed, position)
                row = ((aimed - positions_at) >> 3) + lowest_bit(bits)
                if bits == 0 or row >= rows:  # what follows the last position in its line is the map's padding
                    row = row_of(d[INDEX_AT], d[ENTRY_BYTES], d[SHIFT], positions_at, position)
            segment = np.int64(0)
            if newer and aimed < 0:
                word = _newest(d[TAGS_AT], d[BUCKETS_AT], d[NEWER_SHIFT], -aimed, position)
                if word == 0:
                    row = row_of(d[INDEX_AT], d[ENTRY_BYTES], d[SHIFT], positions_at, position)
                else:
                    number = np.int64(word >> np.uint64(SEGMENT_SHIFT))
                    segment_at = np.int64(u64(d[SEGMENTS_AT] + SEGMENT_BYTES * number))
                    if segment_at != 0:  # else the row is gone
                        segment, row = number, np.int64(0)
                        at = segment_at + np.int64(word & np.uint64(OFFSET_MASK))
                aim_at[k & (RING - 1)] = -segment
            if row >= 0:
                if segment == 0:
                    at = rows_at + row * row_bytes
                for i in range(lines):
                    prefetch_far(at + i * LINE_BYTES)
            else:
                if noted:
                    absents[absents_pos + absent] = np.uint32(first_key + k)
                absent += 1
            row_at[k & (RING - 1)] = at
            if unpooled:
                found[found_pos + k] = row >= 0
        return absent

    return locate_any


_locate_base, _locate_newer = _locator(False), _locator(True)


class Steps(NamedTuple):
    """The steps of a look-up, for tables of one kind."""

    start: Any
    aim: Any
    locate: Any


BASE: Final = Steps(_start, _aim_base, _locate_base)
NEWER: Final = Steps(_start_newer, _aim_newer, _locate_newer)
"""Steps of tables without newer rows, at no cost, and with them."""
