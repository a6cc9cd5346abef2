"""The compiled parts of accepting a push: one pass over its positions, or its rows, for what else takes several arrays.

What is named `..._at` is an address, as of the kernels in `ringpull.ps.store.kernels`: callers keep its array alive.
The rest are arrays. Callers check all sizes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ringpull.ps.compiled import kernel
from ringpull.ps.hashing import SLOT_SHIFT
from ringpull.ps.store.intrinsics import copy_bytes, u8, u64

ALL_SERVED: Final = -1
_LARGEST: Final = np.finfo(np.float32).max
_LAST_CODE: Final = 255
"""Largest code of an int8 row."""
AT_ONCE: Final = 1 << 16
"""Positions, or numbers of rows, that a kernel is given at a time: some 0.1 ms. None of them releases the interpreter,
as what most pushes have takes a microsecond or two, and getting it back from another thread ten times as long."""


@kernel(nogil=False)
def first_foreign(positions_at, count, mask_at):  # type: ignore[no-untyped-def]
    """Return the number of the first position whose slot is 0 in a mask of uint8, or `ALL_SERVED`."""
    for k in range(count):
        if u8(mask_at + np.int64(u64(positions_at + 8 * k) >> np.uint64(SLOT_SHIFT))) == 0:
            return k
    return ALL_SERVED


@kernel(nogil=False)
def slots_at(positions_at, slots):  # type: ignore[no-untyped-def]
    """Write the slot of each uint64 position into `slots`, uint16."""
    for k in range(len(slots)):
        slots[k] = np.uint16(u64(positions_at + 8 * k) >> np.uint64(SLOT_SHIFT))


@kernel(nogil=False)
def put_number(numbers, slots, number):  # type: ignore[no-untyped-def]
    """Make `number` the number of each of these slots."""
    for k in range(len(slots)):
        numbers[slots[k]] = number


@kernel(nogil=False)
def last_numbers(numbers, slots, last):  # type: ignore[no-untyped-def]
    """Write the last number of each slot into `last`; return the largest."""
    largest = np.uint64(0)
    for k in range(len(slots)):
        found = numbers[slots[k]]
        last[k] = found
        largest = max(largest, found)
    return largest


@kernel(nogil=False)
def all_finite(words, exponent):  # type: ignore[no-untyped-def]
    """Return whether none of these words, uint16 or uint32, has all bits of the exponent, a mask of their type.

    NaN and infinities have them. All words are looked at, as processors do many at a time of a loop that has one end.
    """
    largest = np.uint32(0)
    for k in range(len(words)):
        largest = max(largest, np.uint32(words[k] & exponent))
    return largest != exponent


@kernel(nogil=False)
def take_plain(  # type: ignore[no-untyped-def]
    positions_at, numbers, number, rows, exponent, rows_at, to_at, stamps, first, stamp, words, word, step, slots, last
):
    """Take in a push whose slots have all had smaller numbers, and whose numbers are all finite; else change nothing.

    Rows are looked at once and copied once. Tried, and dropped: stores past the caches write 256 KiB in 25.7 us where
    the copy takes 37, but the first read after them takes 24.5 where it takes 7.

    Args:
        numbers: Last number of the writer at every slot; `number` is put at those of the push.
        rows: Of the push, as words of uint16 or uint32, with `exponent` as in `all_finite`; they are at `rows_at`.
        to_at: Where they go. Nobody sees it, nor `stamps` from `first` on.
        words: Overwritten, (n,), with `word` and those that follow it `step` apart; so are `slots`, and `last` with
            their numbers before.

    Returns:
        Whether it was taken in.
    """
    largest = np.uint64(0)
    for k in range(len(slots)):
        slot = np.uint16(u64(positions_at + 8 * k) >> np.uint64(SLOT_SHIFT))
        found = numbers[slot]
        slots[k], last[k] = slot, found
        largest = max(largest, found)
    if largest >= number or not all_finite(rows, exponent):
        return False
    copy_bytes(to_at, rows_at, len(rows) * rows.itemsize)
    for k in range(len(slots)):
        stamps[first + k] = stamp
        words[k] = word + np.uint64(k) * step
        numbers[slots[k]] = number
    return True


@kernel(nogil=False)
def all_affine_finite(numbers, step):  # type: ignore[no-untyped-def]
    """Return whether all int8 rows decode to finite numbers: scale and offset are the first of `step` float32 each."""
    finite = True
    for k in range(0, len(numbers), step):
        scale, offset = numbers[k], numbers[k + 1]
        # Rounded as decoding rounds. All other codes' numbers lie between those of the first and the last.
        last = np.float32(scale * np.float32(_LAST_CODE)) + offset
        finite &= abs(offset) <= _LARGEST and abs(last) <= _LARGEST
    return finite
