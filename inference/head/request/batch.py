"""The requests of a micro-batch as one: their rows end to end, feature by feature.

Requests whose columns are of the same names were prepared together, as a group; a batch has one group, or a few. A
feature keeps its own, often fewer, rows: a context feature has one row per request, however many candidates it stands
for. `row_index` says which of its rows each batch row sees, so context is pulled once and broadcast as late as can be,
on the device. A feature may be context in one group of the batch and a candidate column in the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.request.direct_ids import DirectIds
from ringpull.inference.schema.features import PreparedFeature, PreparedRequests
from ringpull.inference.schema.raw_columns import offsets_of

Int64Array = NDArray[np.int64]


class BatchFeature(NamedTuple):
    """One feature of a batch of B rows, with V rows of its own."""

    prepared: PreparedFeature
    """Prepared values, V rows."""
    row_index: Int64Array | None
    """(B,): the feature's row of each batch row; None when they are the same rows."""


class RequestBatch:
    """The rows of all requests of some groups, one after the other. Features are put together at first use."""

    def __init__(
        self,
        groups: Sequence[PreparedRequests],
        order: Sequence[int],
        direct: Sequence[DirectIds | None] | None = None,
    ) -> None:
        """Put groups together.

        Args:
            groups: Requests that were prepared together, each.
            order: Place in the micro-batch of each of their requests.
            direct: Features of each group that were not prepared, as their columns are ids; None: all were.
        """
        self._direct = [None] * len(groups) if direct is None else direct
        self.groups = groups
        self.order = order
        self.row_counts = tuple(chain.from_iterable(group.row_counts for group in groups))
        self.rows = sum(self.row_counts)
        self._features: dict[str, BatchFeature] = {}
        self._pairs: dict[tuple[str, str], tuple[BatchFeature, PreparedFeature]] = {}
        self._row_indexes: dict[tuple[bool, ...], Int64Array | None] = {}

    def feature(self, name: str) -> BatchFeature:
        """Return a feature of all requests. Features with the same rows share one `row_index` array."""
        feature = self._features.get(name)
        if feature is None:
            in_context = self._in_context(name)
            parts = [
                direct.prepared(name)
                if direct is not None and name in direct.features.places
                else (group.context if once else group.candidates).features[name]
                for group, once, direct in zip(self.groups, in_context, self._direct, strict=True)
            ]
            feature = self._features[name] = BatchFeature(concatenate(parts), self._row_index(in_context))
        return feature

    @property
    def direct(self) -> DirectIds | None:
        """Features that were not prepared, of a batch of one group; None: there are none, or several groups."""
        return self._direct[0] if len(self._direct) == 1 else None

    def row_index(self, *, context: bool) -> Int64Array | None:
        """Return `row_index` of features of a batch of one group, which were sent as context or not."""
        return self._row_index((context,))

    def side_by_side(self, name: str, other: str) -> tuple[BatchFeature, PreparedFeature]:
        """Return a feature, and another with the same rows as it: all B rows are written out if theirs differ."""
        pair = self._pairs.get((name, other))
        if pair is None:
            feature, second = self.feature(name), self.feature(other)
            if feature.row_index is second.row_index:
                pair = feature, second.prepared
            else:
                pair = BatchFeature(self.every_row(name), None), self.every_row(other)
            self._pairs[name, other] = pair
        return pair

    def every_row(self, name: str) -> PreparedFeature:
        """Return a feature without weights with all B rows written out."""
        prepared, row_index = self.feature(name)
        if row_index is None:
            return prepared
        withheld = None if prepared.withheld is None else prepared.withheld[row_index]
        if prepared.offsets is not None and prepared.ids is not None:
            offsets = offsets_of(np.diff(prepared.offsets)[row_index])
            behind = np.repeat(prepared.offsets[row_index] - offsets[:-1], np.diff(offsets))
            ids = prepared.ids[np.arange(len(behind)) + behind]
            return PreparedFeature(self.rows, ids, offsets, withheld=withheld)
        return PreparedFeature(
            self.rows,
            ids=None if prepared.ids is None else prepared.ids[row_index],
            dense=None if prepared.dense is None else prepared.dense[row_index],
            withheld=withheld,
        )

    def rows_of(self, name: str) -> list[int]:
        """Return how many rows a feature has in each request: as many as the request, or one that stands for all."""
        return self._rows_of(self._in_context(name))

    def _in_context(self, name: str) -> tuple[bool, ...]:
        """Return of each group whether a feature was sent as context in it."""
        return tuple(
            [
                direct.features.context[direct.features.places[name]]
                if direct is not None and name in direct.features.places
                else name not in group.candidates.features
                for group, direct in zip(self.groups, self._direct, strict=True)
            ]
        )

    def _rows_of(self, in_context: tuple[bool, ...]) -> list[int]:
        rows: list[int] = []
        for group, once in zip(self.groups, in_context, strict=True):
            rows += [1] * len(group.row_counts) if once else group.row_counts
        return rows

    def _row_index(self, in_context: tuple[bool, ...]) -> Int64Array | None:
        if in_context not in self._row_indexes:
            part_rows = self._rows_of(in_context)
            same = tuple(part_rows) == self.row_counts
            self._row_indexes[in_context] = None if same else row_index(part_rows, self.row_counts)
        return self._row_indexes[in_context]


def concatenate(parts: Sequence[PreparedFeature]) -> PreparedFeature:
    """Return a feature's rows in several groups end to end."""
    if len(parts) == 1:
        return parts[0]
    first, rows = parts[0], sum(part.rows for part in parts)
    if first.dense is not None:
        return PreparedFeature(rows, dense=np.concatenate([part.dense for part in parts if part.dense is not None]))
    ids_of = [part.ids for part in parts if part.ids is not None]
    ids = np.concatenate(ids_of)
    withheld = None
    if any(part.withheld is not None for part in parts):
        withheld = np.concatenate(
            [np.zeros(part.rows, bool) if part.withheld is None else part.withheld for part in parts]
        )
    if first.offsets is None:
        return PreparedFeature(rows, ids, withheld=withheld)
    offsets = [np.zeros(1, np.int64)]
    starts = [0, *accumulate(map(len, ids_of[:-1]))]
    offsets += [part.offsets[1:] + start for part, start in zip(parts, starts, strict=True) if part.offsets is not None]
    weights = None
    if first.weights is not None:
        weights = np.concatenate([part.weights for part in parts if part.weights is not None])
    return PreparedFeature(rows, ids, np.concatenate(offsets), weights, withheld=withheld)


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
