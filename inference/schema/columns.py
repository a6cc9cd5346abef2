"""Columns: the raw values of one feature for several rows, as a client sends them and a training loop holds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of different length, end to end.

    `Ragged(values=[1, 2, 7], offsets=[0, 2, 2, 3])` holds the rows [1, 2], [] and [7].
    """

    values: NDArray[Any]
    """Values (N,): integers, floats, or strings (dtype object or `U`)."""
    offsets: NDArray[np.int64]
    """Starts of rows (B+1,): offsets[0] = 0, offsets[-1] = N, never decreasing."""
    weights: NDArray[np.float32] | None = None
    """Weights (N,), optional: one per value."""

    _fits: bool = field(init=False, default=False, repr=False)
    """Whether it is known to pass `check`, which then has nothing to do."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values))
        object.__setattr__(self, "offsets", np.asarray(self.offsets, np.int64))
        if self.weights is not None:
            object.__setattr__(self, "weights", np.asarray(self.weights, np.float32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def known_to_fit(
        cls, values: NDArray[Any], offsets: NDArray[np.int64], weights: NDArray[np.float32] | None
    ) -> Ragged:
        """Return rows whose arrays are of the right types and were checked before, by a kernel."""
        ragged = object.__new__(cls)
        for name, value in (("values", values), ("offsets", offsets), ("weights", weights), ("_fits", True)):
            object.__setattr__(ragged, name, value)
        return ragged

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
        if self._fits:
            return
        offsets, n = self.offsets, len(self.values)
        if self.values.ndim != 1 or offsets.ndim != 1 or len(offsets) < 1:
            raise InvalidInput(
                f"feature {feature}: ragged values and offsets must be one-dimensional, offsets not empty"
            )
        # Neighbours are compared, not subtracted: differences of hostile offsets can wrap around to look right.
        if offsets[0] != 0 or offsets[-1] != n or bool((offsets[1:] < offsets[:-1]).any()):
            raise bad_offsets(feature, offsets, n)
        if self.weights is not None and self.weights.shape != (n,):
            raise InvalidInput(f"feature {feature}: {self.weights.size} weights for {n} values; there must be one each")


Column = NDArray[Any] | Ragged
"""A column: (B,), one value per row; (B, w), w values per row; or `Ragged`, any number per row."""


def no_rows() -> InvalidInput:
    """Return the error of a request, or a batch of training, without rows."""
    return InvalidInput("there are no rows: send at least one")


def other_rows(feature: str, has: int, rows: int) -> InvalidInput:
    """Return the error of a column that has not as many rows as the rest."""
    return InvalidInput(f"feature {feature}: has {has} rows; the others, or the request, have {rows}")


def not_one_row(feature: str, has: int) -> InvalidInput:
    """Return the error of a context column that has not one row."""
    return InvalidInput(
        f"feature {feature}: has {has} rows; a context feature has one, which stands for all candidates"
        " (a list of values is one row as [[1, 2, 3]])"
    )


def bad_offsets(feature: str, offsets: NDArray[np.int64], values: int) -> InvalidInput:
    """Return the error of offsets that are no starts of rows of so many values."""
    return InvalidInput(
        f"feature {feature}: offsets must start at 0, never decrease and end at the number of values, {values};"
        f" they start at {offsets[0]} and end at {offsets[-1]}"
    )


def as_column(feature: str, values: object) -> Column:
    """Return plain Python values as a column: a scalar is one row, a list one entry per row, a list of lists is ragged.

    Arrays and `Ragged` are returned as they are.

    Raises:
        InvalidInput: The values are of mixed or unsuitable types, or nested too deep; the message names `feature`.
    """
    if isinstance(values, Ragged):
        return values
    if isinstance(values, str | bytes | int | float) or np.isscalar(values):
        values = [values]
    if isinstance(values, list | tuple):
        values = [row.item() if isinstance(row, np.ndarray) and row.ndim == 0 else row for row in values]
        nested = sum(isinstance(row, list | tuple | np.ndarray) for row in values)
        if not nested:
            return _array(feature, values)
        if nested < len(values):
            raise InvalidInput(f"feature {feature}: either every row is a list of values, or none is")
        offsets = np.zeros(len(values) + 1, np.int64)
        np.cumsum([len(row) for row in values], out=offsets[1:])
        return Ragged(_array(feature, [value for row in values for value in row]), offsets)
    array = np.asarray(values)
    if array.ndim == 0 and array.dtype.kind == "O":
        raise InvalidInput(f"feature {feature}: {type(values).__name__} is no value; give a number, a string or a list")
    if array.ndim not in (0, 1, 2):
        raise InvalidInput(f"feature {feature}: an array of {array.ndim} dimensions; give one or two")
    return array.reshape(1) if array.ndim == 0 else array


def _array(feature: str, values: Sequence[Any]) -> NDArray[Any]:
    """Return a flat list as an array. numpy alone would turn [1, "a"] into strings and large integers into floats."""
    if not values:
        return np.empty(0, np.int64)
    kinds = {type(value) for value in values}
    if all(issubclass(kind, str) for kind in kinds):
        return np.array(values, object)
    if not all(issubclass(kind, int | float | np.number | np.bool_) for kind in kinds):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InvalidInput(f"feature {feature}: values of type {names}; give all numbers or all strings")
    array = np.array(values)
    whole = all(issubclass(kind, int | np.integer | np.bool_) for kind in kinds)
    if array.dtype.kind == "O" or (whole and array.dtype.kind == "f"):
        raise InvalidInput(f"feature {feature}: its integers fit neither int64 nor uint64")
    return array
