"""Finite rows: whether the rows of a push, as they are stored, have a NaN or an infinity in them.

Clients and heads refuse such rows before they encode them. What comes over a shard's port may be from anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.live.push_kernels import AT_ONCE, all_affine_finite, all_finite
from ringpull.ps.spec import RowType

EXPONENTS: Final[Mapping[RowType, np.unsignedinteger[Any]]] = MappingProxyType(
    {RowType.FLOAT32: np.uint32(0x7F80_0000), RowType.FLOAT16: np.uint16(0x7C00), RowType.BFLOAT16: np.uint16(0x7F80)}
)
"""Bits of a number, as a word of its size, that are all set in NaN and infinities alone."""
Word = TypeVar("Word", bound=np.generic)
_BYTES_AT_ONCE: Final = 4 * AT_ONCE
"""Bytes of rows that a kernel is given at a time, as many numbers of float32 as other kernels have positions."""


def first_not_finite(rows: NDArray[np.uint8], row_type: RowType) -> int | None:
    """Return the first row that has a number which is not finite, by its place among them; None: there is none.

    Args:
        rows: (n, row_bytes), contiguous.

    Raises:
        KeyError: The type is none of vectors.
    """
    at_once = max(1, _BYTES_AT_ONCE // rows.shape[1])
    for begin in range(0, len(rows), at_once):
        some = rows[begin : begin + at_once]
        if not _are_finite(some, row_type):
            return begin + _first_of(some, row_type)
    return None


def words_of(rows: NDArray[np.uint8], dtype: np.dtype[Word]) -> NDArray[Word]:
    """Return contiguous rows as words (n,), read-only, so that kernels are compiled for one kind of array."""
    words = rows.reshape(-1).view(dtype)
    words.flags.writeable = False
    return words


def _first_of(rows: NDArray[np.uint8], row_type: RowType) -> int:
    """Return the first row that has such a number, of rows of which one has, by halves."""
    begin, end = 0, len(rows)
    while end - begin > 1:
        middle = (begin + end) // 2
        if _are_finite(rows[begin:middle], row_type):
            begin = middle
        else:
            end = middle
    return begin


def _are_finite(rows: NDArray[np.uint8], row_type: RowType) -> bool:
    if row_type is RowType.INT8:
        affine = words_of(rows, np.dtype(np.float32))
        return bool(all_affine_finite(affine, rows.shape[1] // affine.itemsize))
    exponent = EXPONENTS[row_type]
    return bool(all_finite(words_of(rows, exponent.dtype), exponent))
