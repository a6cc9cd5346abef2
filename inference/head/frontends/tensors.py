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

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.request.received import Limits, ReceivedColumns, check_count
from ringpull.inference.schema.kinds import Dense, Feature, IdSequence, MadeFeature, SentFeature
from ringpull.inference.wire.column_codec import LENGTHS, NUMBERS, ColumnBytes, DataType, column_of_texts
from ringpull.inference.wire.column_codec import OFFSETS as STARTS
from ringpull.inference.wire.column_codec import WEIGHTS as FACTORS
from ringpull.inference.wire.packing import pack
from ringpull.ps.errors import InvalidInput, LimitExceeded

OFFSETS: Final = "_offsets"
WEIGHTS: Final = "_weights"

CHUNK: Final = 16_384
"""Values that are worked on by one call of C: some 1 ms, in which it holds the interpreter's lock. What is worked on in
a thread holds up no other request for longer."""
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
    known = {each.name: each for each in features if not isinstance(each, MadeFeature)}
    # What is a feature by itself is no other's offsets or weights.
    parts = {name: values for name, values in tensors.items() if name not in known}
    for name in parts:
        owner = owner_of(name, known)
        if owner is None or owner not in tensors:
            raise unknown_input(name, owner, known)
    columns: dict[str, ColumnBytes] = {}
    counts: dict[str, int] = {}
    for name, values in tensors.items():
        feature = known.get(name)
        if feature is not None:
            if not values.size and values.ndim and len(values) > limits.max_candidates:
                # Rows of nothing take nothing in a message, and their offsets would take 8 bytes each.
                raise LimitExceeded(f"input {name}: has {len(values)} rows; max_candidates is {limits.max_candidates}")
            columns[name] = column = _column(feature, values, parts, known)
            counts[name] = column.rows
    rows = max(counts.values(), default=0)
    context = {name: columns[name] for name, count in counts.items() if count == 1 < rows}
    own = {name: column for name, column in columns.items() if name not in context}
    return ReceivedColumns.of(pack(own, context), limits)


def has_many(feature: SentFeature) -> bool:
    """Whether a feature has a bag of values a row."""
    return isinstance(feature, IdSequence) or (not isinstance(feature, Dense) and feature.many)


def check_sizes(shapes: Mapping[str, tuple[int, ...]], features: Iterable[Feature], limits: Limits) -> None:
    """Check the rows of tensors, and the values of a row, by their shapes alone: before anything is done for a value.

    Raises:
        InvalidInput: A name is unknown; the message says which are known.
        LimitExceeded: One has more than `limits` whatever its values are; the message names it.
    """
    known = {each.name: each for each in features if not isinstance(each, MadeFeature)}
    for name, shape in shapes.items():
        feature, owner = known.get(name), name if name in known else owner_of(name, known)
        if owner is None or owner not in shapes:
            raise unknown_input(name, owner, known)
        offsets = shapes.get(owner + OFFSETS, ()) if owner + OFFSETS not in known else ()
        if isinstance(feature, Dense) and shape == (feature.width,):
            continue
        if offsets:
            rows = offsets[0] - 1
            # On average: one row has as many at least.
            values = 1 if name == owner + OFFSETS else -(-math.prod(shape) // max(rows, 1))
        else:
            rows, values = shape[0] if shape else 1, math.prod(shape[1:])
        if rows > limits.max_candidates:
            raise LimitExceeded(f"input {name}: has {rows} rows; max_candidates is {limits.max_candidates}")
        if values > limits.max_values_per_row:
            raise LimitExceeded(
                f"input {name}: a row has {values} values; max_values_per_row is {limits.max_values_per_row}"
            )


def owner_of(name: str, known: Mapping[str, SentFeature]) -> str | None:
    """Return the feature that a tensor is the offsets or weights of; None: of none.

    What is a feature by itself is no other's.
    """
    if name not in known:
        for suffix in (OFFSETS, WEIGHTS):
            if name.endswith(suffix) and name.removesuffix(suffix) in known:
                return name.removesuffix(suffix)
    return None


def unknown_input(name: str, owner: str | None, known: Mapping[str, SentFeature]) -> InvalidInput:
    """Return the error of a tensor that is no feature's, or belongs to one that is absent."""
    if owner is not None:
        return InvalidInput(f"input {name}: goes with {owner}, which is not there")
    return InvalidInput(f"input {name}: the model has no such feature; it has {', '.join(known)}")


def _column(
    feature: SentFeature,
    values: NDArray[Any],
    parts: Mapping[str, NDArray[Any]],
    known: Mapping[str, SentFeature],
) -> ColumnBytes:
    """Return a feature's tensor, with its offsets and weights where those are among `parts`, as a column."""
    name, shape = feature.name, values.shape
    many = has_many(feature)
    if parts:
        offsets, weights = parts.get(name + OFFSETS), parts.get(name + WEIGHTS)
        if offsets is not None or weights is not None:
            if not many:
                part = WEIGHTS if offsets is None else OFFSETS
                raise InvalidInput(f"input {name}{part}: feature {name} has one value a row")
            return _bags(name, values, offsets, weights)
    wanted = feature.width if isinstance(feature, Dense) else 1
    if len(shape) == 2:
        width = shape[1]
        if many:
            return _values(name, values, width) if width else _empty_bags(name, values)
        if width == wanted:
            return _values(name, values, 0 if width == 1 else width)
    elif len(shape) < 2:
        if many:
            if name + OFFSETS in known:
                # Whoever means values end to end sends what would be read as that other feature.
                raise InvalidInput(
                    f"input {name}: its shape is {shape}; it takes B bags of w values (B, w), as the model has a"
                    f" feature {name}{OFFSETS}"
                )
            return _values(name, values, 1)
        if wanted == 1:
            return _values(name, values, 0)
        if shape == (wanted,):
            return _values(name, values, wanted)
    raise InvalidInput(f"input {name}: its shape is {shape}; it takes {_wanted(feature)}")


def _empty_bags(name: str, values: NDArray[Any]) -> ColumnBytes:
    return _values(name, values)._replace(offsets=bytes((len(values) + 1) * STARTS.itemsize))


def _wanted(feature: SentFeature) -> str:
    """Return the shapes that a feature takes, for people."""
    if has_many(feature):
        return f"B bags of w values (B, w), or their values end to end (N,) with {feature.name}{OFFSETS} (B+1,)"
    width = feature.width if isinstance(feature, Dense) else 1
    return "one value a row, (B,) or (B, 1)" if width == 1 else f"{width} values a row, (B, {width})"


def _bags(name: str, values: NDArray[Any], offsets: NDArray[Any] | None, weights: NDArray[Any] | None) -> ColumnBytes:
    """Return bags of any length, or, without offsets, weighted bags of one length."""
    if offsets is None:
        rows, width = (*values.shape, 1, 1)[:2]
        if weights is None or weights.shape != values.shape or values.ndim > 2:
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


def _values(name: str, values: NDArray[Any], width: int = 0) -> ColumnBytes:
    """Return the values of an array of any shape, end to end, in rows of `width`; 0 means one."""
    kind = values.dtype.kind
    if kind in "iub":
        dtype = DataType.UINT64 if kind == "u" and values.dtype.itemsize == 8 else DataType.INT64
        return ColumnBytes(dtype, values.size, values.astype(NUMBERS[dtype], copy=False).tobytes(), width=width)
    if kind == "f":
        with np.errstate(over="ignore"):  # Beyond float32 becomes infinite, which the schema refuses.
            numbers = values.astype(NUMBERS[DataType.FLOAT32], copy=False).tobytes()
        return ColumnBytes(DataType.FLOAT32, values.size, numbers, width=width)
    if kind not in "UO":
        raise _no_values(name, values)
    flat = values.ravel()
    if flat.size <= CHUNK:
        return _texts(name, flat)._replace(width=width)
    chunks = [_texts(name, flat[at : at + CHUNK], at) for at in range(0, flat.size, CHUNK)]
    return chunks[0]._replace(
        values=flat.size,
        data=b"".join([each.data for each in chunks]),
        lengths=b"".join([each.lengths for each in chunks]),
        width=width,
    )


def _texts(name: str, values: NDArray[Any], first: int = 0) -> ColumnBytes:
    """Return strings (N,) as a column, of which the first has the number `first`."""
    texts = values.tolist()
    kinds = set(map(type, texts))
    if kinds == {bytes}:
        return column_of_utf8(name, texts)
    if not kinds <= {str}:
        raise _no_values(name, values)
    return column_of_texts(name, texts, first)


def _no_values(name: str, values: NDArray[Any]) -> InvalidInput:
    return InvalidInput(f"input {name}: values of numpy type {values.dtype}; it takes numbers or strings")


def column_of_utf8(name: str, texts: list[bytes], width: int = 0) -> ColumnBytes:
    """Return strings as a column; that they are UTF-8 is seen when they are read.

    Raises:
        InvalidInput: One is longer than 4 GiB.
    """
    lengths = [len(text) for text in texts]
    if max(lengths, default=0) > MAX_LENGTH:
        raise InvalidInput(f"input {name}: a string is longer than {MAX_LENGTH} bytes")
    return ColumnBytes(DataType.STRING, len(texts), b"".join(texts), np.array(lengths, LENGTHS).tobytes(), width=width)
