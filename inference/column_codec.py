"""Columns and tensors as messages of the public contract, and back: the only place that knows their bytes.

Numbers are little-endian, as in numpy on every platform this runs on; raw buffers are read in place, without a copy.
Reading trusts nothing: sizes are checked against each other before they are used.

| column | in a raw message |
|---|---|
| (B,) | `raw` |
| (B, w) | `raw` with `width` w, row by row |
| Ragged | `raw`, `raw_offsets` int64 (B+1,), with weights `raw_weights` float32 (N,) |
| strings | `data` their UTF-8 end to end, `lengths` uint32, bytes of each |
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.columns import Column, Ragged
from inference.proto import ringpull_pb2 as pb
from ps.errors import InvalidInput, ProtocolError

_NUMBERS: Final[dict[int, np.dtype[Any]]] = {
    pb.INT64: np.dtype("<i8"),
    pb.UINT64: np.dtype("<u8"),
    pb.FLOAT32: np.dtype("<f4"),
}
_TYPED: Final[dict[str, Any]] = {"int64s": np.int64, "uint64s": np.uint64, "floats": np.float32, "strings": object}


# -- columns out -------------------------------------------------------------------------------------------------------


def encode_column(feature: str, column: Column) -> pb.Column:
    """Return a column as a message with raw buffers.

    Raises:
        InvalidInput: Its values are of a type that the contract does not carry, or it is not shaped like a column.
    """
    if isinstance(column, Ragged):
        column.check(feature)
        message = pb.Column(raw=_encode_raw(feature, column.values), raw_offsets=column.offsets.astype("<i8").tobytes())
        if column.weights is not None:
            message.raw_weights = column.weights.astype("<f4").tobytes()
        return message
    if column.ndim not in (1, 2) or (column.ndim == 2 and column.shape[1] == 0):
        raise InvalidInput(
            f"feature {feature}: an array of shape {column.shape}; a column is (B,) or (B, w), w at least 1"
        )
    return pb.Column(raw=_encode_raw(feature, column.ravel()), width=column.shape[1] if column.ndim == 2 else 0)


def _encode_raw(feature: str, values: NDArray[Any]) -> pb.RawBuffer:
    kind = values.dtype.kind
    if kind == "u" and values.dtype.itemsize == 8:
        return pb.RawBuffer(dtype=pb.UINT64, data=values.astype("<u8", copy=False).tobytes())
    if kind in "iub":
        return pb.RawBuffer(dtype=pb.INT64, data=values.astype("<i8", copy=False).tobytes())
    if kind == "f":
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite: the server refuses it by name
            return pb.RawBuffer(dtype=pb.FLOAT32, data=values.astype("<f4", copy=False).tobytes())
    texts = values.tolist()
    if kind not in "UO" or not all(issubclass(each, str) for each in set(map(type, texts))):
        raise InvalidInput(f"feature {feature}: values of numpy type {values.dtype}; give integers, floats or strings")
    try:
        data = "".join(texts).encode()
        # In ASCII, a string has as many bytes as characters: no need to encode each.
        lengths = (
            [len(text) for text in texts] if len(data) == sum(map(len, texts)) else [len(t.encode()) for t in texts]
        )
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"feature {feature}: a string cannot be written as UTF-8: {exc}") from exc
    return pb.RawBuffer(dtype=pb.STRING, data=data, lengths=np.array(lengths, "<u4").tobytes())


# -- columns in --------------------------------------------------------------------------------------------------------


def decode_columns(messages: Mapping[str, pb.Column]) -> dict[str, Column]:
    """Return the columns of a message's map. See `decode_column`."""
    return {name: decode_column(name, messages[name]) for name in messages}


def decode_column(feature: str, message: pb.Column) -> Column:
    """Return a message's column. Arrays of raw buffers are read-only views of the message's bytes.

    Raises:
        InvalidInput: Buffers do not fit each other or the type they claim; the message names `feature`.
    """
    kind = message.WhichOneof("values")
    if kind == "raw":
        values = _decode_raw(feature, message.raw)
    elif kind is not None:
        values = np.array(getattr(message, kind).values, _TYPED[kind])
    else:
        raise InvalidInput(f"feature {feature}: has no values: set int64s, uint64s, floats, strings or raw")
    offsets = _either(feature, "raw_offsets", np.dtype("<i8"), message.raw_offsets, message.offsets)
    weights = _either(feature, "raw_weights", np.dtype("<f4"), message.raw_weights, message.weights)
    width = message.width
    if offsets is not None:
        if width:
            raise InvalidInput(f"feature {feature}: has both offsets and a width; ragged rows have no width")
        return Ragged(values, offsets, weights)
    if weights is not None:
        raise InvalidInput(f"feature {feature}: has weights without offsets")
    if not width:
        return values
    if len(values) % width:
        raise InvalidInput(f"feature {feature}: {len(values)} values are no whole number of rows of width {width}")
    return values.reshape(-1, width)


def _decode_raw(feature: str, raw: pb.RawBuffer) -> NDArray[Any]:
    number = _NUMBERS.get(raw.dtype)
    if number is not None:
        return _numbers(feature, "raw data", raw.data, number)
    if raw.dtype != pb.STRING:
        raise InvalidInput(f"feature {feature}: raw.dtype is {raw.dtype}; it must be INT64, UINT64, FLOAT32 or STRING")
    data = raw.data
    lengths = _numbers(feature, "raw lengths", raw.lengths, np.dtype("<u4"))
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if total != len(data):
        raise InvalidInput(f"feature {feature}: lengths of strings add up to {total} bytes; there are {len(data)}")
    strings = np.empty(len(lengths), object)
    try:
        text = data.decode()
        bounds = pairwise([0, *ends.tolist()])
        if len(text) == len(data):  # ASCII: cut the decoded text
            strings[:] = [text[begin:end] for begin, end in bounds]
        else:
            strings[:] = [data[begin:end].decode() for begin, end in bounds]
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"feature {feature}: a string is not UTF-8: {exc}") from exc
    return strings


def _either(feature: str, name: str, dtype: np.dtype[Any], raw: bytes, typed: Any) -> NDArray[Any] | None:
    """Return the raw numbers if there are any, else the typed ones, else None."""
    if raw:
        return _numbers(feature, name, raw, dtype)
    return np.array(typed, dtype) if typed else None


def _numbers(feature: str, name: str, data: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    if len(data) % dtype.itemsize:
        raise InvalidInput(f"feature {feature}: {name} of {len(data)} bytes is no whole number of {dtype.name}")
    return np.frombuffer(data, dtype)


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
