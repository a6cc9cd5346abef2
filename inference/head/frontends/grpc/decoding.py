"""Reading a Predict message: straight from protobuf's bytes to the flat columns that the head works on.

Packed columns are checked where they lie and not copied. Columns that came one by one are packed here first.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from google.protobuf.message import DecodeError

from ringpull.inference.head.request.inference_request import InferenceRequest, check_version
from ringpull.inference.head.request.kept_layouts import KeptLayouts
from ringpull.inference.head.request.received import Layout, Limits, ReceivedColumns, check_count
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.messages import read_column
from ringpull.inference.wire.packing import PackedColumns, pack
from ringpull.ps.errors import InvalidInput


def decode_request(message: pb.PredictRequest, limits: Limits) -> InferenceRequest:
    """Return what a message asks for. Arrays are read-only views of the message's bytes where those are packed.

    Raises:
        InvalidInput: A column's buffers do not fit; the message names the feature. Or the version is negative.
        LimitExceeded: The request is larger than `limits`.
    """
    check_version(message.version)
    if message.HasField("packed"):
        if message.features or message.context:
            raise InvalidInput(
                "packed: the request has columns in features or context too; send all of them in one place"
            )
        columns = read_packed(message.packed, limits)
    else:
        columns = ReceivedColumns.of(_packed_here(message, limits), limits)
    return InferenceRequest(
        columns=columns,
        model=message.model,
        version=message.version,
        label=message.label,
        outputs=tuple(message.outputs),
        with_timings=message.with_timings,
        with_unknown=message.with_unknown,
        request_id=message.request_id,
    )


def all_typed(message: pb.PredictRequest) -> bool:
    """Whether all columns were typed fields, so that the reply's tensors shall be, too."""
    if message.HasField("packed"):
        return False
    return not any(column.HasField("raw") for column in (*message.features.values(), *message.context.values()))


def read_packed(message: pb.PackedColumns, limits: Limits) -> ReceivedColumns:
    """Read and check the packed columns of one request.

    Raises:
        InvalidInput: Layout, sizes, offsets or rows do not fit; the message names the feature.
        LimitExceeded: Too many columns, rows, or values in a row.
    """
    serialized, data, sizes = message.layout, message.data, message.sizes
    layout = _layouts.of(serialized, limits.max_columns)
    if len(data) % 8 or len(sizes) != 16 * len(layout.names):
        raise InvalidInput(
            f"packed: {len(sizes)} bytes of sizes for {len(layout.names)} columns, and {len(data)} bytes of data;"
            " there must be 16 for each column, and a multiple of 8"
        )
    return ReceivedColumns.checked(layout, np.frombuffer(sizes, np.int64).reshape(-1, 2), data, limits)


def _read_layout(serialized: bytes, max_columns: int) -> Layout:
    try:
        message = pb.PackedLayout.FromString(serialized)
    except DecodeError as exc:
        raise InvalidInput(f"packed: its layout is not a valid {pb.PackedLayout.DESCRIPTOR.full_name}: {exc}") from exc
    check_count(len(message.columns), max_columns)
    return Layout.of(
        tuple((each.name, each.dtype, each.context, each.ragged, each.weighted, each.width) for each in message.columns)
    )


_layouts: Final = KeptLayouts(_read_layout)


def _packed_here(message: pb.PredictRequest, limits: Limits) -> PackedColumns:
    """Return the columns of a request that came one by one."""
    check_count(len(message.features) + len(message.context), limits.max_columns)
    return pack(
        {name: read_column(name, column) for name, column in message.features.items()},
        {name: read_column(name, column) for name, column in message.context.items()},
    )
