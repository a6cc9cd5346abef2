"""Reducers: bring stored rows of each type into one float32 output, the inner loops of pooling as vector instructions.

A reducer is `reduce(out_at, row_ats_at, count, weights_at, dim, fresh)`: the addresses of `count` >= 1 rows lie at
`row_ats_at`, their float32 weights, if any, at `weights_at`; the output is float32 (dim,), and `fresh` != 0 starts it
anew. Rows are decoded in registers (`ringpull.ps.store.row_codec` says how), never to memory. A tile of columns stays
in registers while all rows pass, written as vectors since LLVM cannot know that outputs and rows never overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ringpull.ps.spec import AFFINE_BYTES, VECTOR_TYPES, RowType
from ringpull.ps.store.intrinsics import INT8, INT16, INT32, INT64, splat

ROW_TYPES: Final[Mapping[RowType, int]] = MappingProxyType({row_type: i for i, row_type in enumerate(VECTOR_TYPES)})
"""Numbers that stand for the row types of vectors in kernels."""

_LANES: Final = 16
_TILE_VECTORS: Final = 4
"""Vectors of a tile: this many sums are under way at once, so that none waits for the one before it."""

_FLOAT = ir.FloatType()
_Build = Callable[..., Any]
"""A generator of code. It carries no types: builders, values and types of LLVM are `Any` here."""


def _load(builder: Any, kind: Any, at: Any, size: int) -> Any:
    return builder.load(builder.inttoptr(at, kind.as_pointer()), align=size)


def _spread(builder: Any, value: Any, lanes: int) -> Any:
    return value if lanes == 1 else splat(builder, value, lanes)


def _wide(kind: Any, lanes: int) -> Any:
    return kind if lanes == 1 else ir.VectorType(kind, lanes)


def _place(builder: Any, at: Any, number: Any, size: int) -> Any:
    return builder.add(at, builder.mul(number, INT64(size)))


# A reader opens one row, and returns `read(number, lanes)`: that many of its columns, from `number` on, as float32.


def _open_float32(builder: Any, row_at: Any) -> _Build:
    return lambda number, lanes: _load(builder, _wide(_FLOAT, lanes), _place(builder, row_at, number, 4), 4)


def _open_float16(builder: Any, row_at: Any) -> _Build:
    """Return the reader of float16 numbers.

    It uses integer operations: a conversion instruction is not everywhere, and LLVM would call a missing function.
    """

    def read(number: Any, lanes: int) -> Any:
        ints, floats = _wide(INT32, lanes), _wide(_FLOAT, lanes)

        def constant(value: int) -> Any:
            return _spread(builder, INT32(value), lanes)

        halves = builder.zext(_load(builder, _wide(INT16, lanes), _place(builder, row_at, number, 2), 2), ints)
        magnitude = builder.shl(builder.and_(halves, constant(0x7FFF)), constant(13))
        # The exponent's bias is made up for by a multiplication, which also makes subnormal numbers normal.
        rebias = builder.bitcast(constant(0x7780_0000), floats)  # 2^112
        scaled = builder.bitcast(builder.fmul(builder.bitcast(magnitude, floats), rebias), ints)
        special = builder.icmp_unsigned(">=", magnitude, constant(0x0F80_0000))  # infinities and NaN
        bits = builder.select(special, builder.or_(magnitude, constant(0x7F80_0000)), scaled)
        sign = builder.shl(builder.and_(halves, constant(0x8000)), constant(16))
        return builder.bitcast(builder.or_(bits, sign), floats)

    return read


def _open_bfloat16(builder: Any, row_at: Any) -> _Build:
    def read(number: Any, lanes: int) -> Any:
        upper = _load(builder, _wide(INT16, lanes), _place(builder, row_at, number, 2), 2)
        bits = builder.shl(builder.zext(upper, _wide(INT32, lanes)), _spread(builder, INT32(16), lanes))
        return builder.bitcast(bits, _wide(_FLOAT, lanes))

    return read


def _open_int8(builder: Any, row_at: Any) -> _Build:
    scale = _load(builder, _FLOAT, row_at, 4)
    offset = _load(builder, _FLOAT, builder.add(row_at, INT64(4)), 4)
    codes_at = builder.add(row_at, INT64(AFFINE_BYTES))

    def read(number: Any, lanes: int) -> Any:
        codes = _load(builder, _wide(INT8, lanes), _place(builder, codes_at, number, 1), 1)
        numbers = builder.uitofp(codes, _wide(_FLOAT, lanes))
        scaled = builder.fmul(numbers, _spread(builder, scale, lanes))
        return builder.fadd(scaled, _spread(builder, offset, lanes))

    return read


def _add(builder: Any, one: Any, other: Any) -> Any:
    return builder.fadd(one, other)


def _larger(builder: Any, one: Any, other: Any) -> Any:
    """A NaN in a row stays in the result, as it does in a sum."""
    wins = builder.or_(builder.fcmp_ordered(">", other, one), builder.fcmp_unordered("uno", other, other))
    return builder.select(wins, other, one)


def _reducer(open_row: _Build, combine: _Build, *, weighted: bool = False) -> Any:
    allocate: _Build = cgutils.alloca_once

    @intrinsic
    def reduce(_context: Any, out_at: Any, row_ats_at: Any, count: Any, weights_at: Any, dim: Any, fresh: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            out_at, row_ats_at, count, weights_at, dim, fresh = args

            def terms(row: Any, number: Any, vectors: int, lanes: int) -> list[Any]:
                read = open_row(builder, _load(builder, INT64, _place(builder, row_ats_at, row, 8), 8))
                values = [read(builder.add(number, INT64(i * lanes)), lanes) for i in range(vectors)]
                if not weighted:
                    return values
                weight = _load(builder, _FLOAT, _place(builder, weights_at, row, 4), 4)
                return [builder.fmul(each, _spread(builder, weight, lanes)) for each in values]

            def tile(number: Any, vectors: int, lanes: int) -> None:
                kind = _wide(_FLOAT, lanes)
                totals = [allocate(builder, kind) for _ in range(vectors)]
                outs = [
                    builder.inttoptr(
                        _place(builder, out_at, builder.add(number, INT64(i * lanes)), 4), kind.as_pointer()
                    )
                    for i in range(vectors)
                ]
                for total, first in zip(totals, terms(INT64(0), number, vectors, lanes), strict=True):
                    builder.store(first, total)
                with builder.if_then(builder.icmp_signed("==", fresh, INT64(0))):
                    for total, out in zip(totals, outs, strict=True):
                        builder.store(combine(builder, builder.load(out, align=4), builder.load(total)), total)
                with cgutils.for_range(builder, builder.sub(count, INT64(1))) as loop:
                    rows = terms(builder.add(loop.index, INT64(1)), number, vectors, lanes)
                    for total, values in zip(totals, rows, strict=True):
                        builder.store(combine(builder, builder.load(total), values), total)
                for total, out in zip(totals, outs, strict=True):
                    builder.store(builder.load(total), out, align=4)

            done = INT64(0)
            for vectors, lanes in ((_TILE_VECTORS, _LANES), (1, _LANES), (1, 1)):
                width = INT64(vectors * lanes)
                tiles = builder.udiv(builder.sub(dim, done), width)
                with cgutils.for_range(builder, tiles) as loop:
                    tile(builder.add(done, builder.mul(loop.index, width)), vectors, lanes)
                done = builder.add(done, builder.mul(tiles, width))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return reduce


class Reducers(NamedTuple):
    """The reducers of one row type."""

    sum: Any
    sum_weighted: Any
    max: Any


_READERS: Final[Mapping[RowType, _Build]] = MappingProxyType(
    {
        RowType.FLOAT32: _open_float32,
        RowType.FLOAT16: _open_float16,
        RowType.BFLOAT16: _open_bfloat16,
        RowType.INT8: _open_int8,
    }
)

REDUCERS: Final[Mapping[RowType, Reducers]] = MappingProxyType(
    {
        row_type: Reducers(
            sum=_reducer(_READERS[row_type], _add),
            sum_weighted=_reducer(_READERS[row_type], _add, weighted=True),
            max=_reducer(_READERS[row_type], _larger),
        )
        for row_type in VECTOR_TYPES
    }
)
"""Reducers of every row type, as the compiled `ringpull.ps.store.kernels` choose among them."""
