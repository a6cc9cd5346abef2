"""The columns of a request in one buffer, laid out as `PackedColumns` of `ringpull.proto` says.

Clients pack what they send, and a head packs columns that came one by one. Columns are packed in the order of their
names, context last, so that equal columns have equal kinds, by which a head remembers their layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.wire.column_codec import ColumnBytes

LAYOUTS_KEPT: Final = 256
"""Layouts remembered in each cache."""
_KEPT_NAMES: Final = 1 << 16
"""Characters of names in a layout that is remembered. What strangers send must not fill a head's memory."""

ColumnKind = tuple[str, int, bool, bool, bool, int]
"""The name and type of one column of a request: name, `DataType`, whether it is context, ragged, and weighted, and its
values per row where it is not ragged; 0 means one. The fields of a `PackedColumn`, in their order: `KIND_FIELDS`.

A plain tuple, for named ones would make a client's encoding of 26 features 8% slower.
"""
KIND_FIELDS: Final = ("name", "dtype", "context", "ragged", "weighted", "width")


class PackedColumns(NamedTuple):
    """Columns in one buffer."""

    kinds: tuple[ColumnKind, ...]
    sizes: NDArray[np.int64]
    """(C, 2): rows and values of each column."""
    data: bytes
    """Buffers of the columns end to end, each padded to 8 bytes."""


def pack(features: Mapping[str, ColumnBytes], context: Mapping[str, ColumnBytes]) -> PackedColumns:
    """Return columns in one buffer; `context` columns are of one row, which stands for all candidates."""
    kinds: list[ColumnKind] = []
    sizes: list[int] = []
    buffers: list[bytes] = []
    for columns, in_context in ((features, False), (context, True)):
        for name in sorted(columns):
            column = columns[name]
            ragged, weighted = column.offsets is not None, column.weights is not None
            kinds.append((name, column.dtype, in_context, ragged, weighted, column.width))
            sizes += (column.rows, column.values)
            for buffer in (column.lengths, column.data, column.offsets, column.weights):
                if buffer:
                    buffers.append(buffer)
                    if padding := -len(buffer) % 8:
                        buffers.append(bytes(padding))
    return PackedColumns(tuple(kinds), np.array(sizes, "<i8").reshape(-1, 2), b"".join(buffers))


def short_names(kinds: Sequence[ColumnKind]) -> bool:
    """Whether a layout of these columns is small enough to be remembered."""
    return sum([len(kind[0]) for kind in kinds]) <= _KEPT_NAMES
