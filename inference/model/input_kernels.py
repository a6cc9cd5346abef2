"""The kernel of a dense program's inputs: vectors of many look-ups, each end to end, become rows of all of them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.compiled import kernel
from ringpull.ps.spec import Float32Array

Int64Array = NDArray[np.int64]
UInt16Array = NDArray[np.uint16]
UInt32Array = NDArray[np.uint32]

_BLOCK: Final = 8
"""Rows that are laid out together: of a look-up, so many vectors are next to each other, and as many rows are written
at a time as a processor's store buffers follow."""


@kernel()
def lay_side_by_side(
    vectors: Float32Array,
    begins: Int64Array,
    dims: Int64Array,
    columns: Int64Array,
    context: Int64Array,
    index: Int64Array,
    out: Float32Array,
) -> None:
    """Write the vectors of P inputs side by side, for each of B rows.

    Args:
        vectors: Numbers of all of them; of each input (V, dim), from `begins` on.
        begins: (P,).
        dims: (P,).
        columns: (P,): where those of each go in a row.
        context: (P,): 1 where the vector of a row is that of its request.
        index: (B,): the request of each row.
        out: (B, W), overwritten there.
    """
    rows = out.shape[0]
    # Unsigned, as a negative index would count from the end, which must be tested for (see `ringpull.router.merge`).
    for first in range(0, rows, _BLOCK):
        end = min(first + _BLOCK, rows)
        for place in range(begins.size):
            begin, dim, column = np.uint64(begins[place]), np.uint64(dims[place]), np.uint64(columns[place])
            for row in range(first, end):
                source = begin + np.uint64(index[row] if context[place] else row) * dim
                for j in range(dim):
                    out[row, column + j] = vectors[source + j]


@kernel()
def lay_short_side_by_side(
    bits: UInt32Array,
    begins: Int64Array,
    dims: Int64Array,
    columns: Int64Array,
    context: Int64Array,
    index: Int64Array,
    out: UInt16Array,
) -> None:
    """Do the same in bfloat16, rounded to the nearest, of two to the even one, as torch does.

    Args:
        bits: Those of the numbers.
        begins: As there, and so are `dims`, `columns`, `context` and `index`.
        out: (B, W), the bits of bfloat16, overwritten there.
    """
    rows = out.shape[0]
    for first in range(0, rows, _BLOCK):
        end = min(first + _BLOCK, rows)
        for place in range(begins.size):
            begin, dim, column = np.uint64(begins[place]), np.uint64(dims[place]), np.uint64(columns[place])
            for row in range(first, end):
                source = begin + np.uint64(index[row] if context[place] else row) * dim
                for j in range(dim):
                    number = bits[source + j]
                    odd = (number >> np.uint32(16)) & np.uint32(1)
                    rounded = (number + np.uint32(0x7FFF) + odd) >> np.uint32(16)
                    is_nan = (number & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
                    out[row, column + j] = np.uint16(0xFFFF) if is_nan else np.uint16(rounded)
