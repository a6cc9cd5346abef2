"""Named tensors, as other systems' protocols send them, to the columns of a request.

A tensor is called like the feature it holds. Its first dimension is the row:

* (B,) or (B, 1): one value a row; of a feature with many values, bags of one.
* (B, w): w values a row; of a feature with many values, B bags of w, perhaps with `NAME_weights` (B, w).
* (N,) with `NAME_offsets` (B+1,): B bags of any length, perhaps with `NAME_weights` (N,).
* (): one value, which is one row; of a dense feature of width w also (w,).

A tensor of one row beside others of B rows is of the context: it stands for every row. One that repeats it B times is
taken as it is.

Values are brought to bytes and not looked at: whether they fit the feature's type and range is for the schema, which
never changes a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.request.received import Limits, ReceivedColumns, check_count
from ringpull.inference.schema.kinds import Cross, Dense, Feature, IdSequence, SentFeature
from ringpull.inference.wire.column_codec import LENGTHS, ColumnBytes, DataType, column_of_numbers, column_of_texts
from ringpull.inference.wire.column_codec import OFFSETS as STARTS
from ringpull.inference.wire.column_codec import WEIGHTS as FACTORS
from ringpull.inference.wire.packing import pack
from ringpull.ps.errors import InvalidInput

OFFSETS: Final = "_offsets"
WEIGHTS: Final = "_weights"

MAX_LENGTH: Final = 2**32 - 1
"""Longest string, in bytes: their lengths travel in 32 bits."""


def columns_of(tensors: Mapping[str, NDArray[Any]], features: Iterable[Feature], limits: Limits) -> ReceivedColumns:
    """Return tensors as the columns of one request, checked for size.

    Args:
        tensors: Name -> array of any shape and type of number or truth value; strings as `str`, or as UTF-8 in `bytes`,
            in arrays of objects.
        features: Features of the version that is asked for.

    Raises:
        InvalidInput: A name, a type or a shape does not fit; the message names the tensor.
        LimitExceeded: The request is larger than `limits`.
    """
    check_count(len(tensors), limits.max_columns)
    known = {each.name: each for each in features if not isinstance(each, Cross)}
    columns: dict[str, ColumnBytes] = {}
    for name, values in tensors.items():
        feature = known.get(name)
        if feature is not None:
            columns[name] = _column(feature, values, *_parts(name, tensors, known))
        elif (owner := _owner(name, known)) not in tensors:
            raise _unknown(name, owner, known)
    rows = max([column.rows for column in columns.values()], default=0)
    own: dict[str, ColumnBytes] = {}
    context: dict[str, ColumnBytes] = {}
    for name, column in columns.items():
        (context if column.rows == 1 < rows else own)[name] = column
    return ReceivedColumns.of(pack(own, context), limits)


def has_many(feature: SentFeature) -> bool:
    """Whether a feature has a bag of values a row."""
    return isinstance(feature, IdSequence) or (not isinstance(feature, Dense) and feature.many)


def _parts(
    name: str, tensors: Mapping[str, NDArray[Any]], known: Mapping[str, SentFeature]
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Return offsets and weights of a tensor, those that there are. What is a feature by itself is neither."""
    offsets, weights = name + OFFSETS, name + WEIGHTS
    return (
        None if offsets in known else tensors.get(offsets),
        None if weights in known else tensors.get(weights),
    )


def _owner(name: str, known: Mapping[str, SentFeature]) -> str:
    """Return the feature that a tensor is the offsets or weights of; empty: of none."""
    for suffix in (OFFSETS, WEIGHTS):
        if name.endswith(suffix) and name.removesuffix(suffix) in known:
            return name.removesuffix(suffix)
    return ""


def _unknown(name: str, owner: str, known: Mapping[str, SentFeature]) -> InvalidInput:
    if owner:
        return InvalidInput(f"input {name}: goes with {owner}, which is not there")
    return InvalidInput(f"input {name}: the model has no such feature; it has {', '.join(known)}")


def _column(
    feature: SentFeature, values: NDArray[Any], offsets: NDArray[Any] | None, weights: NDArray[Any] | None
) -> ColumnBytes:
    name = feature.name
    many = has_many(feature)
    if offsets is not None or weights is not None:
        if not many:
            part = WEIGHTS if offsets is None else OFFSETS
            raise InvalidInput(f"input {name}{part}: feature {name} has one value a row")
        return _bags(name, values, offsets, weights)
    shape = values.shape
    if len(shape) == 2:
        rows, width = shape
        if many and not width:
            return _values(name, values)._replace(offsets=bytes((rows + 1) * STARTS.itemsize))
        wide = many or (isinstance(feature, Dense) and feature.width > 1)
        if not (wide and width) and width != 1:
            raise InvalidInput(f"input {name}: its shape is {shape}; it takes {_wanted(feature)}")
        return _values(name, values)._replace(width=width if wide else 0)
    if len(shape) > 2:
        raise InvalidInput(f"input {name}: its shape is {shape}; it takes {_wanted(feature)}")
    column = _values(name, values)
    if many:
        return column._replace(width=1)
    if isinstance(feature, Dense) and feature.width > 1:
        if shape != (feature.width,):
            raise InvalidInput(f"input {name}: its shape is {shape}; it takes {_wanted(feature)}")
        return column._replace(width=feature.width)
    return column


def _wanted(feature: SentFeature) -> str:
    """Return the shapes that a feature takes, for people."""
    if has_many(feature):
        return f"B bags of w values (B, w), or their values end to end (N,) with {feature.name}{OFFSETS} (B+1,)"
    width = feature.width if isinstance(feature, Dense) else 1
    return "one value a row, (B,) or (B, 1)" if width == 1 else f"{width} values a row, (B, {width})"


def _bags(name: str, values: NDArray[Any], offsets: NDArray[Any] | None, weights: NDArray[Any] | None) -> ColumnBytes:
    """Return bags of any length, or, without offsets, weighted bags of one length."""
    if offsets is None:
        rows, width = (*values.shape, 1, 1)[:2] if values.ndim in (1, 2) else (0, 0)
        if weights is None or weights.shape != values.shape or not values.ndim or values.ndim > 2:
            raise InvalidInput(f"input {name}{WEIGHTS}: goes with {name}{OFFSETS}, or has its values' shape")
        starts = np.arange(rows + 1, dtype=STARTS) * width
    else:
        if values.ndim != 1:
            raise InvalidInput(f"input {name}: its shape is {values.shape}; beside {name}{OFFSETS} it takes (N,)")
        if offsets.ndim != 1 or not offsets.size or offsets.dtype.kind not in "iu":
            raise InvalidInput(
                f"input {name}{OFFSETS}: is {offsets.dtype.name} of shape {offsets.shape}; it takes integers"
                " (B+1,), the starts of B bags and the end of the last"
            )
        # What is beyond int64 becomes negative, which no offset is.
        starts = offsets.astype(STARTS, copy=False)
    column = _values(name, values)
    if weights is None:
        return column._replace(offsets=starts.tobytes())
    if weights.size != column.values or weights.dtype.kind not in "fiu":
        raise InvalidInput(
            f"input {name}{WEIGHTS}: is {weights.dtype.name} of shape {weights.shape}; it takes a number for each"
            f" of {column.values} values"
        )
    with np.errstate(over="ignore"):  # Beyond float32 becomes infinite, which the schema refuses.
        numbers = weights.astype(FACTORS, copy=False).tobytes()
    return column._replace(offsets=starts.tobytes(), weights=numbers)


def _values(name: str, values: NDArray[Any]) -> ColumnBytes:
    """Return the values of an array of any shape, end to end."""
    kind = values.dtype.kind
    if kind == "u" and values.dtype.itemsize == 8:
        return column_of_numbers(DataType.UINT64, values)
    if kind in "iub":
        return column_of_numbers(DataType.INT64, values)
    if kind == "f":
        with np.errstate(over="ignore"):  # Beyond float32 becomes infinite, which the schema refuses.
            return column_of_numbers(DataType.FLOAT32, values)
    texts = values.ravel().tolist()
    kinds = set(map(type, texts))
    if kind == "O" and kinds == {bytes}:
        return column_of_utf8(name, texts)
    if kind not in "UO" or not kinds <= {str}:
        raise InvalidInput(f"input {name}: values of numpy type {values.dtype}; it takes numbers or strings")
    return column_of_texts(name, texts)


def column_of_utf8(name: str, texts: list[bytes]) -> ColumnBytes:
    """Return strings as a flat column; that they are UTF-8 is seen when they are read.

    Raises:
        InvalidInput: One is longer than 4 GiB.
    """
    lengths = [len(text) for text in texts]
    if max(lengths, default=0) > MAX_LENGTH:
        raise InvalidInput(f"input {name}: a string is longer than {MAX_LENGTH} bytes")
    return ColumnBytes(DataType.STRING, len(texts), b"".join(texts), np.array(lengths, LENGTHS).tobytes())
