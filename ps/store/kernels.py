"""The compiled heart of a shard: from positions to rows and pooled bags, for all look-ups of a frame in one call.

Bound by memory, not by arithmetic: a key costs one cache miss in the index, one in the positions and one per line of
its row. So keys go through four steps in blocks of BLOCK, each step starting the loads (prefetches) of the next:
start -> aim -> locate -> pool.

Kernels take addresses, so that one compiled version serves every array, read-only or not. Callers (`ps.store.pull`,
`Base`) check all counts, types and lengths before, and keep the arrays alive. Nothing grows with a request here, and
the GIL is released.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ps.hashing import SLOT_SHIFT
from ps.spec import UInt64Array

BLOCK: Final = 32
"""Keys per step; see ps/README.md, "Decisions"."""
_RING: Final = 4 * BLOCK
"""What one step tells the next is kept for this many keys: a power of two."""
_LINE_BYTES: Final = 64
_PREFETCHED_LINES: Final = 8
"""Lines of a row that are prefetched; the processor follows a longer row by itself."""
_BUCKET_SCAN: Final = 64
"""Larger buckets are halved first. Only keys chosen to lie together make such."""


class TableDescriptor(NamedTuple):
    """One table as kernels see it: addresses and sizes. Whoever made it keeps the arrays alive."""

    index_at: int
    index_entry_bytes: int
    index_shift: int
    """`position >> index_shift` is the bucket."""
    positions_at: int
    rows_at: int
    rows: int
    row_bytes: int
    dim: int
    default_at: int
    answered_at: int
    """uint8 (65536,): not 0 for slots that may be answered for; address 0 for all."""


# The columns of a frame's descriptors, int64: the table's fields, then the look-up's own.
_INDEX_AT, _ENTRY_BYTES, _SHIFT, _POSITIONS_AT, _ROWS_AT, _ROWS, _ROW_BYTES, _DIM, _DEFAULT_AT, _ANSWERED_AT = range(10)
_OWNED_AT, _OP, _KEYS, _BAGS, _WEIGHTED = range(10, 15)
DESCRIPTOR_FIELDS: Final = 15
TABLE: Final = struct.Struct("=10q")
LOOKUP: Final = struct.Struct("=5q")
"""The two parts of a descriptor: the table's, packed once, and the look-up's."""

_OP_ROWS, _OP_MAX = 0, 2
"""Of the values of `ps.wire.messages.Op`; the third is SUM."""

DONE, BAD_LENGTHS, NOT_OWNED, NOT_ANSWERED = 0, 1, 2, 3
"""How `pull_frame` ended."""


# -- what numba cannot say ---------------------------------------------------------------------------------------------

_PREFETCH: Final = "llvm.prefetch.p0"
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_FLOAT = ir.FloatType()
_Build = Callable[..., Any]
"""Code generators of llvmlite carry no types: builders, values and types of LLVM are `Any` here."""


def _loader(numba_type: Any) -> Any:
    """Return an intrinsic `load(address)` of one number."""

    @intrinsic
    def load(_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            kind = context.get_value_type(numba_type)
            return builder.load(builder.inttoptr(args[0], kind.as_pointer()), align=numba_type.bitwidth // 8)

        return numba_type(types.int64), generate

    return load


_u8, _u32, _u64 = (_loader(kind) for kind in (types.uint8, types.uint32, types.uint64))


def _prefetcher(locality: int) -> Any:
    """Return an intrinsic `prefetch(address)`: start loading a cache line. Any integer is safe.

    Locality 3 brings it to the first cache level; 2 to the second, which takes more of them at once.
    """

    @intrinsic
    def prefetch(_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [pointer, _INT32, _INT32, _INT32])
            function = builder.module.globals.get(_PREFETCH) or ir.Function(builder.module, kind, _PREFETCH)
            read, data = _INT32(0), _INT32(1)
            builder.call(function, [builder.inttoptr(args[0], pointer), read, _INT32(locality), data])
            return context.get_dummy_value()

        return types.void(types.int64), generate

    return prefetch


_prefetch = _prefetcher(3)
_prefetch_row = _prefetcher(2)


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, _INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes))


def _generate_matches(_context: Any, line_at: Any, position: Any) -> Any:
    """`_matches(line_at, position)`: which of the 8 positions of an aligned cache line equal `position`, as bits."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        line = builder.load(builder.inttoptr(args[0], ir.VectorType(_INT64, 8).as_pointer()), align=_LINE_BYTES)
        equal = builder.icmp_unsigned("==", line, _splat(builder, args[1], 8))
        return builder.zext(builder.bitcast(equal, ir.IntType(8)), _INT64)

    return types.int64(types.int64, types.uint64), generate


def _generate_lowest_bit(_context: Any, bits: Any) -> Any:
    """`_lowest_bit(bits)`: the number of the lowest set bit; `bits` is not 0."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.int64), generate


_matches: Any = intrinsic(_generate_matches)
_lowest_bit: Any = intrinsic(_generate_lowest_bit)


def _reducer(combine: _Build, *, weighted: bool = False) -> Any:
    """Return an intrinsic that brings some rows into one output, float32 (dim,).

    `reduce(out_at, row_ats_at, count, weights_at, dim, fresh)`: the addresses of `count` >= 1 rows lie at `row_ats_at`,
    their weights, if any, at `weights_at`; `fresh` != 0 starts the output anew. Sixteen columns at a time stay in
    registers while all rows pass, written as vectors since LLVM cannot know that outputs and rows never overlap.
    """
    lanes = 16
    allocate: _Build = cgutils.alloca_once

    @intrinsic
    def reduce(_context: Any, out_at: Any, row_ats_at: Any, count: Any, weights_at: Any, dim: Any, fresh: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            out_at, row_ats_at, count, weights_at, dim, fresh = args

            def load(kind: Any, at: Any, number: Any, size: int) -> Any:
                place = builder.add(at, builder.mul(number, _INT64(size)))
                return builder.load(builder.inttoptr(place, kind.as_pointer()), align=size)

            def columns(kind: Any, number: Any) -> None:
                def term(row: Any) -> Any:
                    values = load(kind, load(_INT64, row_ats_at, row, 8), number, 4)
                    if not weighted:
                        return values
                    weight = load(_FLOAT, weights_at, row, 4)
                    return builder.fmul(values, weight if kind is _FLOAT else _splat(builder, weight, lanes))

                out = builder.inttoptr(builder.add(out_at, builder.mul(number, _INT64(4))), kind.as_pointer())
                total = allocate(builder, kind)
                builder.store(term(_INT64(0)), total)
                with builder.if_then(builder.icmp_signed("==", fresh, _INT64(0))):
                    builder.store(combine(builder, builder.load(out, align=4), builder.load(total)), total)
                with cgutils.for_range(builder, builder.sub(count, _INT64(1))) as loop:
                    row = term(builder.add(loop.index, _INT64(1)))
                    builder.store(combine(builder, builder.load(total), row), total)
                builder.store(builder.load(total), out, align=4)

            vectors = builder.udiv(dim, _INT64(lanes))
            with cgutils.for_range(builder, vectors) as loop:
                columns(ir.VectorType(_FLOAT, lanes), builder.mul(loop.index, _INT64(lanes)))
            done = builder.mul(vectors, _INT64(lanes))
            with cgutils.for_range(builder, builder.sub(dim, done)) as loop:
                columns(_FLOAT, builder.add(done, loop.index))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return reduce


def _larger(builder: Any, one: Any, other: Any) -> Any:
    """A NaN in a row stays in the result, as it does in a sum."""
    wins = builder.or_(builder.fcmp_ordered(">", other, one), builder.fcmp_unordered("uno", other, other))
    return builder.select(wins, other, one)


_sum_rows = _reducer(lambda builder, one, other: builder.fadd(one, other))
_sum_weighted_rows = _reducer(lambda builder, one, other: builder.fadd(one, other), weighted=True)
_max_rows = _reducer(_larger)


# -- finding -----------------------------------------------------------------------------------------------------------


@numba.njit
def _bucket(index_at, entry_bytes, shift, position):  # type: ignore[no-untyped-def]
    """Return the rows [first, last) of the bucket of a position."""
    at = index_at + entry_bytes * np.int64(position >> np.uint64(shift))
    if entry_bytes == 4:
        return np.int64(_u32(at)), np.int64(_u32(at + 4))
    return np.int64(_u64(at)), np.int64(_u64(at + 8))


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
        if _u64(positions_at + 8 * middle) <= position:
            first = middle
        else:
            last = middle
    if first == last:
        return -1
    row = min(max(row, first), last - 1)
    while row < last and _u64(positions_at + 8 * row) < position:
        row += 1
    while row > first and _u64(positions_at + 8 * (row - 1)) >= position:
        row -= 1
    return row if row < last and _u64(positions_at + 8 * row) == position else -1


@numba.njit(cache=True, nogil=True)
def _find(index_at, entry_bytes, shift, positions_at, wanted_at, count, out):  # type: ignore[no-untyped-def]
    for k in range(count):
        position = _u64(wanted_at + 8 * k)
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
        length = np.int64(_u32(lengths_at + 4 * bag))
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
        position = _u64(wanted_at + 8 * k)
        slot = np.int64(position >> np.uint64(SLOT_SHIFT))
        if owned_at != 0 and _u8(owned_at + slot) == 0:
            return NOT_OWNED, slot
        if answered_at != 0 and _u8(answered_at + slot) == 0:
            return NOT_ANSWERED, slot
        _prefetch(index_at + entry_bytes * np.int64(position >> np.uint64(shift)))
    return DONE, 0


@numba.njit
def _aim(d, wanted_at, begin, end, line_at):  # type: ignore[no-untyped-def]
    """Guess in which line of positions each key is, keep that in `line_at`, and start loading it.

    A guess is off by about 1.5 rows, so every eighth key is in the line before or after: load both if one is near.
    """
    index_at, entry_bytes, shift, positions_at = d[_INDEX_AT], d[_ENTRY_BYTES], d[_SHIFT], d[_POSITIONS_AT]
    for k in range(begin, end):
        position = _u64(wanted_at + 8 * k)
        first, last = _bucket(index_at, entry_bytes, shift, position)
        at = positions_at + 8 * _guess(first, last, shift, position)
        _prefetch(at - 16)
        _prefetch(at + 16)
        # No line is read for an empty bucket: its guess may lie beyond the last position, even beyond the map.
        line_at[k & (_RING - 1)] = at & -_LINE_BYTES if first < last else 0


@numba.njit
def _locate(d, wanted_at, begin, end, line_at, row_at, found, found_pos):  # type: ignore[no-untyped-def]
    """Find keys [begin, end), keep in `row_at` where their rows are, start loading those; count the absent."""
    index_at, entry_bytes, shift, positions_at = d[_INDEX_AT], d[_ENTRY_BYTES], d[_SHIFT], d[_POSITIONS_AT]
    rows_at, rows, row_bytes, default_at = d[_ROWS_AT], d[_ROWS], d[_ROW_BYTES], d[_DEFAULT_AT]
    unpooled = d[_OP] == _OP_ROWS
    lines = min(_PREFETCHED_LINES, (row_bytes + _LINE_BYTES - 1) // _LINE_BYTES)
    absent = 0
    for k in range(begin, end):
        position = _u64(wanted_at + 8 * k)
        line = line_at[k & (_RING - 1)]
        bits = _matches(line, position) if line != 0 else 0
        row = ((line - positions_at) >> 3) + _lowest_bit(bits) if bits != 0 else -1
        if bits == 0 or row >= rows:  # what follows the last position in its line is the map's padding
            first, last = _bucket(index_at, entry_bytes, shift, position)
            row = _search(positions_at, first, last, _guess(first, last, shift, position), position)
        at = default_at
        if row >= 0:
            at = rows_at + row * row_bytes
            for i in range(lines):
                _prefetch_row(at + i * _LINE_BYTES)
        else:
            absent += 1
        row_at[k & (_RING - 1)] = at
        if unpooled:
            found[found_pos + k] = row >= 0
    return absent


@numba.njit
def _pull_lookup(d, wanted_at, lengths_at, weights_at, out_at, found, found_pos, line_at, row_at):  # type: ignore[no-untyped-def]
    """Do one look-up; return how it ended, the slot concerned, and how many keys are absent."""
    op, keys, dim = d[_OP], d[_KEYS], d[_DIM]
    absent = 0
    bag = 0
    left = np.int64(0)
    row_at_at = np.int64(row_at.ctypes.data)
    for begin in range(0, keys + 3 * BLOCK, BLOCK):
        outcome, slot = _start(d, wanted_at, begin, min(begin + BLOCK, keys))
        if outcome != DONE:
            return outcome, slot, absent
        _aim(d, wanted_at, max(0, begin - BLOCK), min(begin, keys), line_at)
        absent += _locate(
            d, wanted_at, max(0, begin - 2 * BLOCK), min(begin - BLOCK, keys), line_at, row_at, found, found_pos
        )
        k, end = max(0, begin - 3 * BLOCK), min(begin - 2 * BLOCK, keys)
        while k < end:
            fresh = left == 0
            if fresh:
                left = np.int64(1) if op == _OP_ROWS else np.int64(_u32(lengths_at + 4 * bag))
            count = min(left, end - k)
            row_ats_at = row_at_at + 8 * (k & (_RING - 1))
            if weights_at != 0:
                _sum_weighted_rows(out_at, row_ats_at, count, weights_at + 4 * k, dim, np.int64(fresh))
            elif op == _OP_MAX:
                _max_rows(out_at, row_ats_at, count, np.int64(0), dim, np.int64(fresh))
            else:
                _sum_rows(out_at, row_ats_at, count, np.int64(0), dim, np.int64(fresh))
            k += count
            left -= count
            if left == 0:
                bag += 1
                out_at += 4 * dim
    return DONE, 0, absent


@numba.njit(cache=True, nogil=True)
def pull_frame(descriptors, wanted_at, lengths_at, weights_at, values_at, missing, found):  # type: ignore[no-untyped-def]
    """Do all look-ups of a frame.

    Args:
        descriptors: int64 (L, DESCRIPTOR_FIELDS), one row per look-up.
        wanted_at: Address of the uint64 positions, all look-ups end to end.
        lengths_at: Address of the uint32 bag lengths, all pooled look-ups end to end.
        weights_at: Address of the float32 weights, all weighted look-ups end to end.
        values_at: Address of float32 numbers, room for all outputs; overwritten.
        missing: uint32 (L,); overwritten.
        found: uint8, one per key of the unpooled look-ups; overwritten.

    Returns:
        DONE, 0, 0; or why not, which look-up, and the slot concerned. Outputs are then unusable.
    """
    line_at = np.empty(_RING, np.int64)
    row_at = np.empty(_RING, np.int64)
    found_pos = 0
    for lookup in range(len(descriptors)):
        d = descriptors[lookup]
        op, keys, bags, weighted = d[_OP], d[_KEYS], d[_BAGS], d[_WEIGHTED]
        if op != _OP_ROWS and not _lengths_fit(lengths_at, bags, keys):
            return BAD_LENGTHS, lookup, 0
        outcome, slot, missing[lookup] = _pull_lookup(
            d, wanted_at, lengths_at, weights_at if weighted else 0, values_at, found, found_pos, line_at, row_at
        )
        if outcome != DONE:
            return outcome, lookup, slot
        wanted_at += 8 * keys
        lengths_at += 4 * bags
        if weighted:
            weights_at += 4 * keys
        if op == _OP_ROWS:
            found_pos += keys
            values_at += 4 * d[_DIM] * keys
        else:
            values_at += 4 * d[_DIM] * bags
    return DONE, 0, 0
