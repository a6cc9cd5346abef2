"""Reading a Lookup message: straight from protobuf's bytes to the keys that the head works on."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.request.rows_by_key import RowLimits, RowsRequest
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.column_codec import LENGTHS, NUMBERS, OFFSETS, WEIGHTS, ColumnBytes, DataType, check_utf8
from ringpull.inference.wire.lookup_codec import POOLINGS
from ringpull.inference.wire.messages import read_column
from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import keys_of_texts
from ringpull.ps.spec import KeyType, Pooling

_POOLINGS: Final[dict[int, Pooling]] = {int(number): pooling for pooling, number in POOLINGS.items()}
KEY_TYPES: Final[dict[int, KeyType]] = {
    DataType.INT64: KeyType.INT64,
    DataType.UINT64: KeyType.UINT64,
    DataType.STRING: KeyType.STRING,
}
"""Types in which keys come, by the type of their column."""


def decode_lookup(message: pb.LookupRequest, limits: RowLimits) -> RowsRequest:
    """Return what a message asks for. Arrays are read-only views of the message's bytes where they came raw.

    Raises:
        InvalidInput: Keys, offsets or weights are none; the message names which.
        LimitExceeded: There are more keys than `limits` allow.
    """
    pooling = _POOLINGS.get(message.pooling)
    if pooling is None:
        raise InvalidInput(f"pooling: is {message.pooling}; it must be {', '.join(Pooling)}, numbered from 3 down to 0")
    limits.check_keys(_typed(message.keys))  # each of these costs, in Python
    column = _column(message.keys)
    key_type = KEY_TYPES.get(column.dtype)
    if key_type is None:
        raise InvalidInput("keys: are floats; they must be integers or strings")
    if column.width:
        raise InvalidInput(f"keys: have a width, {column.width}; they are flat, with offsets where they are pooled")
    limits.check_keys(column.values)
    return RowsRequest(
        model=message.model,
        table=message.table,
        keys=hashed(column),
        key_type=key_type if column.values else None,
        version=message.version,
        label=message.label,
        pooling=pooling,
        offsets=None if column.offsets is None else np.frombuffer(column.offsets, OFFSETS),
        weights=None if column.weights is None else np.frombuffer(column.weights, WEIGHTS),
        request_id=message.request_id,
    )


def keys_are_typed(message: pb.LookupRequest) -> bool:
    """Whether the keys were typed fields, so that the reply's vectors shall be, too."""
    return not message.keys.HasField("raw")


def _typed(keys: pb.Column) -> int:
    """Return the number of typed keys, or of bags if those are more."""
    kind = keys.WhichOneof("values")
    values = 0 if kind in (None, "raw") else len(getattr(keys, kind).values)
    return max(values, len(keys.offsets) - 1)


def _column(message: pb.Column) -> ColumnBytes:
    try:
        return read_column("keys", message)
    except InvalidInput as exc:
        raise InvalidInput(str(exc).removeprefix("feature ")) from exc


def hashed(column: ColumnBytes) -> NDArray[np.uint64]:
    """Return keys as tables have them, (N,).

    Raises:
        InvalidInput: A string is not UTF-8.
    """
    if column.dtype != DataType.STRING:
        numbers: NDArray[Any] = np.frombuffer(column.data, NUMBERS[column.dtype])
        return numbers.view(np.uint64)
    lengths = np.frombuffer(column.lengths, LENGTHS)
    check_utf8("keys: key", column.data, lengths)
    return keys_of_texts(column.data, lengths)
