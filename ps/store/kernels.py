"""The compiled heart of a shard: from positions to rows and pooled bags, for all look-ups of a frame in one call.

Bound by memory, not by arithmetic: a key costs one cache miss in the index, one in the positions and one per line of
its row. So keys go through four steps in blocks of BLOCK, each step starting the loads (prefetches) of the next:
start -> aim -> locate (`ringpull.ps.store.steps`) -> pool.

Kernels take addresses, so that one compiled version serves every array, read-only or not. Callers
(`ringpull.ps.store.pull`, `Base`) check all counts, types and lengths before, and keep the arrays alive. Nothing grows
with a request here, and the GIL is released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ctypes import addressof, c_char
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from ringpull.ps.compiled import kernel
from ringpull.ps.hashing import SLOT_SHIFT
from ringpull.ps.spec import MAX_BYTES_ROW, VECTOR_TYPES, RowType, UInt64Array
from ringpull.ps.store import reducers
from ringpull.ps.store.descriptor import (
    BAD_LENGTHS,
    BAGS,
    BYTES,
    DAMAGED,
    DATA_AT,
    DATA_BYTES,
    DEFAULT_AT,
    DIM,
    DONE,
    KEYS,
    OP,
    OP_MAX,
    OP_ROWS,
    ROW_TYPE,
    SEGMENT_BYTES,
    SEGMENTS_AT,
    TAGS_AT,
    WEIGHTED,
)
from ringpull.ps.store.intrinsics import u32, u64
from ringpull.ps.store.steps import BASE, BLOCK, NEWER, RING, Steps, row_of

_FLOAT32: Final = reducers.ROW_TYPES[RowType.FLOAT32]
_first_byte_of: Final[Callable[[Any], c_char]] = c_char.from_buffer


@kernel()
def _find(index_at, entry_bytes, shift, positions_at, wanted_at, count, out):  # type: ignore[no-untyped-def]
    for k in range(count):
        out[k] = row_of(index_at, entry_bytes, shift, positions_at, u64(wanted_at + 8 * k))


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
    try:
        return addressof(_first_byte_of(array))
    except (TypeError, ValueError, BufferError):  # read-only, empty, or of a type that buffers do not have
        at: int = array.__array_interface__["data"][0]  # which costs six times as much: it describes the array
        return at


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
def _alike(row_at, k, count, default_at, row_type):  # type: ignore[no-untyped-def]
    """Return how many of keys [k, k + count) are absent like the first, or found like it, and the type of their rows.

    The default vector is float32 in tables of every row type, so that shards and routers add the same one.
    """
    absent = row_at[k & (RING - 1)] == default_at
    alike = 1
    while alike < count and (row_at[(k + alike) & (RING - 1)] == default_at) == absent:
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
        elif op == OP_MAX:
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


def _puller(steps: Steps) -> Any:
    """Return what does one look-up; it returns how that ended, the slot concerned, and how many keys are absent."""
    start, aim, locate = steps

    @numba.njit
    def pull_lookup(  # type: ignore[no-untyped-def]
        d, wanted_at, lengths_at, weights_at, out_at, found, found_pos, absents, absents_pos, first_key, aim_at, row_at
    ):
        op, keys, dim = d[OP], d[KEYS], d[DIM]
        absent = 0
        bag = 0
        left, fresh = np.int64(0), True
        row_at_at = np.int64(row_at.ctypes.data)
        for begin in range(0, keys + 3 * BLOCK, BLOCK):
            outcome, slot = start(d, wanted_at, begin, min(begin + BLOCK, keys))
            if outcome != DONE:
                return outcome, slot, absent
            aim(d, wanted_at, max(0, begin - BLOCK), min(begin, keys), aim_at)
            first, last = max(0, begin - 2 * BLOCK), min(begin - BLOCK, keys)
            absent += locate(
                d, wanted_at, first, last, aim_at, row_at, found, found_pos, absents, absents_pos + absent, first_key
            )
            k, end = max(0, begin - 3 * BLOCK), min(begin - 2 * BLOCK, keys)
            while k < end:
                if left == 0:
                    fresh = True
                    left = np.int64(1) if op == OP_ROWS else np.int64(u32(lengths_at + 4 * bag))
                count = min(left, end - k)
                row_type = d[ROW_TYPE]
                if row_type != _FLOAT32:
                    count, row_type = _alike(row_at, k, count, d[DEFAULT_AT], row_type)
                weights = weights_at + 4 * k if weights_at != 0 else np.int64(0)
                _reduce(row_type, op, out_at, row_at_at + 8 * (k & (RING - 1)), count, weights, dim, np.int64(fresh))
                fresh = False
                k += count
                left -= count
                if left == 0:
                    bag += 1
                    out_at += 4 * dim
        return DONE, 0, absent

    return pull_lookup


_pull_base, _pull_newer = _puller(BASE), _puller(NEWER)


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
    aim_at = np.empty(RING, np.int64)
    row_at = np.empty(RING, np.int64)
    found_pos = absents_pos = first_key = np.int64(0)
    for lookup in range(len(descriptors)):
        d = descriptors[lookup]
        op, keys, bags, weighted = d[OP], d[KEYS], d[BAGS], d[WEIGHTED]
        if d[ROW_TYPE] == BYTES:
            wanted_at += 8 * keys
            first_key += keys
            found_pos += keys
            continue
        if op != OP_ROWS and not _lengths_fit(lengths_at, bags, keys):
            return BAD_LENGTHS, lookup, 0
        weights = weights_at if weighted else 0
        places = found, found_pos, absents, absents_pos, first_key, aim_at, row_at
        if d[TAGS_AT] == 0:
            outcome, slot, missing[lookup] = _pull_base(d, wanted_at, lengths_at, weights, values_at, *places)
        else:
            outcome, slot, missing[lookup] = _pull_newer(d, wanted_at, lengths_at, weights, values_at, *places)
        if outcome != DONE:
            return outcome, lookup, slot
        wanted_at += 8 * keys
        first_key += keys
        lengths_at += 4 * bags
        if weighted:
            weights_at += 4 * keys
        if op == OP_ROWS:
            found_pos += keys
            values_at += 4 * d[DIM] * keys
        else:
            absents_pos += np.int64(missing[lookup])
            values_at += 4 * d[DIM] * bags
    return DONE, 0, 0


@numba.njit
def _read_spans(d, wanted_at, begin, end, aim_at, row_at, from_ats, lengths, pos):  # type: ignore[no-untyped-def]
    """Write where the rows of keys [begin, end) are and how long; return how it ended, and the slot or their bytes."""
    total = np.int64(0)
    for k in range(begin, end):
        at, segment = row_at[k & (RING - 1)], -aim_at[k & (RING - 1)]
        data_at, data_bytes = d[DATA_AT], np.uint64(d[DATA_BYTES])
        if segment > 0:
            data_at = np.int64(u64(d[SEGMENTS_AT] + SEGMENT_BYTES * segment + 8))
            data_bytes = u64(d[SEGMENTS_AT] + SEGMENT_BYTES * segment + 16)
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


def _bytes_locator(steps: Steps) -> Any:
    """Return what does one look-up of rows of bytes.

    It returns how that ended, the bytes of all rows or the slot concerned, and how many keys are absent.
    """
    start, aim, locate = steps

    @numba.njit
    def locate_all(d, wanted_at, aim_at, row_at, found, found_pos, from_ats, lengths, pos):  # type: ignore[no-untyped-def]
        keys, absents = d[KEYS], np.empty(0, np.uint32)
        absent = total = np.int64(0)
        for begin in range(0, keys + 3 * BLOCK, BLOCK):
            outcome, slot = start(d, wanted_at, begin, min(begin + BLOCK, keys))
            if outcome != DONE:
                return outcome, np.int64(slot), absent
            aim(d, wanted_at, max(0, begin - BLOCK), min(begin, keys), aim_at)
            first, last = max(0, begin - 2 * BLOCK), min(begin - BLOCK, keys)
            absent += locate(d, wanted_at, first, last, aim_at, row_at, found, found_pos, absents, 0, 0)
            first, last = max(0, begin - 3 * BLOCK), min(begin - 2 * BLOCK, keys)
            outcome, size = _read_spans(d, wanted_at, first, last, aim_at, row_at, from_ats, lengths, pos)
            if outcome != DONE:
                return outcome, size, absent
            total += size
        return DONE, total, absent

    return locate_all


_bytes_base, _bytes_newer = _bytes_locator(BASE), _bytes_locator(NEWER)


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
    aim_at = np.empty(RING, np.int64)
    row_at = np.empty(RING, np.int64)
    found_pos = pos = total = np.int64(0)
    for lookup in range(len(descriptors)):
        d = descriptors[lookup]
        keys = d[KEYS]
        if d[ROW_TYPE] == BYTES:
            places = aim_at, row_at, found, found_pos, from_ats, lengths, pos
            if d[TAGS_AT] == 0:
                outcome, size, missing[lookup] = _bytes_base(d, wanted_at, *places)
            else:
                outcome, size, missing[lookup] = _bytes_newer(d, wanted_at, *places)
            if outcome != DONE:
                return outcome, lookup, size
            total += size
            pos += keys
        wanted_at += 8 * keys
        if d[OP] == OP_ROWS:
            found_pos += keys
    return DONE, 0, total
