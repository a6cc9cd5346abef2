"""Messages of a request that is handed over, and of its answer, as headers and bytes of frames.

    request  [number, model, version, identity, seconds that are left, layout] + sizes + words of its columns
    answer   [number, outputs, filled, unknown, degraded, times] + counts of unknown ids, then the outputs, end to end
    refusal  [number, reason]

A layout travels as its kinds in msgpack; whoever gets it keeps it as it keeps those of clients, so a column is made
sense of once, not once a request. What comes is checked like a request of a client: limits, sizes, offsets.
"""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import Final
from weakref import WeakKeyDictionary

import msgpack
import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.neighbours.frames import Header, Part
from ringpull.inference.head.pipeline import Scores
from ringpull.inference.head.request.kept_layouts import KeptLayouts
from ringpull.inference.head.request.received import Layout, Limits, ReceivedColumns, check_count
from ringpull.inference.head.request.unknown import UnknownIds
from ringpull.inference.prediction import Filled
from ringpull.inference.wire.column_codec import NUMBERS, DataType
from ringpull.ps.errors import ProtocolError

_SIZES_OF_COLUMN: Final = 16
_NUMBER_OF: Final = {dtype: int(number) for number, dtype in NUMBERS.items()}

_packed: Final[WeakKeyDictionary[Layout, bytes]] = WeakKeyDictionary()


def packed_layout(layout: Layout) -> bytes:
    """Return a layout as bytes, kept as long as it is."""
    packed = _packed.get(layout)
    if packed is None:
        kinds = [
            (
                name,
                int(DataType.STRING) if dtype is None else _NUMBER_OF[dtype],
                *(bool(each) for each in (context, ragged, weighted)),
                width,
            )
            for name, dtype, (_, ragged, weighted, _, context), width in zip(
                layout.names, layout.dtypes, layout.descriptions.tolist(), layout.widths, strict=True
            )
        ]
        packed = _packed[layout] = msgpack.packb(kinds)
    return packed


def _read_layout(packed: bytes, max_columns: int) -> Layout:
    kinds = msgpack.unpackb(packed)
    check_count(len(kinds), max_columns)
    return Layout.of(tuple(tuple(kind) for kind in kinds))


_layouts: Final = KeptLayouts(_read_layout)


def parts_of(columns: ReceivedColumns) -> tuple[Part, Part]:
    """Return sizes and words of columns, as they lie in memory."""
    return columns.sizes.tobytes(), np.ascontiguousarray(columns.words).view(np.uint8).data


def columns_of(packed: bytes, payload: bytes, limits: Limits) -> ReceivedColumns:
    """Return the columns of a request: checked views of the payload.

    Raises:
        RingpullError: They do not fit each other, or are larger than what is taken here.
    """
    layout = _layouts.of(packed, limits.max_columns)
    begin = _SIZES_OF_COLUMN * len(layout.names)
    if len(payload) < begin or (len(payload) - begin) % 8:
        raise ProtocolError(f"a neighbour sent {len(payload)} bytes for {len(layout.names)} columns")
    sizes: NDArray[np.int64] = np.frombuffer(payload, np.int64, begin // 8).reshape(-1, 2)
    return ReceivedColumns.checked(layout, sizes, memoryview(payload)[begin:], limits)


def answer_of(scores: Scores, times: StageTimes) -> tuple[Header, list[Part]]:
    """Return the message of an answer, less its number."""
    unknown = [(each.feature, each.ids, len(each.by_row), each.rows) for each in scores.unknown]
    outputs = [(name, values.dtype.str, values.shape) for name, values in scores.outputs.items()]
    parts: list[Part] = [np.ascontiguousarray(each.by_row, np.int64).tobytes() for each in scores.unknown]
    parts += [np.ascontiguousarray(values).tobytes() for values in scores.outputs.values()]
    filled = [(each.feature, each.reason, each.values) for each in scores.filled]
    return [outputs, filled, unknown, list(scores.degraded), astuple(times)], parts


def scores_of(header: Header, payload: bytes) -> tuple[Scores, StageTimes]:
    """Return what the message of an answer says: outputs are read-only views of the payload.

    Raises:
        ProtocolError: It is none.
    """
    try:
        _, outputs, filled, unknown, degraded, times = header
        ids, at = [], 0
        for feature, count, rows, of in unknown:
            ids.append(UnknownIds(feature, count, np.frombuffer(payload, np.int64, rows, at), of))
            at += 8 * rows
        values: dict[str, NDArray[np.float32]] = {}
        for name, dtype, shape in outputs:
            values[name] = np.frombuffer(payload, dtype, math.prod(shape), at).reshape(shape)
            at += values[name].nbytes
        scores = Scores(values, tuple(Filled(*each) for each in filled), tuple(ids), tuple(degraded))
        return scores, StageTimes(*times)
    except (ValueError, TypeError) as exc:
        raise ProtocolError(f"a neighbour's answer does not have its fields: {exc}") from exc
