"""Columns: the raw values of one feature for several rows, as a client sends them and a training loop holds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ps.errors import InvalidInput


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of different length, end to end.

    `Ragged(values=[1, 2, 7], offsets=[0, 2, 2, 3])` holds the rows [1, 2], [] and [7].
    """

    values: NDArray[Any]
    """(N,): integers, floats, or strings (dtype object or `U`)."""
    offsets: NDArray[np.int64]
    """(B+1,): starts of rows; offsets[0] = 0, offsets[-1] = N, never decreasing."""
    weights: NDArray[np.float32] | None = None
    """(N,), optional: a weight per value."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values))
        object.__setattr__(self, "offsets", np.asarray(self.offsets, np.int64))
        if self.weights is not None:
            object.__setattr__(self, "weights", np.asarray(self.weights, np.float32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[Any]], dtype: Any = None) -> Ragged:
        """Build from one list per row; `dtype` settles the type when all lists may be empty."""
        lists = list(rows)
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(row) for row in lists], out=offsets[1:])
        values = [value for row in lists for value in row]
        return cls(np.array(values, dtype=dtype if values or dtype is not None else np.int64), offsets)

    def check(self, feature: str) -> None:
        """Check that offsets, values and weights fit each other.

        Raises:
            InvalidInput: They do not; the message names `feature` and the rule.
        """
        offsets, n = self.offsets, len(self.values)
        if self.values.ndim != 1 or offsets.ndim != 1 or len(offsets) < 1:
            raise InvalidInput(f"feature {feature}: ragged values and offsets must be one-dimensional, with at least one offset")
        if offsets[0] != 0 or offsets[-1] != n or bool((offsets[1:] < offsets[:-1]).any()):
            raise InvalidInput(
                f"feature {feature}: offsets must start at 0, never decrease and end at the number of values, {n};"
                f" they start at {offsets[0]} and end at {offsets[-1]}"
            )
        if self.weights is not None and self.weights.shape != (n,):
            raise InvalidInput(f"feature {feature}: {self.weights.size} weights for {n} values; there must be one each")


Column = NDArray[Any] | Ragged
