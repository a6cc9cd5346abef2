"""Reducers: bring stored rows of each type into one float32 output, the inner loops of pooling as vector instructions.

A reducer is `reduce(out_at, row_ats_at, count, weights_at, dim, fresh)`: the addresses of `count` >= 1 rows lie at
`row_ats_at`, their float32 weights, if any, at `weights_at`; the output is float32 (dim,), and `fresh` != 0 starts it
anew. Rows are decoded in registers (`ringpull.ps.store.readers`), never to memory. A tile of columns stays
in registers while all rows pass, written as vectors since LLVM cannot know that outputs and rows never overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from numba.core import cgutils, types
from numba.extending import intrinsic

from ringpull.ps.spec import VECTOR_TYPES, RowType
from ringpull.ps.store.intrinsics import INT64
from ringpull.ps.store.readers import FLOAT, READERS, Build, load, place, spread, wide

ROW_TYPES: Final[Mapping[RowType, int]] = MappingProxyType({row_type: i for i, row_type in enumerate(VECTOR_TYPES)})
"""Numbers that stand for the row types of vectors in kernels."""

_LANES: Final = 16
_TILE_VECTORS: Final = 4
"""Vectors of a tile: this many sums are under way at once, so that none waits for the one before it."""


def _add(builder: Any, one: Any, other: Any) -> Any:
    return builder.fadd(one, other)


def _larger(builder: Any, one: Any, other: Any) -> Any:
    """A NaN in a row stays in the result, as it does in a sum."""
    wins = builder.or_(builder.fcmp_ordered(">", other, one), builder.fcmp_unordered("uno", other, other))
    return builder.select(wins, other, one)


def _reducer(open_row: Build, combine: Build, *, weighted: bool = False) -> Any:
    allocate: Build = cgutils.alloca_once

    @intrinsic
    def reduce(_context: Any, out_at: Any, row_ats_at: Any, count: Any, weights_at: Any, dim: Any, fresh: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            out_at, row_ats_at, count, weights_at, dim, fresh = args

            def terms(row: Any, number: Any, vectors: int, lanes: int) -> list[Any]:
                read = open_row(builder, load(builder, INT64, place(builder, row_ats_at, row, 8), 8))
                values = [read(builder.add(number, INT64(i * lanes)), lanes) for i in range(vectors)]
                if not weighted:
                    return values
                weight = load(builder, FLOAT, place(builder, weights_at, row, 4), 4)
                return [builder.fmul(each, spread(builder, weight, lanes)) for each in values]

            def tile(number: Any, vectors: int, lanes: int) -> None:
                kind = wide(FLOAT, lanes)
                totals = [allocate(builder, kind) for _ in range(vectors)]
                outs = [
                    builder.inttoptr(
                        place(builder, out_at, builder.add(number, INT64(i * lanes)), 4), kind.as_pointer()
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


REDUCERS: Final[Mapping[RowType, Reducers]] = MappingProxyType(
    {
        row_type: Reducers(
            sum=_reducer(READERS[row_type], _add),
            sum_weighted=_reducer(READERS[row_type], _add, weighted=True),
            max=_reducer(READERS[row_type], _larger),
        )
        for row_type in VECTOR_TYPES
    }
)
"""Reducers of every row type, as the compiled `ringpull.ps.store.kernels` choose among them."""
