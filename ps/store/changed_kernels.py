"""The compiled comparisons of two tables' rows: both in ring order, or one of them lying anywhere."""

from __future__ import annotations

from typing import Final

import numba
import numpy as np

from ringpull.ps.compiled import kernel
from ringpull.ps.store.intrinsics import LINE_BYTES, lines_differ, prefetch_far, u8, u64, u64_unaligned

_AHEAD: Final = 16
"""Rows that lie anywhere are loaded so many before they are compared."""
_PREFETCHED_BYTES: Final = 8 * LINE_BYTES
"""Bytes of a row that are loaded before; the processor follows a longer row by itself."""
_LAST: Final = np.uint64(2**64 - 1)


@numba.njit(inline="always")
def _differ(one, other, size):  # type: ignore[no-untyped-def]
    """Return whether as many bytes at two addresses differ: a line at a time, then a word, then a byte."""
    bits, lines, words = np.uint64(0), size & -LINE_BYTES, size & -8
    for k in range(0, lines, LINE_BYTES):
        bits |= np.uint64(lines_differ(one + k, other + k))
    for k in range(lines, words, 8):
        bits |= u64_unaligned(one + k) ^ u64_unaligned(other + k)
    for k in range(words, size):
        bits |= np.uint64(u8(one + k) ^ u8(other + k))
    return bits != 0


@kernel()
def compare(old_positions_at, new_positions_at, old_rows, new_rows, offsets, changed, gone):  # type: ignore[no-untyped-def]
    """Mark the rows that a table has anew or otherwise than an older one, and those that it has no more.

    Args:
        old_positions_at: Address of uint64 (n,), ascending: positions of the older table.
        new_positions_at: Address of uint64 (m,), ascending.
        old_rows: Address of the older rows, and their bytes; of rows of bytes 0, and they begin where `offsets` says.
        new_rows: As many for the newer ones.
        offsets: int64 (n+1,) and (m+1,): where rows of bytes begin and end; else empty.
        changed: bool (m,), overwritten.
        gone: bool (n,), overwritten.
    """
    (old_at, old_bytes), (new_at, new_bytes) = old_rows, new_rows
    old_offsets, new_offsets = offsets
    i = j = 0
    while i < len(gone) or j < len(changed):
        old = u64(old_positions_at + 8 * i) if i < len(gone) else _LAST
        new = u64(new_positions_at + 8 * j) if j < len(changed) else _LAST
        if j == len(changed) or (i < len(gone) and old < new):
            gone[i] = True
            i += 1
            continue
        if i == len(gone) or new < old:
            changed[j] = True
            j += 1
            continue
        one, one_size, other, other_size = old_at + i * old_bytes, old_bytes, new_at + j * new_bytes, new_bytes
        if old_bytes == 0:
            one, one_size = old_at + old_offsets[i], old_offsets[i + 1] - old_offsets[i]
            other, other_size = new_at + new_offsets[j], new_offsets[j + 1] - new_offsets[j]
        changed[j], gone[i] = one_size != other_size or _differ(one, other, one_size), False
        i += 1
        j += 1


@kernel()
def compare_numbered(old_at, new_at, row_bytes, step, numbers, changed):  # type: ignore[no-untyped-def]
    """Mark the rows of a table that are others among rows that lie anywhere.

    Args:
        old_at: Address of the table's rows, one after the other.
        new_at: Address of the other rows.
        row_bytes: Bytes of each row, not 0.
        step: Bytes from one of the other rows to the next.
        numbers: int64 (n,): which of the others each row is compared with; below 0: none.
        changed: bool (n,), overwritten: none is not marked.
    """
    for i in range(len(numbers)):
        ahead = numbers[min(i + _AHEAD, len(numbers) - 1)]
        if ahead >= 0:
            for k in range(0, min(row_bytes, _PREFETCHED_BYTES), LINE_BYTES):
                prefetch_far(new_at + ahead * step + k)
        number = numbers[i]
        changed[i] = number >= 0 and _differ(old_at + i * row_bytes, new_at + number * step, row_bytes)
