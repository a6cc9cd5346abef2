"""Rows that are bytes of any length, several of them end to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class BytesRows:
    """N rows of bytes."""

    data: NDArray[np.uint8]
    """(total,): their bytes, end to end."""
    offsets: NDArray[np.int64]
    """(N+1,): starts of rows; the first is 0, the last the number of bytes."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        row = range(len(self))[row]  # of a list: negative ones count from the end, and others than are there raise
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        data = self.data.tobytes()
        return (data[begin:end] for begin, end in pairwise(self.offsets.tolist()))

    def at(self, places: NDArray[np.intp]) -> Self:
        """Return the rows at some places, in that order: a view where they lie one behind the other."""
        data, offsets = self.data, self.offsets
        if len(places) and (places[1:] - places[:-1] == 1).all():
            begin, end = int(offsets[places[0]]), int(offsets[places[-1] + 1])
            return type(self)(data[begin:end], offsets[places[0] : places[-1] + 2] - begin)
        whole = data.tobytes()
        begins, ends = offsets[:-1][places].tolist(), offsets[1:][places].tolist()
        return self.of([whole[begin:end] for begin, end in zip(begins, ends, strict=True)])

    @classmethod
    def of(cls, rows: Sequence[bytes]) -> Self:
        """Return these rows, end to end."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return cls(np.frombuffer(b"".join(rows), np.uint8), offsets)
