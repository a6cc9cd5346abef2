"""The columns of a request in one buffer: how they are packed, by clients and for columns that came one by one.

Columns are packed in the order of their names, context last, so that equal columns have an equal layout: its bytes are
what a head remembers it by.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.request.column_codec import ColumnBytes

_LAYOUTS_KEPT: Final = 256
_KEPT_NAMES: Final = 1 << 14
"""Characters: a layout of longer names is made anew each time. What strangers send must not fill a head's memory."""

_Facts = tuple[str, int, bool, bool, bool, int]
"""The fields of a `PackedColumn`, in their order."""


def pack(features: Mapping[str, ColumnBytes], context: Mapping[str, ColumnBytes]) -> pb.PackedColumns:
    """Return the columns as one message."""
    facts: list[_Facts] = []
    sizes: list[int] = []
    pieces: list[bytes] = []
    for columns, once in ((features, False), (context, True)):
        for name in sorted(columns):
            column = columns[name]
            ragged, weighted = column.offsets is not None, column.weights is not None
            facts.append((name, column.dtype, once, ragged, weighted, column.width))
            sizes += (column.rows, column.values)
            for buffer in (column.lengths, column.data, column.offsets, column.weights):
                if buffer:
                    pieces.append(buffer)
                    if padding := -len(buffer) % 8:
                        pieces.append(bytes(padding))
    short = sum(len(name) for name, *_ in facts) <= _KEPT_NAMES
    layout = (_known_layout if short else _layout)(tuple(facts))
    return pb.PackedColumns(layout=layout, sizes=np.array(sizes, "<i8").tobytes(), data=b"".join(pieces))


def _layout(facts: tuple[_Facts, ...]) -> bytes:
    names = ("name", "dtype", "context", "ragged", "weighted", "width")
    columns: list[dict[str, Any]] = [dict(zip(names, each, strict=True)) for each in facts]
    return pb.PackedLayout(columns=columns).SerializeToString()


_known_layout = lru_cache(_LAYOUTS_KEPT)(_layout)
