"""Columns and tensors as protobuf messages of the public contract, and back.

Reading trusts nothing: sizes are checked against each other before they are used.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.column_codec import (
    LENGTHS,
    NUMBERS,
    OFFSETS,
    WEIGHTS,
    ColumnBytes,
    check_shape,
    column_of_numbers,
    column_of_texts,
    unknown_type,
)
from ringpull.inference.wire.packing import KIND_FIELDS, LAYOUTS_KEPT, ColumnKind, PackedColumns, short_names
from ringpull.ps.errors import InvalidInput, ProtocolError

_TYPED: Final[dict[str, int]] = {"int64s": pb.INT64, "uint64s": pb.UINT64, "floats": pb.FLOAT32}


def packed_message(packed: PackedColumns) -> pb.PackedColumns:
    """Return packed columns as a message."""
    layout = (_known_layout if short_names(packed.kinds) else _layout)(packed.kinds)
    return pb.PackedColumns(layout=layout, sizes=packed.sizes.tobytes(), data=packed.data)


def _layout(kinds: tuple[ColumnKind, ...]) -> bytes:
    columns: list[dict[str, Any]] = [dict(zip(KIND_FIELDS, each, strict=True)) for each in kinds]
    return pb.PackedLayout(columns=columns).SerializeToString()


_known_layout = lru_cache(LAYOUTS_KEPT)(_layout)


def column_message(column: ColumnBytes) -> pb.Column:
    """Return a column of raw bytes as a message; it has no width."""
    dtype: Any = column.dtype
    raw = pb.RawBuffer(dtype=dtype, data=column.data, lengths=column.lengths)
    return pb.Column(raw=raw, raw_offsets=column.offsets or b"", raw_weights=column.weights or b"")


def read_column(feature: str, message: pb.Column) -> ColumnBytes:
    """Return the bytes of a column that came by itself, typed or raw.

    Raises:
        InvalidInput: Buffers do not fit each other or the type they claim; the message names `feature`.
    """
    kind = message.WhichOneof("values")
    if kind == "raw":
        encoded = _read_raw(feature, message.raw)
    elif kind == "strings":
        encoded = column_of_texts(feature, list(message.strings.values))
    elif kind is not None:
        dtype = _TYPED[kind]
        encoded = column_of_numbers(dtype, np.array(getattr(message, kind).values, NUMBERS[dtype]))
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


def write_tensor(message: pb.Tensor, values: NDArray[np.float32], *, typed: bool) -> None:
    """Write an output into an empty message, its numbers typed (`floats`) or raw (`data`)."""
    message.shape.extend(values.shape)
    if typed:
        message.floats.extend(values.ravel())
    else:
        message.data = values.astype("<f4", copy=False).tobytes()


def decode_tensor(name: str, message: pb.Tensor, *, copy: bool = True) -> NDArray[np.float32]:
    """Return a message's numbers, freshly allocated, float32 of the message's shape.

    Args:
        copy: Whether raw numbers are copied, so that they can be written to; else they are a read-only view.

    Raises:
        ProtocolError: Shape and numbers do not fit.
    """
    shape = tuple(message.shape)
    raw = message.data
    try:
        values = (
            np.frombuffer(raw, "<f4").astype(np.float32, copy=copy) if raw else np.array(message.floats, np.float32)
        )
        if any(size < 0 for size in shape):
            raise ValueError("negative size")
        return values.reshape(shape)
    except ValueError as exc:
        raise ProtocolError(f"output {name}: {len(raw)} bytes do not fit the shape {shape}") from exc
