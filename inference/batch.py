"""Several prepared requests as one batch: their rows end to end, feature by feature.

A feature keeps its own, often fewer, rows: a context feature has one row per request, however many candidates it
stands for. `row_index` says which of its rows each batch row sees, so context is pulled once and broadcast as late as
can be, on the device. A feature may be context in one request of the batch and a candidate column in the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference.features import PreparedFeature, PreparedRequest

Int64Array = NDArray[np.int64]


class BatchFeature(NamedTuple):
    """One feature of a batch of B rows, with V rows of its own."""

    prepared: PreparedFeature
    """V rows."""
    row_index: Int64Array | None
    """(B,): the feature's row of each batch row; None when they are the same rows."""


class RequestBatch:
    """The rows of `requests`, one request after the other. Features are put together at first use."""

    def __init__(self, requests: Sequence[PreparedRequest]) -> None:
        self.requests = requests
        self.row_counts = tuple(request.candidates.rows for request in requests)
        self.rows = sum(self.row_counts)
        self._features: dict[str, BatchFeature] = {}
        self._layouts: dict[tuple[int, ...], RowLayout] = {}

    def feature(self, name: str) -> BatchFeature:
        """Return a feature of all requests. Features with the same rows share one `row_index` array."""
        feature = self._features.get(name)
        if feature is None:
            parts = [_feature(request, name) for request in self.requests]
            layout = self._layout(tuple([part.rows for part in parts]))
            feature = self._features[name] = BatchFeature(layout.concatenate(parts), layout.row_index)
        return feature

    def every_row(self, name: str) -> PreparedFeature:
        """Return a feature that is not ragged with all B rows written out."""
        prepared, row_index = self.feature(name)
        if row_index is None:
            return prepared
        return PreparedFeature(
            self.rows,
            ids=None if prepared.ids is None else prepared.ids[row_index],
            dense=None if prepared.dense is None else prepared.dense[row_index],
        )

    def _layout(self, part_rows: tuple[int, ...]) -> RowLayout:
        layout = self._layouts.get(part_rows)
        if layout is None:
            layout = self._layouts[part_rows] = RowLayout(part_rows, self.row_counts)
        return layout


class RowLayout:
    """Where the rows of a feature's parts, one per request, lie end to end: the same for all features cut alike.

    What only depends on numbers of rows is worked out once here; a batch has some thirty features and two layouts.
    """

    def __init__(self, part_rows: tuple[int, ...], row_counts: tuple[int, ...]) -> None:
        """Lay out parts of `part_rows[i]` rows, that request i sees as `row_counts[i]` rows."""
        self.rows = sum(part_rows)
        self.row_index = None if part_rows == row_counts else row_index(part_rows, row_counts)
        self._offset_counts = np.array(part_rows) + 1
        kept = np.ones(self.rows + len(part_rows), bool)
        # the first offset of a part is the last one of the part before
        kept[np.cumsum(self._offset_counts)[:-1]] = False
        self._kept_offsets = np.flatnonzero(kept)

    def concatenate(self, parts: Sequence[PreparedFeature]) -> PreparedFeature:
        """Return the parts end to end."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        if first.dense is not None:
            return PreparedFeature(
                self.rows, dense=np.concatenate([part.dense for part in parts if part.dense is not None])
            )
        ids_of = [part.ids for part in parts if part.ids is not None]
        ids = np.concatenate(ids_of)
        if first.offsets is None:
            return PreparedFeature(self.rows, ids)
        starts = list(accumulate(map(len, ids_of), initial=0))
        offsets = np.concatenate([part.offsets for part in parts if part.offsets is not None])
        offsets += np.repeat(starts[:-1], self._offset_counts)
        weights = None
        if first.weights is not None:
            weights = np.concatenate([part.weights for part in parts if part.weights is not None])
        return PreparedFeature(self.rows, ids, offsets[self._kept_offsets], weights)


def _feature(request: PreparedRequest, name: str) -> PreparedFeature:
    found = request.candidates.features.get(name)
    return request.context.features[name] if found is None else found


def row_index(part_rows: Sequence[int], row_counts: Sequence[int]) -> Int64Array:
    """Return int64 (B,): for each batch row, the row of a feature that has `part_rows[i]` rows in request i.

    `part_rows[i]` is `row_counts[i]`, or 1: one row that stands for all rows of the request.
    """
    parts, rows = np.array(part_rows), np.array(row_counts)
    first_of_part, first_of_request = np.cumsum(parts) - parts, np.cumsum(rows) - rows
    index = np.repeat(first_of_part, rows)
    within = np.arange(len(index)) - np.repeat(first_of_request, rows)
    index += np.where(np.repeat(parts == rows, rows), within, 0)
    return index
