"""The compiled heart of a shard: from positions to rows and pooled bags, for all look-ups of a frame in one call.

Bound by memory, not by arithmetic: a key costs one cache miss in the index, one in the positions and one per line of
its row. So keys go through four steps in blocks of BLOCK, each step starting the loads (prefetches) of the next:
start -> aim -> locate -> pool.

Kernels take addresses, so that one compiled version serves every array, read-only or not. Callers
(`ringpull.ps.store.pull`, `Base`) check all counts, types and lengths before, and keep the arrays alive. Nothing grows
with a request here, and the GIL is released.

numba's cache on disk only notices changes of this file: after one in `reducers` or `intrinsics`, touch it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from ringpull.ps.compiled import kernel
from ringpull.ps.hashing import SLOT_SHIFT
from ringpull.ps.spec import MAX_BYTES_ROW, VECTOR_TYPES, RowType, UInt64Array
from ringpull.ps.store import reducers
from ringpull.ps.store.intrinsics import (
    LINE_BYTES,
    lowest_bit,
    matches,
    prefetch_far,
    prefetch_near,
    u8,
    u32,
    u64,
    u64_unaligned,
)

BLOCK: Final = 32
"""Keys per step; see ps/README.md, "Decisions"."""
_RING: Final = 4 * BLOCK
"""Keys for which the results of one step are kept for the next: a power of two."""
_PREFETCHED_LINES: Final = 8
"""Lines of a row that are prefetched; the processor follows a longer row by itself."""
_BUCKET_SCAN: Final = 64
"""Rows of the largest bucket that is not halved first. Only keys chosen to lie together make larger ones."""


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


# The columns of a frame's descriptors, int64: the table's fields, then the look-up's own.
_INDEX_AT, _ENTRY_BYTES, _SHIFT, _POSITIONS_AT, _ROWS_AT, _ROWS, _ROW_BYTES, _DIM = range(8)
_ROW_TYPE, _DEFAULT_AT, _ANSWERED_AT, _DATA_AT, _DATA_BYTES = range(8, 13)
_OWNED_AT, _OP, _KEYS, _BAGS, _WEIGHTED = range(13, 18)
DESCRIPTOR_FIELDS: Final = 18
TABLE: Final = struct.Struct("=13q")
LOOKUP: Final = struct.Struct("=5q")
"""The two parts of a descriptor: the table's, packed once, and the look-up's."""

_OP_ROWS, _OP_MAX = 0, 2
"""Values of `ringpull.ps.wire.messages.Op`; the third is SUM."""

_FLOAT32 = reducers.ROW_TYPES[RowType.FLOAT32]

BYTES: Final = -1
"""Row type of rows of bytes, which `locate_bytes` looks up and `pull_frame` leaves out."""

DONE, BAD_LENGTHS, NOT_OWNED, NOT_ANSWERED, DAMAGED = range(5)
"""Outcomes of `pull_frame` and `locate_bytes`."""


# -- finding -----------------------------------------------------------------------------------------------------------


@numba.njit
def _bucket(index_at, entry_bytes, shift, position):  # type: ignore[no-untyped-def]
    """Return the rows [first, last) of the bucket of a position."""
    at = index_at + entry_bytes * np.int64(position >> np.uint64(shift))
    if entry_bytes == 4:
        both = u64_unaligned(at)
        return np.int64(both & np.uint64(0xFFFFFFFF)), np.int64(both >> np.uint64(32))
    return np.int64(u64(at)), np.int64(u64(at + 8))


@numba.njit
def _guess(first, last, shift, position):  # type: ignore[no-untyped-def]
    """Return about which row of its bucket a position is: positions are uniform, so by proportion."""
    share = (position << np.uint64(64 - shift)) >> np.uint64(32)
    return first + np.int64((np.uint64(last - first) * share) >> np.uint64(32))


@numba.njit
def _search(positions_at, first, last, row, position):  # type: ignore[no-untyped-def]
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


@kernel()
def _find(index_at, entry_bytes, shift, positions_at, wanted_at, count, out):  # type: ignore[no-untyped-def]
    for k in range(count):
        position = u64(wanted_at + 8 * k)
        first, last = _bucket(index_at, entry_bytes, shift, position)
        out[k] = _search(positions_at, first, last, _guess(first, last, shift, position), position)


def find(
    index: NDArray[Any], index_bits: int, positions: UInt64Array, wanted: UInt64Array, out: NDArray[np.int64]
) -> None:
    """Write the row number of each wanted position into `out`, -1 where `positions` has none.

    Args:
        index: uint32 or uint64 ((1 << index_bits) + 1,).
        index_bits: How many top bits of a position number its bucket.
        positions: (rows,), ascending.
        wanted: (N,), contiguous.
        out: (N,), overwritten.
    """
    _find(address(index), index.itemsize, 64 - index_bits, address(positions), address(wanted), len(wanted), out)


def address(array: NDArray[Any]) -> int:
    """Return where an array's numbers begin; the caller keeps the array alive."""
    at: int = array.__array_interface__["data"][0]
    return at


# -- pulling -----------------------------------------------------------------------------------------------------------


@numba.njit
def _lengths_fit(lengths_at, bags, keys):  # type: ignore[no-untyped-def]
    """Return whether all lengths are at least 1 and add up to `keys`."""
    total = np.int64(0)
    for bag in range(bags):
        length = np.int64(u32(lengths_at + 4 * bag))
        if length == 0:
            return False
        total += length
    return total == keys


@numba.njit
def _start(d, wanted_at, begin, end):  # type: ignore[no-untyped-def]
    """Check the slots of keys [begin, end) and start loading their index entries."""
    index_at, entry_bytes, shift = d[_INDEX_AT], d[_ENTRY_BYTES], d[_SHIFT]
    owned_at, answered_at = d[_OWNED_AT], d[_ANSWERED_AT]
    for k in range(begin, end):
        position = u64(wanted_at + 8 * k)
        slot = np.int64(position >> np.uint64(SLOT_SHIFT))
        if owned_at != 0 and u8(owned_at + slot) == 0:
            return NOT_OWNED, slot
        if answered_at != 0 and u8(answered_at + slot) == 0:
            return NOT_ANSWERED, slot
        prefetch_near(index_at + entry_bytes * np.int64(position >> np.uint64(shift)))
    return DONE, 0


@numba.njit
def _aim(d, wanted_at, begin, end, line_at):  # type: ignore[no-untyped-def]
    """Guess in which line of positions each key is, keep that in `line_at`, and start loading it.

    A guess is off by about 1.5 rows, so every eighth key is in the line before or after: load both if one is near.
    """
    index_at, entry_bytes, shift, positions_at = d[_INDEX_AT], d[_ENTRY_BYTES], d[_SHIFT], d[_POSITIONS_AT]
    for k in range(begin, end):
        position = u64(wanted_at + 8 * k)
        first, last = _bucket(index_at, entry_bytes, shift, position)
        at = positions_at + 8 * _guess(first, last, shift, position)
        prefetch_near(at - 16)
        prefetch_near(at + 16)
        # No line is read for an empty bucket: its guess may lie beyond the last position, even beyond the map.
        line_at[k & (_RING - 1)] = at & -LINE_BYTES if first < last else 0


@numba.njit
def _beside(d, line, position):  # type: ignore[no-untyped-def]
    """Return the row of a key that is not in the line of positions aimed at, or -1: look next door, then search."""
    positions_at, rows = d[_POSITIONS_AT], d[_ROWS]
    other = line - LINE_BYTES if position < u64(line) else line + LINE_BYTES
    if positions_at <= other < positions_at + 8 * rows:
        bits = matches(other, position)
        row = ((other - positions_at) >> 3) + lowest_bit(bits)
        if bits != 0 and row < rows:
            return row
    first, last = _bucket(d[_INDEX_AT], d[_ENTRY_BYTES], d[_SHIFT], position)
    return _search(positions_at, first, last, _guess(first, last, d[_SHIFT], position), position)


@numba.njit
def _locate(  # type: ignore[no-untyped-def]
    d, wanted_at, begin, end, line_at, row_at, found, found_pos, absents, absents_pos, first_key
):
    """Find keys [begin, end), keep in `row_at` where their rows are, start loading those; count the absent.

    Those that are pooled are noted in `absents` from `absents_pos` on, unless it is empty.
    """
    positions_at, rows_at, rows, row_bytes, default_at = (
        d[_POSITIONS_AT],
        d[_ROWS_AT],
        d[_ROWS],
        d[_ROW_BYTES],
        d[_DEFAULT_AT],
    )
    unpooled = d[_OP] == _OP_ROWS
    noted = not unpooled and absents.size > 0
    lines = min(_PREFETCHED_LINES, (row_bytes + LINE_BYTES - 1) // LINE_BYTES)
    absent = 0
    for k in range(begin, end):
        position = u64(wanted_at + 8 * k)
        line = line_at[k & (_RING - 1)]
        row = np.int64(-1)
        if line != 0:
            bits = matches(line, position)
            row = ((line - positions_at) >> 3) + lowest_bit(bits)
            if bits == 0 or row >= rows:  # what follows the last position in its line is the map's padding
                row = _beside(d, line, position)
        at = default_at
        if row >= 0:
            at = rows_at + row * row_bytes
            for i in range(lines):
                prefetch_far(at + i * LINE_BYTES)
        else:
            if noted:
                absents[absents_pos + absent] = np.uint32(first_key + k)
            absent += 1
        row_at[k & (_RING - 1)] = at
        if unpooled:
            found[found_pos + k] = row >= 0
    return absent


@numba.njit
def _alike(row_at, k, count, default_at, row_type):  # type: ignore[no-untyped-def]
    """Return how many of keys [k, k + count) are absent like the first, or found like it, and the type of their rows.

    The default vector is float32 in tables of every row type, so that shards and routers add the same one.
    """
    absent = row_at[k & (_RING - 1)] == default_at
    alike = 1
    while alike < count and (row_at[(k + alike) & (_RING - 1)] == default_at) == absent:
        alike += 1
    return alike, _FLOAT32 if absent else row_type


def _reduce_any(row_types: Iterable[RowType]) -> Any:
    """Return a compiled `reduce` for rows of any of these types: a ladder of comparisons, one step for each of them.

    `reduce(row_type, op, out_at, row_ats_at, count, weights_at, dim, fresh)` brings rows into one output; `row_type` is
    a number of `reducers.ROW_TYPES`, and `weights_at` is 0 where there are no weights.
    """
    # Inlined by numba: left as calls, the steps cost up to 4% of a pull of short rows (dim 16, bags of 10, in cache).
    own, *others = row_types
    own_number = reducers.ROW_TYPES[own]
    sum_rows, sum_weighted_rows, max_rows = reducers.REDUCERS[own]

    @numba.njit(inline="always")
    def reduce_own(_row_type, op, out_at, row_ats_at, count, weights_at, dim, fresh):  # type: ignore[no-untyped-def]
        if weights_at != 0:
            sum_weighted_rows(out_at, row_ats_at, count, weights_at, dim, fresh)
        elif op == _OP_MAX:
            max_rows(out_at, row_ats_at, count, weights_at, dim, fresh)
        else:
            sum_rows(out_at, row_ats_at, count, weights_at, dim, fresh)

    if not others:
        return reduce_own
    reduce_others = _reduce_any(others)

    @numba.njit(inline="always")
    def reduce(row_type, op, out_at, row_ats_at, count, weights_at, dim, fresh):  # type: ignore[no-untyped-def]
        if row_type == own_number:
            reduce_own(row_type, op, out_at, row_ats_at, count, weights_at, dim, fresh)
        else:
            reduce_others(row_type, op, out_at, row_ats_at, count, weights_at, dim, fresh)

    return reduce


_reduce = _reduce_any(VECTOR_TYPES)


@numba.njit
def _pull_lookup(  # type: ignore[no-untyped-def]
    d, wanted_at, lengths_at, weights_at, out_at, found, found_pos, absents, absents_pos, first_key, line_at, row_at
):
    """Do one look-up; return how it ended, the slot concerned, and how many keys are absent."""
    op, keys, dim = d[_OP], d[_KEYS], d[_DIM]
    absent = 0
    bag = 0
    left, fresh = np.int64(0), True
    row_at_at = np.int64(row_at.ctypes.data)
    for begin in range(0, keys + 3 * BLOCK, BLOCK):
        outcome, slot = _start(d, wanted_at, begin, min(begin + BLOCK, keys))
        if outcome != DONE:
            return outcome, slot, absent
        _aim(d, wanted_at, max(0, begin - BLOCK), min(begin, keys), line_at)
        first, last = max(0, begin - 2 * BLOCK), min(begin - BLOCK, keys)
        absent += _locate(
            d, wanted_at, first, last, line_at, row_at, found, found_pos, absents, absents_pos + absent, first_key
        )
        k, end = max(0, begin - 3 * BLOCK), min(begin - 2 * BLOCK, keys)
        while k < end:
            if left == 0:
                fresh = True
                left = np.int64(1) if op == _OP_ROWS else np.int64(u32(lengths_at + 4 * bag))
            count = min(left, end - k)
            row_type = d[_ROW_TYPE]
            if row_type != _FLOAT32:
                count, row_type = _alike(row_at, k, count, d[_DEFAULT_AT], row_type)
            weights = weights_at + 4 * k if weights_at != 0 else np.int64(0)
            _reduce(row_type, op, out_at, row_at_at + 8 * (k & (_RING - 1)), count, weights, dim, np.int64(fresh))
            fresh = False
            k += count
            left -= count
            if left == 0:
                bag += 1
                out_at += 4 * dim
    return DONE, 0, absent


@kernel()
def pull_frame(  # type: ignore[no-untyped-def]
    descriptors, wanted_at, lengths_at, weights_at, values_at, missing, found, absents
):
    """Do all look-ups of a frame but those of rows of bytes.

    Args:
        descriptors: int64 (L, DESCRIPTOR_FIELDS), one row per look-up.
        wanted_at: Address of the uint64 positions, all look-ups end to end.
        lengths_at: Address of the uint32 bag lengths, all pooled look-ups end to end.
        weights_at: Address of the float32 weights, all weighted look-ups end to end.
        values_at: Address of float32 numbers, room for all outputs; overwritten.
        missing: uint32 (L,); overwritten.
        found: uint8, one per key of the unpooled look-ups; overwritten.
        absents: uint32, one per key of the frame, or empty; the first are overwritten with the numbers, ascending, of
            the keys of pooled look-ups that are absent: as many as `missing` has of these look-ups.

    Returns:
        DONE, 0, 0; or why not, which look-up, and the slot concerned. Outputs are then unusable.
    """
    line_at = np.empty(_RING, np.int64)
    row_at = np.empty(_RING, np.int64)
    found_pos = absents_pos = first_key = np.int64(0)
    for lookup in range(len(descriptors)):
        d = descriptors[lookup]
        op, keys, bags, weighted = d[_OP], d[_KEYS], d[_BAGS], d[_WEIGHTED]
        if d[_ROW_TYPE] == BYTES:
            wanted_at += 8 * keys
            first_key += keys
            found_pos += keys
            continue
        if op != _OP_ROWS and not _lengths_fit(lengths_at, bags, keys):
            return BAD_LENGTHS, lookup, 0
        outcome, slot, missing[lookup] = _pull_lookup(
            d,
            wanted_at,
            lengths_at,
            weights_at if weighted else 0,
            values_at,
            found,
            found_pos,
            absents,
            absents_pos,
            first_key,
            line_at,
            row_at,
        )
        if outcome != DONE:
            return outcome, lookup, slot
        wanted_at += 8 * keys
        first_key += keys
        lengths_at += 4 * bags
        if weighted:
            weights_at += 4 * keys
        if op == _OP_ROWS:
            found_pos += keys
            values_at += 4 * d[_DIM] * keys
        else:
            absents_pos += np.int64(missing[lookup])
            values_at += 4 * d[_DIM] * bags
    return DONE, 0, 0


@numba.njit
def _read_spans(d, wanted_at, begin, end, row_at, from_ats, lengths, pos):  # type: ignore[no-untyped-def]
    """Write where the rows of keys [begin, end) are and how long; return how it ended, and the slot or their bytes."""
    data_at, data_bytes = d[_DATA_AT], np.uint64(d[_DATA_BYTES])
    total = np.int64(0)
    for k in range(begin, end):
        at = row_at[k & (_RING - 1)]
        first = last = np.uint64(0)
        if at != 0:
            first, last = u64(at), u64(at + 8)
            # The map may have other numbers by now than those that were checked when it was opened.
            if first > last or last > data_bytes or last - first > np.uint64(MAX_BYTES_ROW):
                return DAMAGED, np.int64(u64(wanted_at + 8 * k) >> np.uint64(SLOT_SHIFT))
        from_ats[pos + k] = data_at + np.int64(first)
        lengths[pos + k] = np.uint32(last - first)
        total += np.int64(last - first)
    return DONE, total


@kernel()
def locate_bytes(descriptors, wanted_at, missing, found, from_ats, lengths):  # type: ignore[no-untyped-def]
    """Find the rows of all look-ups of a frame that are bytes; the others are left out.

    Args:
        descriptors: int64 (L, DESCRIPTOR_FIELDS), one row per look-up.
        wanted_at: Address of the uint64 positions, all look-ups end to end.
        missing: uint32 (L,); overwritten for the look-ups of bytes.
        found: uint8, one per key of the unpooled look-ups; overwritten for the look-ups of bytes.
        from_ats: int64, one per key of the look-ups of bytes: address of its row; overwritten.
        lengths: uint32, as many: bytes of each row, 0 where there is none; overwritten.

    Returns:
        DONE, 0, and the bytes of all rows; or why not, which look-up, and the slot concerned.
    """
    line_at = np.empty(_RING, np.int64)
    row_at = np.empty(_RING, np.int64)
    found_pos = pos = total = np.int64(0)
    absents = np.empty(0, np.uint32)
    for lookup in range(len(descriptors)):
        d = descriptors[lookup]
        keys = d[_KEYS]
        if d[_ROW_TYPE] == BYTES:
            absent = 0
            for begin in range(0, keys + 3 * BLOCK, BLOCK):
                outcome, slot = _start(d, wanted_at, begin, min(begin + BLOCK, keys))
                if outcome != DONE:
                    return outcome, lookup, np.int64(slot)
                _aim(d, wanted_at, max(0, begin - BLOCK), min(begin, keys), line_at)
                first, last = max(0, begin - 2 * BLOCK), min(begin - BLOCK, keys)
                absent += _locate(d, wanted_at, first, last, line_at, row_at, found, found_pos, absents, 0, 0)
                first, last = max(0, begin - 3 * BLOCK), min(begin - 2 * BLOCK, keys)
                outcome, size = _read_spans(d, wanted_at, first, last, row_at, from_ats, lengths, pos)
                if outcome != DONE:
                    return outcome, lookup, size
                total += size
            missing[lookup] = absent
            pos += keys
        wanted_at += 8 * keys
        if d[_OP] == _OP_ROWS:
            found_pos += keys
    return DONE, 0, total
