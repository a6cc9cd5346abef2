"""Push messages: from protobuf's bytes to the keys and rows that the head works on, and its answer back."""

from __future__ import annotations

import numpy as np

from ringpull.inference.head.frontends.lookups.messages import KEY_TYPES, hashed
from ringpull.inference.proto import ringpull_pb2
from ringpull.inference.proto import writer_pb2 as pb
from ringpull.inference.push_request import Pushed, PushRequest, named_writer, nameless_writer
from ringpull.inference.wire.column_codec import ColumnBytes
from ringpull.inference.wire.messages import decode_tensor, read_column
from ringpull.inference.wire.push_codec import check_lineage
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput, ProtocolError
from ringpull.ps.spec import Float32Array


def decode_push(message: pb.PushRequest) -> PushRequest:
    """Return what a message asks for. Arrays are read-only views of the message's bytes where they came raw.

    Raises:
        InvalidInput: Keys, rows, writer or lineage are none; the message names which.
    """
    column = _keys(message.keys)
    if message.lineage:
        check_lineage(message.lineage)
        if message.version or message.label:
            raise InvalidInput("lineage: is given, and so is version or label; give one of them")
    return PushRequest(
        model=message.model,
        table=message.table,
        keys=hashed(column),
        key_type=KEY_TYPES[column.dtype] if column.values else None,
        rows=_rows(message),
        version=message.version,
        label=message.label,
        lineage=message.lineage,
        only_live=message.only_live,
        writer=_writer(message),
        number=message.number,
        request_id=message.request_id,
    )


def is_raw(message: pb.PushRequest) -> bool:
    """Whether keys are raw numbers, and rows raw, too: reading them is a view."""
    keys = message.keys
    return keys.WhichOneof("values") == "raw" and not keys.raw.lengths and not message.vectors.floats


def encode_pushed(pushed: Pushed) -> pb.PushResponse:
    """Return an answer as a message."""
    return pb.PushResponse(
        model=pushed.model,
        version=pushed.version,
        lineage=pushed.lineage,
        stamp=pushed.stamp,
        rows=pushed.rows,
        new_keys=pushed.new_keys,
        repeated=pushed.repeated,
        copies=pushed.copies,
        request_id=pushed.request_id,
    )


def _keys(message: ringpull_pb2.Column) -> ColumnBytes:
    try:
        column = read_column("keys", message)
    except InvalidInput as exc:
        raise InvalidInput(str(exc).removeprefix("feature ")) from exc
    if column.dtype not in KEY_TYPES:
        raise InvalidInput("keys: are floats; they must be integers or strings")
    if column.width or column.offsets is not None:
        raise InvalidInput("keys: have a width, offsets or weights; they are flat, a key for each row")
    return column


def _rows(message: pb.PushRequest) -> Float32Array | BytesRows | None:
    kind = message.WhichOneof("rows")
    if kind == "vectors":
        try:
            return decode_tensor("vectors", message.vectors, copy=False)
        except ProtocolError as exc:
            raise InvalidInput(f"vectors: {str(exc).removeprefix('output vectors: ')}") from exc
    if kind == "bytes":
        return _bytes_rows(message.bytes)
    if kind == "remove" and message.remove:
        return None
    raise InvalidInput("rows: are missing; set vectors, or bytes, or remove")


def _bytes_rows(message: ringpull_pb2.BytesRows) -> BytesRows:
    data, raw = message.data, message.offsets
    if not raw or len(raw) % 8:
        raise InvalidInput(f"bytes.offsets: {len(raw)} bytes are no offsets; they must be int64, one more than rows")
    offsets = np.frombuffer(raw, "<i8").astype(np.int64)
    # Neighbours are compared, not subtracted: differences of hostile offsets can wrap around to look right.
    if offsets[0] != 0 or offsets[-1] != len(data) or bool((offsets[1:] < offsets[:-1]).any()):
        raise InvalidInput(
            f"bytes.offsets: must start at 0, never decrease and end at the number of bytes, {len(data)}; they start at"
            f" {offsets[0]} and end at {offsets[-1]}"
        )
    return BytesRows(np.frombuffer(data, np.uint8), offsets)


def _writer(message: pb.PushRequest) -> int:
    kind = message.WhichOneof("writer")
    if kind == "named":
        return named_writer(message.named)
    return nameless_writer(message.nameless) if kind == "nameless" else 0
