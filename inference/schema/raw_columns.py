"""Reading the raw column of one feature: its shape, the type of its values, missing values, and its length.

The steps, in this order: bring rows to flat values with offsets (or a matrix, when dense); convert to the feature's
type, never changing a value; put the missing rule's value where a value is missing; refuse empty rows of what is never
empty; keep the last values of rows that are too long. What the schema does not allow is an `InvalidInput` that names
the feature.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.schema.columns import Column, Ragged, other_rows
from ringpull.inference.schema.kinds import Dense, IdSequence, SentFeature, Sparse
from ringpull.inference.schema.transforms import ValueType
from ringpull.ps.errors import InvalidInput

Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]


class RawValues(NamedTuple):
    """The values of one feature in its own type, before its transforms."""

    values: NDArray[Any]
    """Values (B,), ragged (N,), or dense (B, width)."""
    offsets: Int64Array | None
    weights: Float32Array | None
    filled: Int64Array | None
    """Values of each row (B,) that stand in for missing ones; None: none of any."""


def read_column(name: str, feature: SentFeature, column: Column, rows: int) -> RawValues:
    """Return the values of a column of `rows` rows.

    Raises:
        InvalidInput: The column has another shape, type or number of rows, its offsets or weights do not fit, or a
            number is missing and the schema has no rule for it, or a row is empty that may not be.
    """
    values, offsets, weights = _shaped(name, feature, column, rows)
    value_type: ValueType = "float32" if isinstance(feature, Dense) else feature.dtype
    values = _typed(name, value_type, values)
    read = _fill(name, feature, value_type, values, offsets, weights)
    if read.offsets is None:
        return read
    if not isinstance(feature, Dense) and feature.never_empty:
        _refuse_empty(name, read.offsets)
    return _keep_last(feature, read, read.offsets)


# -- shape -------------------------------------------------------------------------------------------------------------

_Flat = tuple[NDArray[Any], Int64Array | None, Float32Array | None]


def _shaped(name: str, feature: SentFeature, column: Column, rows: int) -> _Flat:
    """Bring a column to the shape of its kind: flat values with offsets when ragged, (B, width) when dense.

    Rows of equal length may come either way, ragged or as a two-dimensional array: a client need not know the schema.
    """
    if len(column) != rows:
        raise other_rows(name, len(column), rows)
    if isinstance(feature, Dense):
        return _shaped_dense(name, feature, column, rows), None, None
    if isinstance(feature, Sparse) and not feature.many:
        if isinstance(column, Ragged) or column.ndim != 1:
            raise InvalidInput(f"feature {name}: takes one value per row, not a list per row")
        return column, None, None
    if isinstance(column, Ragged):
        column.check(name)
    elif column.ndim == 2:
        column = Ragged(column.reshape(-1), np.arange(rows + 1) * column.shape[1])
    else:
        raise InvalidInput(f"feature {name}: takes a list per row, not one value: send offsets with the values")
    weighted = isinstance(feature, Sparse) and feature.weighted
    if weighted and column.weights is None:
        if len(column.values):
            raise InvalidInput(f"feature {name}: needs a weight for every value")
        return column.values, column.offsets, np.empty(0, np.float32)
    if not weighted and column.weights is not None:
        raise InvalidInput(f"feature {name}: takes no weights")
    if column.weights is not None and not np.isfinite(column.weights).all():
        raise InvalidInput(f"feature {name}: a weight is NaN or infinite")
    return column.values, column.offsets, column.weights


def _shaped_dense(name: str, feature: Dense, column: Column, rows: int) -> NDArray[Any]:
    width = feature.width
    if isinstance(column, Ragged):
        column.check(name)
        if column.weights is not None:
            raise InvalidInput(f"feature {name}: takes no weights")
        if (np.diff(column.offsets) != width).any():
            raise InvalidInput(f"feature {name}: takes {width} numbers per row; some rows have more or fewer")
        return column.values.reshape(rows, width)
    if column.shape == (rows, width):
        return column
    if width == 1 and column.ndim == 1:
        return column.reshape(rows, 1)
    raise InvalidInput(
        f"feature {name}: its shape is {column.shape}; it takes {width} numbers per row, ({rows}, {width})"
    )


# -- type --------------------------------------------------------------------------------------------------------------

_NUMPY_TYPES: Final[dict[ValueType, Any]] = {
    "int64": np.int64,
    "uint64": np.uint64,
    "float32": np.float32,
    "string": object,
}
_INT64, _UINT64, _FLOAT32 = np.dtype(np.int64), np.dtype(np.uint64), np.dtype(np.float32)


def _typed(name: str, value_type: ValueType, values: NDArray[Any]) -> NDArray[Any]:
    """Return the values in the feature's own type. A conversion that could change a value is an error."""
    kind = values.dtype.kind
    if values.size == 0:
        return values.astype(_NUMPY_TYPES[value_type])
    if value_type == "int64" and kind in "iub":
        if values.dtype == _UINT64 and values.max() > np.uint64(2**63 - 1):
            raise InvalidInput(f"feature {name}: {values.max()} is over the largest int64; it takes int64 values")
        return values if values.dtype == _INT64 else values.astype(np.int64)
    if value_type == "uint64" and kind in "iub":
        if kind == "i" and values.min() < 0:
            raise InvalidInput(f"feature {name}: {values.min()} is negative; it takes uint64 values")
        return values if values.dtype == _UINT64 else values.astype(np.uint64)
    if value_type == "float32" and kind in "fiub":
        if values.dtype == _FLOAT32:
            return values
        with np.errstate(over="ignore"):  # too large becomes infinite, which `_fill` refuses
            return values.astype(np.float32)
    if value_type == "string" and (kind == "U" or (kind == "O" and set(map(type, values.tolist())) == {str})):
        return values
    raise InvalidInput(f"feature {name}: takes {value_type} values, not {_described(values)}")


def _described(values: NDArray[Any]) -> str:
    names = {"i": "integers", "u": "unsigned integers", "f": "floats", "U": "strings", "b": "booleans"}
    if values.dtype.kind == "O":
        types = sorted({type(each).__name__ for each in values.ravel().tolist()})
        return "strings" if types == ["str"] else f"objects of type {', '.join(types)}"
    return names.get(values.dtype.kind, str(values.dtype))


# -- missing values ----------------------------------------------------------------------------------------------------


def _fill(
    name: str,
    feature: SentFeature,
    value_type: ValueType,
    values: NDArray[Any],
    offsets: Int64Array | None,
    weights: Float32Array | None,
) -> RawValues:
    """Put the missing rule's value for NaN, empty strings and empty rows."""
    missing = feature.missing
    filled: Int64Array | None = None
    has_value = missing is not None and missing != ()
    if value_type == "float32" and not np.isfinite(values).all():
        nan = np.isnan(values)
        if np.isinf(values).any():
            raise InvalidInput(f"feature {name}: holds an infinite number, or one too large for float32")
        if not isinstance(missing, int | float):
            raise InvalidInput(f"feature {name}: holds NaN, and the schema has no missing value for it")
        values, filled = np.where(nan, np.float32(missing), values), _per_row(nan, offsets)
    elif value_type == "string" and has_value:
        empty = values == ""
        if empty.any():
            values, filled = np.where(empty, np.array(missing, object), values.astype(object)), _per_row(empty, offsets)
    if offsets is not None and has_value:
        empty = offsets[1:] == offsets[:-1]
        if empty.any():
            places = offsets[:-1][empty]
            value = np.array(missing, _NUMPY_TYPES[value_type])
            values = np.insert(values.astype(value.dtype), places, value)
            if weights is not None:
                weights = np.insert(weights, places, np.float32(1))
            offsets = offsets_of(np.maximum(np.diff(offsets), 1))
            filled = empty.astype(np.int64) if filled is None else filled + empty
    return RawValues(values, offsets, weights, filled)


def _per_row(chosen: NDArray[np.bool_], offsets: Int64Array | None) -> Int64Array:
    """Return how many values of each row (B,) are chosen."""
    if offsets is not None:
        return np.diff(offsets_of(chosen)[offsets])
    counts: Int64Array = chosen.reshape(len(chosen), -1).sum(axis=1, dtype=np.int64)
    return counts


def _refuse_empty(name: str, offsets: Int64Array) -> None:
    empty = offsets[1:] == offsets[:-1]
    if empty.any():
        raise InvalidInput(
            f"feature {name}: row {int(empty.argmax())} has no values; the feature is declared never_empty, so send at"
            " least one"
        )


# -- length ------------------------------------------------------------------------------------------------------------


def _keep_last(feature: SentFeature, read: RawValues, offsets: Int64Array) -> RawValues:
    """Drop all but the last `length` or `max_length` values of each row."""
    most = feature.max_length if isinstance(feature, Sparse) else None
    if isinstance(feature, IdSequence):
        most = feature.length
    if most is None:
        return read
    kept = last_values(offsets, most)
    if kept is None:
        return read
    index, shorter = kept
    weights = None if read.weights is None else read.weights[index]
    return RawValues(read.values[index], shorter, weights, read.filled)


def last_values(offsets: Int64Array, most: int) -> tuple[Int64Array, Int64Array] | None:
    """Return the places of the last `most` values of every row, and the rows' offsets then; None when all stay.

    Args:
        offsets: (B+1,): starts of rows, at least one.
    """
    if offsets[-1] <= most:
        return None
    lengths = np.diff(offsets)
    if lengths.max() <= most:
        return None
    kept = np.minimum(lengths, most)
    shorter = offsets_of(kept)
    return np.arange(shorter[-1]) + np.repeat(offsets[1:] - shorter[1:], kept), shorter


def offsets_of(lengths: NDArray[Any]) -> Int64Array:
    """Return the offsets (B+1,) of rows of these lengths (B,)."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


# -- absent ------------------------------------------------------------------------------------------------------------


def stand_in(name: str, feature: SentFeature, rows: int) -> Column:
    """Return the column that stands for an absent one.

    Raises:
        InvalidInput: The feature has no missing rule.
    """
    missing = feature.missing
    if missing is None:
        raise InvalidInput(f"feature {name}: absent, and the schema has no missing rule for it")
    if isinstance(feature, Dense):
        return np.full((rows, feature.width), missing, np.float32)
    if missing == ():
        return Ragged(np.empty(0, np.int64), np.zeros(rows + 1, np.int64))
    values = np.full(rows, missing, _NUMPY_TYPES[feature.dtype])
    if isinstance(feature, Sparse) and not feature.many:
        return values
    weights = np.ones(rows, np.float32) if isinstance(feature, Sparse) and feature.weighted else None
    return Ragged(values, np.arange(rows + 1), weights)
