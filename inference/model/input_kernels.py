"""The kernel of a dense program's inputs: vectors of many look-ups, each end to end, become rows of all of them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.compiled import kernel
from ringpull.ps.spec import Float32Array

Int64Array = NDArray[np.int64]

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
