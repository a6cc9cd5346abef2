"""Several prepared requests as one batch: their rows end to end, feature by feature.

A feature keeps its own, often fewer, rows: a context feature has one row per request, however many candidates it
stands for. `row_index` says which of its rows each batch row sees, so context is pulled once and broadcast as late as
can be, on the device. A feature may be context in one request of the batch and a candidate column in the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference.features import PreparedFeature, PreparedRequest, concatenate

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
        self._row_indexes: dict[tuple[int, ...], Int64Array] = {}

    def feature(self, name: str) -> BatchFeature:
        """Return a feature of all requests. Features with the same rows share one `row_index` array."""
        feature = self._features.get(name)
        if feature is None:
            parts = [_feature(request, name) for request in self.requests]
            feature = BatchFeature(concatenate(parts), self._row_index(tuple([part.rows for part in parts])))
            self._features[name] = feature
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

    def _row_index(self, part_rows: tuple[int, ...]) -> Int64Array | None:
        if part_rows == self.row_counts:
            return None
        index = self._row_indexes.get(part_rows)
        if index is None:
            index = self._row_indexes[part_rows] = row_index(part_rows, self.row_counts)
        return index


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
