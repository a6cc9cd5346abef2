"""Dot products of stored rows with queries, in one fixed order of float32 sums, as vector instructions.

The order, whatever computes a score: column c is multiplied and added to lane c % 16, the columns ascending; then lane
l takes in lane l + 8, then l + 4, l + 2 and l + 1. Product and sum are rounded to float32 each, with no fused
multiply-add, which not every processor has. So a row has the same score, bit for bit, alone or in a tile of queries, on
every shard and machine.

`DOTS` has one query against rows as stored, lanes beside each other in one vector. `tile` has `TILE_QUERIES` queries
against `TILE_ROWS` rows of float32: its vectors lie across queries, so that nothing is summed across lanes; a query
tile and the sums stay in registers and the first cache level. Queries and decoded rows are zeros from `dim` up to a
multiple of 16. Rows as stored may be read up to `OVERREAD` numbers beyond their end: what is there does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ringpull.ps.spec import VECTOR_TYPES, RowType
from ringpull.ps.store.intrinsics import INT32, INT64
from ringpull.ps.store.readers import FLOAT, READERS, Build, load, place, spread, wide

LANES: Final = 16
OVERREAD: Final = LANES - 1
GROUP: Final = 4
"""Rows that one query goes through at a time: sums that do not wait for each other."""

_WIDE_REGISTERS: Final = bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))
TILE_QUERIES: Final = 16 if _WIDE_REGISTERS else 8
TILE_ROWS: Final = 2 if _WIDE_REGISTERS else 1
"""Size of a tile: 8 sums of it, and what goes into them, fit the registers there are."""

_HALVES: Final = ((0, 8, 4, 12, 2, 10, 6, 14), (1, 9, 5, 13, 3, 11, 7, 15))
"""Lanes of the two passes over a row that a tile makes: each half of them is one branch of the final sum."""


def _vector(kind: Any, numbers: Any) -> Any:
    numbers = list(numbers)
    return ir.Constant(ir.VectorType(kind, len(numbers)), numbers)


def _sum_lanes(builder: Any, lanes: Any) -> Any:
    """Return the sum of 16 lanes, in the fixed order."""
    width = LANES
    while width > 1:
        width //= 2
        low, high = (
            builder.shuffle_vector(lanes, lanes, _vector(INT32, range(begin, begin + width))) for begin in (0, width)
        )
        lanes = builder.fadd(low, high)
    return builder.extract_element(lanes, INT32(0))


def _each_chunk(builder: Any, reads: Sequence[Build], dim: Any, use: Build) -> None:
    """Call `use(number, values, ...)` for 16 columns of each row at a time, zeros in place of what is beyond them."""
    chunks, left = builder.lshr(dim, INT64(4)), builder.and_(dim, INT64(15))
    with cgutils.for_range(builder, chunks) as loop:
        number = builder.shl(loop.index, INT64(4))
        use(number, *[read(number, LANES) for read in reads])
    with builder.if_then(builder.icmp_signed("!=", left, INT64(0))):
        number = builder.shl(chunks, INT64(4))
        inside = builder.icmp_signed(
            "<", _vector(INT32, range(LANES)), spread(builder, builder.trunc(left, INT32), LANES)
        )
        zeros = ir.Constant(wide(FLOAT, LANES), None)
        use(number, *[builder.select(inside, read(number, LANES), zeros) for read in reads])


def _zeroed(builder: Any, lanes: int) -> Any:
    allocate: Build = cgutils.alloca_once
    total = allocate(builder, wide(FLOAT, lanes))
    builder.store(ir.Constant(wide(FLOAT, lanes), None), total)
    return total


def _sum_each(builder: Any, vectors: list[Any]) -> Any:
    """Return the sums of `GROUP` vectors of 16 lanes, in the fixed order of each, as one vector.

    Halves of two vectors lie in one from the first step on: a third of the instructions that one by one would take.
    """
    width = LANES
    while len(vectors) > 1:
        vectors = [_folded(builder, one, other, width) for one, other in zip(vectors[::2], vectors[1::2], strict=True)]
        width //= 2
    lanes = vectors[0]
    while width > 1:
        width //= 2
        indexes = [row * 2 * width + lane for row in range(GROUP) for lane in range(width)]
        low, high = (
            builder.shuffle_vector(lanes, lanes, _vector(INT32, [index + begin for index in indexes]))
            for begin in (0, width)
        )
        lanes = builder.fadd(low, high)
    return lanes


def _folded(builder: Any, one: Any, other: Any, width: int) -> Any:
    """Return vectors of 16 lanes, in which each row has `width`, added half to half: the rows of one, then the other's.

    Numbers from 16 on are lanes of `other`.
    """
    rows = [first + begin for first in (0, LANES) for begin in range(0, LANES, width)]
    low, high = (
        builder.shuffle_vector(
            one, other, _vector(INT32, [row + begin + lane for row in rows for lane in range(width // 2)])
        )
        for begin in (0, width // 2)
    )
    return builder.fadd(low, high)


def _dots(open_row: Build) -> Any:
    @intrinsic
    def dots(_context: Any, ats_at: Any, query_at: Any, dim: Any, out_at: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            ats_at, query_at, dim, out_at = args
            reads = [
                open_row(builder, load(builder, INT64, builder.add(ats_at, INT64(8 * row)), 8)) for row in range(GROUP)
            ]
            totals = [_zeroed(builder, LANES) for _ in reads]

            def use(number: Any, *values: Any) -> None:
                query = load(builder, wide(FLOAT, LANES), place(builder, query_at, number, 4), 4)
                for total, each in zip(totals, values, strict=True):
                    builder.store(builder.fadd(builder.load(total), builder.fmul(each, query)), total)

            _each_chunk(builder, reads, dim, use)
            sums = _sum_each(builder, [builder.load(total) for total in totals])
            builder.store(sums, builder.inttoptr(out_at, sums.type.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    return dots


def _squares(open_row: Build) -> Any:
    @intrinsic
    def squares(_context: Any, row_at: Any, dim: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            row_at, dim = args
            total = _zeroed(builder, LANES)

            def use(_number: Any, values: Any) -> None:
                builder.store(builder.fadd(builder.load(total), builder.fmul(values, values)), total)

            _each_chunk(builder, [open_row(builder, row_at)], dim, use)
            return _sum_lanes(builder, builder.load(total))

        return types.float32(*[types.int64] * 2), generate

    return squares


def _decoder(open_row: Build) -> Any:
    @intrinsic
    def decode(_context: Any, row_at: Any, out_at: Any, dim: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            row_at, out_at, dim = args

            def use(number: Any, values: Any) -> None:
                pointer = builder.inttoptr(place(builder, out_at, number, 4), values.type.as_pointer())
                builder.store(values, pointer, align=4)

            _each_chunk(builder, [open_row(builder, row_at)], dim, use)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), generate

    return decode


class Dots(NamedTuple):
    """What is computed of one row of a type, given its address."""

    dots: Any
    """`dots(ats_at, query_at, dim, out_at)` writes the scores of `GROUP` rows, whose addresses lie at `ats_at`."""
    squares: Any
    """`squares(row_at, dim)` returns the sum of the squares, in the same order."""
    decode: Any
    """`decode(row_at, out_at, dim)` writes float32, zeros up to a multiple of 16."""


DOTS: Final[Mapping[RowType, Dots]] = MappingProxyType(
    {
        row_type: Dots(_dots(READERS[row_type]), _squares(READERS[row_type]), _decoder(READERS[row_type]))
        for row_type in VECTOR_TYPES
    }
)


def _generate_tile(_context: Any, rows_at: Any, row_bytes: Any, queries_at: Any, chunks: Any, out_at: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        rows_at, row_bytes, queries_at, chunks, out_at = args
        kind = wide(FLOAT, TILE_QUERIES)
        row_ats = [builder.add(rows_at, builder.mul(row_bytes, INT64(row))) for row in range(TILE_ROWS)]
        branches = []
        for lanes in _HALVES:
            totals = [[_zeroed(builder, TILE_QUERIES) for _ in lanes] for _ in row_ats]
            with cgutils.for_range(builder, chunks) as loop:
                number = builder.shl(loop.index, INT64(4))
                for position, lane in enumerate(lanes):
                    column = builder.add(number, INT64(lane))
                    query = load(builder, kind, place(builder, queries_at, column, 4 * TILE_QUERIES), 4)
                    for row_at, sums in zip(row_ats, totals, strict=True):
                        value = load(builder, FLOAT, place(builder, row_at, column, 4), 4)
                        product = builder.fmul(query, spread(builder, value, TILE_QUERIES))
                        builder.store(builder.fadd(builder.load(sums[position]), product), sums[position])
            branches.append([_sum_pairs(builder, [builder.load(each) for each in sums]) for sums in totals])
        for row, (one, other) in enumerate(zip(*branches, strict=True)):
            out = builder.inttoptr(builder.add(out_at, INT64(4 * TILE_QUERIES * row)), kind.as_pointer())
            builder.store(builder.fadd(one, other), out, align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


def _sum_pairs(builder: Any, sums: list[Any]) -> Any:
    while len(sums) > 1:
        sums = [builder.fadd(one, other) for one, other in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0]


tile: Any = intrinsic(_generate_tile)
"""`tile(rows_at, row_bytes, queries_at, chunks, out_at)` writes the scores of rows, float32 (TILE_ROWS, TILE_QUERIES).

Rows are float32 (16 x `chunks`,), each `row_bytes` after the last; queries float32 (16 x `chunks`, TILE_QUERIES).
"""


def _generate_reached(_context: Any, scores_at: Any, bounds_at: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind = wide(FLOAT, TILE_QUERIES)
        scores, bounds = (load(builder, kind, at, 4) for at in args)
        return _bits(builder, builder.fcmp_ordered(">=", scores, bounds))

    return types.int64(types.int64, types.int64), generate


def _generate_reached_one(_context: Any, scores_at: Any, bound: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        scores = load(builder, wide(FLOAT, LANES), args[0], 4)
        return _bits(builder, builder.fcmp_ordered(">=", scores, spread(builder, args[1], LANES)))

    return types.int64(types.int64, types.float32), generate


def _bits(builder: Any, flags: Any) -> Any:
    return builder.zext(builder.bitcast(flags, ir.IntType(flags.type.count)), INT64)


reached: Any = intrinsic(_generate_reached)
"""`reached(scores_at, bounds_at)` returns which of TILE_QUERIES scores reach their bounds, as bits; a NaN does not."""

reached_one: Any = intrinsic(_generate_reached_one)
"""`reached_one(scores_at, bound)` returns which of 16 scores reach one bound, as bits; a NaN does not."""
