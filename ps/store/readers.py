"""Readers of stored rows of each type, as generators of code: columns of one row as float32, decoded in registers.

`ringpull.ps.store.row_codec` says how rows are stored. A reader opens one row, by its address, and returns
`read(number, lanes)`: that many of its columns, from `number` on. What it reads lies in the map, or in a copy of it; it
looks at nothing before or beyond these columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from llvmlite import ir

from ringpull.ps.spec import AFFINE_BYTES, RowType
from ringpull.ps.store.intrinsics import INT8, INT16, INT32, INT64, splat

FLOAT = ir.FloatType()
Build = Callable[..., Any]
"""A generator of code. It carries no types: builders, values and types of LLVM are `Any` here."""


def load(builder: Any, kind: Any, at: Any, size: int) -> Any:
    """Return what lies at an address that is a multiple of `size`."""
    return builder.load(builder.inttoptr(at, kind.as_pointer()), align=size)


def spread(builder: Any, value: Any, lanes: int) -> Any:
    """Return a vector of `lanes` times `value`; of one lane the value."""
    return value if lanes == 1 else splat(builder, value, lanes)


def wide(kind: Any, lanes: int) -> Any:
    """Return the type of a vector of `lanes` numbers; of one lane that of the number."""
    return kind if lanes == 1 else ir.VectorType(kind, lanes)


def place(builder: Any, at: Any, number: Any, size: int) -> Any:
    """Return where a number is that comes after `number` others of `size` bytes."""
    return builder.add(at, builder.mul(number, INT64(size)))


def _open_float32(builder: Any, row_at: Any) -> Build:
    return lambda number, lanes: load(builder, wide(FLOAT, lanes), place(builder, row_at, number, 4), 4)


def _open_float16(builder: Any, row_at: Any) -> Build:
    """Return the reader of float16 numbers.

    It uses integer operations: a conversion instruction is not everywhere, and LLVM would call a missing function.
    """

    def read(number: Any, lanes: int) -> Any:
        ints, floats = wide(INT32, lanes), wide(FLOAT, lanes)

        def constant(value: int) -> Any:
            return spread(builder, INT32(value), lanes)

        halves = builder.zext(load(builder, wide(INT16, lanes), place(builder, row_at, number, 2), 2), ints)
        magnitude = builder.shl(builder.and_(halves, constant(0x7FFF)), constant(13))
        # The exponent's bias is made up for by a multiplication, which also makes subnormal numbers normal.
        rebias = builder.bitcast(constant(0x7780_0000), floats)  # 2^112
        scaled = builder.bitcast(builder.fmul(builder.bitcast(magnitude, floats), rebias), ints)
        special = builder.icmp_unsigned(">=", magnitude, constant(0x0F80_0000))  # infinities and NaN
        bits = builder.select(special, builder.or_(magnitude, constant(0x7F80_0000)), scaled)
        sign = builder.shl(builder.and_(halves, constant(0x8000)), constant(16))
        return builder.bitcast(builder.or_(bits, sign), floats)

    return read


def _open_bfloat16(builder: Any, row_at: Any) -> Build:
    def read(number: Any, lanes: int) -> Any:
        upper = load(builder, wide(INT16, lanes), place(builder, row_at, number, 2), 2)
        bits = builder.shl(builder.zext(upper, wide(INT32, lanes)), spread(builder, INT32(16), lanes))
        return builder.bitcast(bits, wide(FLOAT, lanes))

    return read


def _open_int8(builder: Any, row_at: Any) -> Build:
    scale = load(builder, FLOAT, row_at, 4)
    offset = load(builder, FLOAT, builder.add(row_at, INT64(4)), 4)
    codes_at = builder.add(row_at, INT64(AFFINE_BYTES))

    def read(number: Any, lanes: int) -> Any:
        codes = load(builder, wide(INT8, lanes), place(builder, codes_at, number, 1), 1)
        numbers = builder.uitofp(codes, wide(FLOAT, lanes))
        scaled = builder.fmul(numbers, spread(builder, scale, lanes))
        return builder.fadd(scaled, spread(builder, offset, lanes))

    return read


READERS: Final[Mapping[RowType, Build]] = MappingProxyType(
    {
        RowType.FLOAT32: _open_float32,
        RowType.FLOAT16: _open_float16,
        RowType.BFLOAT16: _open_bfloat16,
        RowType.INT8: _open_int8,
    }
)
"""Opener of rows of each type: `open(builder, row_at)` returns their `read`."""
