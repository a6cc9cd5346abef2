"""Columns: the raw values of one feature for several rows, as a client sends them and a training loop holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.schema.plain_values import array_of_list, as_array, flat_array, says_array
from ringpull.ps.errors import InvalidInput, NoText


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of different length, end to end.

    `Ragged(values=[1, 2, 7], offsets=[0, 2, 2, 3])` holds the rows [1, 2], [] and [7].
    """

    values: NDArray[Any]
    """Values (N,): integers, floats, or strings (dtype object or `U`); or a list of them, which becomes an array."""
    offsets: NDArray[np.int64]
    """Starts of rows (B+1,): offsets[0] = 0, offsets[-1] = N, never decreasing."""
    weights: NDArray[np.float32] | None = None
    """Weights (N,), optional: one per value."""

    _fits: bool = field(init=False, default=False, repr=False)
    """Whether it is known to pass `check`, which then has nothing to do."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _flat_values(self.values))
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
        """Build from one list per row; `dtype` settles the type when all lists may be empty.

        Raises:
            InvalidInput: The values are of mixed types, or integers that the type does not hold.
        """
        lists = list(rows)
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(row) for row in lists], out=offsets[1:])
        values = [value for row in lists for value in row]
        try:
            return cls(array_of_list("ragged values", values) if dtype is None else np.array(values, dtype), offsets)
        except OverflowError as exc:
            raise InvalidInput(f"ragged values: some are not {np.dtype(dtype)}: {exc}") from exc

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


def no_text_in_row(feature: str, error: NoText, offsets: NDArray[np.int64] | None, width: int = 1) -> NoText:
    """Return the error of a value that is no text, by its feature and row.

    Args:
        error: Error that says which value.
        offsets: Starts of rows (B+1,); None: each row has `width` values.
    """
    row = error.place // width if offsets is None else int(np.searchsorted(offsets, error.place, side="right")) - 1
    return NoText(f"feature {feature}: row {row}: {error.why}", place=error.place, why=error.why)


def as_column(feature: str, values: Any) -> Column:
    """Return plain values as a column: a scalar is one row, a list one entry per row, a list of lists is ragged.

    What says itself as an array, as columns and tensors of other libraries do, is that array. Arrays and `Ragged` are
    returned as they are, but for objects that are numbers or lists: those are taken like a list.

    Raises:
        InvalidInput: The values are of mixed or unsuitable types, or nested too deep; the message names `feature`.
    """
    if isinstance(values, Ragged):
        return values
    what = f"feature {feature}"
    if isinstance(values, str | bytes | int | float | np.generic):
        values = [values]
    if isinstance(values, Sequence) and not isinstance(values, memoryview) and not says_array(type(values)):
        values = list(values)
    if not isinstance(values, list):
        array = as_array(what, values)
        if array.ndim == 0 and array.dtype.kind == "O":
            raise InvalidInput(f"{what}: {type(values).__name__} is no value; give a number, a string or a list")
        if array.ndim not in (0, 1, 2):
            raise InvalidInput(f"{what}: an array of {array.ndim} dimensions; give one or two")
        if array.dtype.kind != "O" or array.ndim != 1 or not array.size or isinstance(array[0], str):
            array = flat_array(what, array)
            return array.reshape(1) if array.ndim == 0 else array
        values = list(array)
    return _column_of_list(what, values)


def as_columns(columns: Mapping[str, Any]) -> dict[str, Column]:
    """Return columns of plain values, by name; see `as_column`. A table of columns may be given as it is."""
    return {str(name): as_column(str(name), columns[name]) for name in columns}


def _flat_values(given: object) -> NDArray[Any]:
    if isinstance(given, list | tuple) and any(map(_holds_values, set(map(type, given)))):
        return np.asarray(given)  # not flat: `check` says so by the feature's name
    return flat_array("ragged values", given)


def _column_of_list(what: str, values: Sequence[Any]) -> Column:
    kinds = set(map(type, values))
    if not any(_holds_values(kind) for kind in kinds):
        return array_of_list(what, values)
    rows = [as_array(what, value) if says_array(type(value)) else value for value in values]
    rows = [row.item() if isinstance(row, np.ndarray) and row.ndim == 0 else row for row in rows]
    nested = sum(_holds_values(type(row)) for row in rows)
    if not nested:
        return array_of_list(what, rows)
    if nested < len(rows):
        raise InvalidInput(f"{what}: either every row is a list of values, or none is")
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    if all(isinstance(row, np.ndarray) and row.ndim == 1 for row in rows) and len({row.dtype for row in rows}) == 1:
        return Ragged(flat_array(what, np.concatenate(rows)), offsets)
    return Ragged(array_of_list(what, [value for row in rows for value in row]), offsets)


def _holds_values(kind: type) -> bool:
    return issubclass(kind, list | tuple | range) or says_array(kind)
