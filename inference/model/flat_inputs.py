"""Flat inputs: the vectors of a batch's look-ups where a pull has put them, end to end, and no object for each input.

A program that takes them as they are (`takes_flat`) lays out columns of many look-ups by one kernel; to any other, they
are a list of `ProgramTensor`s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.input_kernels import lay_short_side_by_side, lay_side_by_side
from ringpull.ps.spec import Float32Array

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FlatInputs(Sequence[ProgramTensor]):
    """The I inputs of a dense program for one batch of B rows."""

    vectors: Float32Array
    """Vectors of all look-ups, flat."""
    begins: Int64Array
    """(I,): where those of each input begin; -1 of an input that is among `others`."""
    dims: Int64Array
    """(I,): numbers of each vector."""
    context: Int64Array
    """(I,): 1 where there is one vector per request, 0 where there is one per row."""
    requests: int
    """Number of requests."""
    row_index: Int64Array | None
    """(B,): the request of each row; None: each has one row."""
    rows: int
    """B."""
    others: Mapping[int, ProgramTensor]
    """Inputs that are not flat, by their places."""

    def __len__(self) -> int:
        return len(self.begins)

    @overload
    def __getitem__(self, place: int) -> ProgramTensor: ...

    @overload
    def __getitem__(self, place: slice) -> list[ProgramTensor]: ...

    def __getitem__(self, place: int | slice) -> ProgramTensor | list[ProgramTensor]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]  # those before the end, too
        begin, dim = int(self.begins[place]), int(self.dims[place])
        if begin < 0:
            return self.others[place]
        rows, index = (self.requests, self.row_index) if self.context[place] else (self.rows, None)
        return ProgramTensor(self.vectors[begin : begin + rows * dim].reshape(rows, dim), index)

    def __iter__(self) -> Iterator[ProgramTensor]:
        return (self[place] for place in range(len(self)))

    def side_by_side(
        self, places: Int64Array, dims: Int64Array, columns: Int64Array | None = None, width: int | None = None
    ) -> Float32Array | None:
        """Return the vectors of some inputs, row by row: (B, width), new; None: some are not flat, or of another width.

        Args:
            places: (P,): the inputs.
            dims: (P,): numbers of the vectors of each, as they must be.
            columns: (P,): where those of each go in a row; None: one after the other.
            width: Numbers of a row; between the vectors they are any. None: the sum of `dims`.

        Raises:
            ValueError: Vectors would lie outside of `vectors`, or of a row; the kernel does not look.
        """
        columns = np.cumsum(dims) - dims if columns is None else columns
        out = np.empty((self.rows, int(dims.sum()) if width is None else width), np.float32)
        return out if self._lay(places, dims, columns, out) else None

    def short_side_by_side(
        self, places: Int64Array, dims: Int64Array, columns: Int64Array, width: int
    ) -> NDArray[np.uint16] | None:
        """Return the same in bfloat16, its bits."""
        out = np.empty((self.rows, width), np.uint16)
        return out if self._lay(places, dims, columns, out) else None

    def _lay(self, places: Int64Array, dims: Int64Array, columns: Int64Array, out: NDArray[Any]) -> bool:
        begins = self.begins[places]
        if (begins < 0).any() or not np.array_equal(self.dims[places], dims):
            return False
        context = self.context[places]
        index = np.arange(self.rows) if self.row_index is None else self.row_index
        ends = begins + np.where(context, self.requests, self.rows) * dims
        if ends.max(initial=0) > self.vectors.size:
            raise ValueError(f"vectors of inputs end at {ends.max()}; there are {self.vectors.size} numbers")
        if len(index) != self.rows or index.min(initial=0) < 0 or index.max(initial=0) >= self.requests:
            raise ValueError(f"rows of {self.requests} requests: {self.rows}, of which {len(index)} say theirs")
        width = out.shape[1]
        if columns.min(initial=0) < 0 or (columns + dims).max(initial=0) > width:
            raise ValueError(f"vectors of inputs end at {(columns + dims).max()} of rows of {width} numbers")
        if out.dtype == np.float32:
            lay_side_by_side(self.vectors, begins, dims, columns, context, index, out)
        else:
            lay_short_side_by_side(self.vectors.view(np.uint32), begins, dims, columns, context, index, out)
        return True
