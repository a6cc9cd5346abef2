"""Columns as the bytes that every protocol of ours carries, and back: the only place that knows how values are written.

Numbers are little-endian, as in numpy on every platform this runs on. Strings stay bytes until their values are asked
for, so that what is refused costs nothing. Protobuf's form of a column is in `ringpull.inference.wire.messages`.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.schema.columns import Column, Ragged, no_text_in_row
from ringpull.ps.errors import InvalidInput, NoText
from ringpull.ps.hashing import are_utf8, no_text


class DataType(IntEnum):
    """Type of a column's values. The numbers are those of `DataType` in `ringpull.proto`."""

    INT64 = 1
    UINT64 = 2
    FLOAT32 = 3
    STRING = 4


NUMBERS: Final[dict[int, np.dtype[Any]]] = {
    DataType.INT64: np.dtype("<i8"),
    DataType.UINT64: np.dtype("<u8"),
    DataType.FLOAT32: np.dtype("<f4"),
}
"""Numpy type of each type of number; STRING is the only other type there is."""
OFFSETS: Final = np.dtype("<i8")
WEIGHTS: Final = np.dtype("<f4")
LENGTHS: Final = np.dtype("<u4")


class ColumnBytes(NamedTuple):
    """A column as bytes whose sizes fit each other; the numbers of its offsets have not been checked."""

    dtype: int
    """A `DataType`."""
    values: int
    """Number of values."""
    data: bytes
    """Values; strings as UTF-8 end to end."""
    lengths: bytes = b""
    """Byte lengths of strings, uint32 each; empty for numbers."""
    offsets: bytes | None = None
    """Starts of rows of a ragged column, int64 each."""
    weights: bytes | None = None
    """Weights of a ragged column, optional: float32, one per value."""
    width: int = 0
    """Values per row of a column that is not ragged; 0 means one."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        if self.offsets is not None:
            return len(self.offsets) // OFFSETS.itemsize - 1
        return self.values // (self.width or 1)


def encode_column(feature: str, column: Column) -> ColumnBytes:
    """Return a column as bytes.

    Raises:
        InvalidInput: Its values are of a type that the contract does not carry, or it is not shaped like a column.
    """
    if isinstance(column, Ragged):
        column.check(feature)
        weights = None if column.weights is None else column.weights.astype(WEIGHTS, copy=False).tobytes()
        try:
            encoded = _encode_values(feature, column.values)
        except NoText as exc:
            raise no_text_in_row(feature, exc, column.offsets) from exc
        return encoded._replace(offsets=column.offsets.astype(OFFSETS, copy=False).tobytes(), weights=weights)
    if column.ndim not in (1, 2) or (column.ndim == 2 and column.shape[1] == 0):
        raise InvalidInput(
            f"feature {feature}: an array of shape {column.shape}; a column is (B,) or (B, w), w at least 1"
        )
    try:
        encoded = _encode_values(feature, column.ravel())
    except NoText as exc:
        raise no_text_in_row(feature, exc, None, 1 if column.ndim == 1 else column.shape[1]) from exc
    return encoded if column.ndim == 1 else encoded._replace(width=column.shape[1])


def _encode_values(feature: str, values: NDArray[Any]) -> ColumnBytes:
    kind = values.dtype.kind
    if kind == "u" and values.dtype.itemsize == 8:
        return column_of_numbers(DataType.UINT64, values)
    if kind in "iub":
        return column_of_numbers(DataType.INT64, values)
    if kind == "f":
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite: the server refuses it by name
            return column_of_numbers(DataType.FLOAT32, values)
    texts = values.tolist()
    if kind not in "UO" or not all(issubclass(each, str) for each in set(map(type, texts))):
        raise InvalidInput(f"feature {feature}: values of numpy type {values.dtype}; give integers, floats or strings")
    return column_of_texts(feature, texts)


def column_of_numbers(dtype: int, values: NDArray[Any]) -> ColumnBytes:
    """Return numbers (N,) as a flat column of a type that they convert to."""
    return ColumnBytes(dtype, values.size, values.astype(NUMBERS[dtype], copy=False).tobytes())


def column_of_texts(feature: str, texts: list[str], first: int = 0) -> ColumnBytes:
    """Return strings as a flat column.

    Args:
        first: Number of the first value, for errors.

    Raises:
        NoText: One cannot be written as UTF-8; the message names `feature` and the value.
    """
    try:
        data = "".join(texts).encode()
    except UnicodeEncodeError as exc:
        error = no_text(feature, texts)
        place, why = first + error.place, f"a string cannot be written as UTF-8: {error.why}"
        raise NoText(f"feature {feature}: value {place}: {why}", place=place, why=why) from exc
    # In ASCII, a string has as many bytes as characters: no need to encode each.
    lengths = [len(text) for text in texts]
    if len(data) != sum(lengths):
        lengths = [len(text.encode()) for text in texts]
    return ColumnBytes(DataType.STRING, len(texts), data, np.array(lengths, LENGTHS).tobytes())


def check_shape(feature: str, *, ragged: bool, weighted: bool, width: int) -> None:
    """Check what a column says of its shape.

    Raises:
        InvalidInput: It is ragged and has a width, or has weights and is not ragged.
    """
    if ragged and width:
        raise InvalidInput(f"feature {feature}: has both offsets and a width; ragged rows have no width")
    if weighted and not ragged:
        raise InvalidInput(f"feature {feature}: has weights without offsets")


def unknown_type(feature: str, field: str, dtype: int) -> InvalidInput:
    """Return the error of a `DataType` that is none."""
    return InvalidInput(f"feature {feature}: {field} is {dtype}; it must be INT64, UINT64, FLOAT32 or STRING")


def decode_column(feature: str, column: ColumnBytes) -> Column:
    """Return the column that these bytes are. Numbers are read-only views of them.

    Raises:
        InvalidInput: A string is not UTF-8; the message names `feature`.
    """
    values: NDArray[Any]
    if column.dtype == DataType.STRING:
        values = decode_strings(feature, column.data, np.frombuffer(column.lengths, LENGTHS))
    else:
        values = np.frombuffer(column.data, NUMBERS[column.dtype])
    if column.offsets is None:
        return values.reshape(-1, column.width) if column.width else values
    weights = None if column.weights is None else np.frombuffer(column.weights, WEIGHTS)
    return Ragged(values, np.frombuffer(column.offsets, OFFSETS), weights)


def decode_strings(feature: str, data: bytes, lengths: NDArray[np.uint32]) -> NDArray[Any]:
    """Return strings (N,), of dtype object, from their UTF-8 end to end and the bytes of each.

    Raises:
        NoText: One is not UTF-8; the message names `feature` and the value.
    """
    strings = np.empty(len(lengths), object)
    bounds = pairwise([0, *np.cumsum(lengths, dtype=np.int64).tolist()])
    try:
        text = data.decode()
        if len(text) == len(data):  # ASCII: cut the decoded text
            strings[:] = [text[begin:end] for begin, end in bounds]
        else:
            strings[:] = [data[begin:end].decode() for begin, end in bounds]
    except UnicodeDecodeError as exc:
        raise no_utf8(f"feature {feature}: value", data, lengths) from exc
    return strings


def check_utf8(what: str, data: bytes, lengths: NDArray[np.uint32]) -> None:
    """Check that strings, end to end, are UTF-8, each by itself.

    Raises:
        NoText: One is not; the message names `what` and its place.
    """
    if not are_utf8(data, lengths):
        raise no_utf8(what, data, lengths)


def no_utf8(what: str, data: bytes, lengths: NDArray[np.uint32]) -> NoText:
    """Return the error of the first of some strings end to end that is no UTF-8 by itself."""
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    for place, (begin, end) in enumerate(pairwise([0, *ends])):
        try:
            data[begin:end].decode()
        except UnicodeDecodeError as exc:
            why = f"a string is not UTF-8: {exc.reason}, at byte {exc.start} of {data[begin:end]!r:.80}"
            return NoText(f"{what} {place}: {why}", place=place, why=why)
    return NoText(f"{what}: a string is not UTF-8")
