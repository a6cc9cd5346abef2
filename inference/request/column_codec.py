"""Columns and tensors as bytes of the public contract, and back: the only place that knows how each value is written.

Numbers are little-endian, as in numpy on every platform this runs on. Reading trusts nothing: sizes are checked against
each other before they are used. Strings stay bytes until their values are asked for: what is refused costs nothing.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.ps.errors import InvalidInput, ProtocolError

NUMBERS: Final[dict[int, np.dtype[Any]]] = {
    pb.INT64: np.dtype("<i8"),
    pb.UINT64: np.dtype("<u8"),
    pb.FLOAT32: np.dtype("<f4"),
}
"""The numpy type of each type of number; STRING is the only other type there is."""
OFFSETS: Final = np.dtype("<i8")
WEIGHTS: Final = np.dtype("<f4")
LENGTHS: Final = np.dtype("<u4")

_TYPED: Final[dict[str, int]] = {"int64s": pb.INT64, "uint64s": pb.UINT64, "floats": pb.FLOAT32}


class ColumnBytes(NamedTuple):
    """A column as bytes that fit each other, but for its offsets, whose numbers were not looked at."""

    dtype: int
    """INT64, UINT64, FLOAT32 or STRING."""
    values: int
    """How many."""
    data: bytes
    """The values; strings as UTF-8 end to end."""
    lengths: bytes = b""
    """Of strings, uint32 each."""
    offsets: bytes | None = None
    """Ragged columns: int64 each."""
    weights: bytes | None = None
    """Ragged columns, optional: float32, one per value."""
    width: int = 0
    """Values per row of a column that is not ragged; 0 means one."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        if self.offsets is not None:
            return len(self.offsets) // OFFSETS.itemsize - 1
        return self.values // (self.width or 1)


# -- columns out -------------------------------------------------------------------------------------------------------


def encode_column(feature: str, column: Column) -> ColumnBytes:
    """Return a column as bytes.

    Raises:
        InvalidInput: Its values are of a type that the contract does not carry, or it is not shaped like a column.
    """
    if isinstance(column, Ragged):
        column.check(feature)
        weights = None if column.weights is None else column.weights.astype(WEIGHTS, copy=False).tobytes()
        encoded = _encode_values(feature, column.values)
        return encoded._replace(offsets=column.offsets.astype(OFFSETS, copy=False).tobytes(), weights=weights)
    if column.ndim not in (1, 2) or (column.ndim == 2 and column.shape[1] == 0):
        raise InvalidInput(
            f"feature {feature}: an array of shape {column.shape}; a column is (B,) or (B, w), w at least 1"
        )
    encoded = _encode_values(feature, column.ravel())
    return encoded if column.ndim == 1 else encoded._replace(width=column.shape[1])


def _encode_values(feature: str, values: NDArray[Any]) -> ColumnBytes:
    kind = values.dtype.kind
    if kind == "u" and values.dtype.itemsize == 8:
        return _of_numbers(pb.UINT64, values)
    if kind in "iub":
        return _of_numbers(pb.INT64, values)
    if kind == "f":
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite: the server refuses it by name
            return _of_numbers(pb.FLOAT32, values)
    texts = values.tolist()
    if kind not in "UO" or not all(issubclass(each, str) for each in set(map(type, texts))):
        raise InvalidInput(f"feature {feature}: values of numpy type {values.dtype}; give integers, floats or strings")
    return _of_texts(feature, texts)


def _of_numbers(dtype: int, values: NDArray[Any]) -> ColumnBytes:
    return ColumnBytes(dtype, values.size, values.astype(NUMBERS[dtype], copy=False).tobytes())


def _of_texts(feature: str, texts: list[str]) -> ColumnBytes:
    try:
        data = "".join(texts).encode()
        # In ASCII, a string has as many bytes as characters: no need to encode each.
        lengths = [len(text) for text in texts]
        if len(data) != sum(lengths):
            lengths = [len(text.encode()) for text in texts]
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"feature {feature}: a string cannot be written as UTF-8: {exc}") from exc
    return ColumnBytes(pb.STRING, len(texts), data, np.array(lengths, LENGTHS).tobytes())


# -- columns in --------------------------------------------------------------------------------------------------------


def read_column(feature: str, message: pb.Column) -> ColumnBytes:
    """Return the bytes of a column that came by itself, typed or raw.

    Raises:
        InvalidInput: Buffers do not fit each other or the type they claim; the message names `feature`.
    """
    kind = message.WhichOneof("values")
    if kind == "raw":
        encoded = _read_raw(feature, message.raw)
    elif kind == "strings":
        encoded = _of_texts(feature, list(message.strings.values))
    elif kind is not None:
        dtype = _TYPED[kind]
        encoded = _of_numbers(dtype, np.array(getattr(message, kind).values, NUMBERS[dtype]))
    else:
        raise InvalidInput(f"feature {feature}: has no values: set int64s, uint64s, floats, strings or raw")
    offsets = _either(feature, "raw_offsets", OFFSETS, message.raw_offsets, message.offsets)
    weights = _either(feature, "raw_weights", WEIGHTS, message.raw_weights, message.weights)
    width = message.width
    check_shape(feature, ragged=offsets is not None, weighted=weights is not None, width=width)
    if weights is not None and len(weights) != encoded.values * WEIGHTS.itemsize:
        count = len(weights) // WEIGHTS.itemsize
        raise InvalidInput(f"feature {feature}: {count} weights for {encoded.values} values; there must be one each")
    if encoded.values % (width or 1):
        raise InvalidInput(f"feature {feature}: {encoded.values} values are no whole number of rows of width {width}")
    return encoded._replace(offsets=offsets, weights=weights, width=width)


def check_shape(feature: str, *, ragged: bool, weighted: bool, width: int) -> None:
    """Check what a column says of its shape.

    Raises:
        InvalidInput: It is ragged and has a width, or has weights and is not ragged.
    """
    if ragged and width:
        raise InvalidInput(f"feature {feature}: has both offsets and a width; ragged rows have no width")
    if weighted and not ragged:
        raise InvalidInput(f"feature {feature}: has weights without offsets")


def _read_raw(feature: str, raw: pb.RawBuffer) -> ColumnBytes:
    number = NUMBERS.get(raw.dtype)
    if number is not None:
        data = raw.data
        return ColumnBytes(raw.dtype, _count(feature, "raw data", data, number), data)
    if raw.dtype != pb.STRING:
        raise unknown_type(feature, "raw.dtype", raw.dtype)
    data, lengths = raw.data, raw.lengths
    count = _count(feature, "raw lengths", lengths, LENGTHS)
    total = int(np.frombuffer(lengths, LENGTHS).sum(dtype=np.int64))
    if total != len(data):
        raise InvalidInput(f"feature {feature}: lengths of strings add up to {total} bytes; there are {len(data)}")
    return ColumnBytes(pb.STRING, count, data, lengths)


def unknown_type(feature: str, field: str, dtype: int) -> InvalidInput:
    """Return the error of a `DataType` that is none."""
    return InvalidInput(f"feature {feature}: {field} is {dtype}; it must be INT64, UINT64, FLOAT32 or STRING")


def _either(feature: str, name: str, dtype: np.dtype[Any], raw: bytes, typed: Any) -> bytes | None:
    """Return the raw numbers if there are any, else the typed ones, else None."""
    if raw:
        _count(feature, name, raw, dtype)
        return raw
    return np.array(typed, dtype).tobytes() if typed else None


def _count(feature: str, name: str, data: bytes, dtype: np.dtype[Any]) -> int:
    if len(data) % dtype.itemsize:
        raise InvalidInput(f"feature {feature}: {name} of {len(data)} bytes is no whole number of {dtype.name}")
    return len(data) // dtype.itemsize


def decode_column(feature: str, column: ColumnBytes) -> Column:
    """Return the column that these bytes are. Numbers are read-only views of them.

    Raises:
        InvalidInput: A string is not UTF-8; the message names `feature`.
    """
    values: NDArray[Any]
    if column.dtype == pb.STRING:
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
        InvalidInput: One is not UTF-8; the message names `feature`.
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
        raise InvalidInput(f"feature {feature}: a string is not UTF-8: {exc}") from exc
    return strings


# -- tensors -----------------------------------------------------------------------------------------------------------


def encode_tensor(values: NDArray[np.float32], *, typed: bool) -> pb.Tensor:
    """Return an output as a message, its numbers typed (`floats`) or raw (`data`)."""
    if typed:
        return pb.Tensor(shape=values.shape, floats=values.ravel())
    return pb.Tensor(shape=values.shape, data=values.astype("<f4", copy=False).tobytes())


def decode_tensor(name: str, message: pb.Tensor) -> NDArray[np.float32]:
    """Return a message's numbers, freshly allocated, float32 of the message's shape.

    Raises:
        ProtocolError: Shape and numbers do not fit.
    """
    shape = tuple(message.shape)
    raw = message.data
    try:
        values = np.frombuffer(raw, "<f4").astype(np.float32) if raw else np.array(message.floats, np.float32)
        if any(size < 0 for size in shape):
            raise ValueError("negative size")
        return values.reshape(shape)
    except ValueError as exc:
        raise ProtocolError(f"output {name}: {len(raw)} bytes do not fit the shape {shape}") from exc
