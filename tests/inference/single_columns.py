"""Requests whose columns travel one by one, as clients in other languages may send them: ours sends them packed."""

from __future__ import annotations

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.columns import Column
from ringpull.inference.wire.codec import PredictCall, encode_request
from ringpull.inference.wire.column_codec import ColumnBytes, encode_column


def message_of(feature: str, column: Column) -> pb.Column:
    """A column as raw buffers."""
    sent: ColumnBytes = encode_column(feature, column)
    return pb.Column(
        raw=pb.RawBuffer(dtype=sent.dtype, data=sent.data, lengths=sent.lengths),
        raw_offsets=sent.offsets,
        raw_weights=sent.weights,
        width=sent.width,
    )


def request_of(call: PredictCall) -> pb.PredictRequest:
    """A call with its columns one by one."""
    request = encode_request(call)
    request.ClearField("packed")
    for name, column in call.features.items():
        request.features[name].CopyFrom(message_of(name, column))
    for name, column in call.context.items():
        request.context[name].CopyFrom(message_of(name, column))
    return request
