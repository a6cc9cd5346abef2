"""Unknown ids: which ids of which request were scored on a default vector, and so on nothing the model learned of them.

    results of look-ups -> ids by row of each feature (`rows_with_unknown`)   once a batch, and only where there are any
    rows of a feature   -> ids and candidate rows of each request (`by_request`)

An id is unknown if its table has no row of it; if its row could not be had, since no live shard answers for it; or if
it was not looked up, under load. It counts as often as it was sent, and once however many tables its feature is looked
up in: where these lack different ids of a row, as many as the one that lacks most. Padding is no id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ringpull.inference.head.request.batch import RequestBatch
from ringpull.inference.head.request.lookups import FeatureLookup
from ringpull.inference.prediction import Unknown
from ringpull.inference.schema.features import Int64Array, PreparedFeature
from ringpull.router.lookup import LookupResult


@dataclass(frozen=True, slots=True, eq=False)
class UnknownIds:
    """The unknown ids of one feature in one request."""

    feature: str
    ids: int
    by_row: Int64Array
    """Ids of each row of the feature: of each candidate row, or of the one that stands for all."""
    rows: int
    """Candidate rows of the request."""

    def told(self, with_rows: bool) -> Unknown:
        """Return what its caller is told: how many, and in which candidate rows if they are asked for."""
        if not with_rows:
            return Unknown(self.feature, self.ids)
        of_all = len(self.by_row) < self.rows
        return Unknown(self.feature, self.ids, np.arange(self.rows) if of_all else np.flatnonzero(self.by_row))


def rows_with_unknown(bound: FeatureLookup, prepared: PreparedFeature, result: LookupResult) -> Int64Array | None:
    """Return how many unknown ids each row of a feature has (V,), of one look-up; None: none has any."""
    if result.absent is not None:
        rows = result.absent.bags
        if bound.padding_position is not None:
            padded = result.absent.positions == bound.padding_position
            # A model's key of an id may be that of the padding, too: only so many are padding as the bag holds.
            of_padding = np.minimum(np.bincount(rows[padded], minlength=prepared.rows), bound.padding_of_bags(prepared))
            counts = np.bincount(rows, minlength=prepared.rows) - of_padding
            return counts if counts.any() else None
    elif result.found is not None and (result.missing or result.lost or result.withheld):
        rows = np.flatnonzero(~result.found)
        if prepared.offsets is not None:
            assert prepared.ids is not None  # a feature that is looked up has ids
            if bound.padding is not None:
                rows = rows[prepared.ids[rows] != bound.padding]
            rows = np.searchsorted(prepared.offsets, rows, "right") - 1
    else:
        return None
    return np.bincount(rows, minlength=prepared.rows) if len(rows) else None


def by_request(batch: RequestBatch, unknown: Mapping[str, Int64Array]) -> dict[int, tuple[UnknownIds, ...]]:
    """Return the unknown ids of each request that has any, by its place in the batch.

    Args:
        unknown: Unknown ids of each row (V,) of features that have any.
    """
    told: dict[int, tuple[UnknownIds, ...]] = {}
    for feature, counts in unknown.items():
        rows = np.array(batch.rows_of(feature))
        ends = np.cumsum(rows)
        sums = np.add.reduceat(counts, ends - rows)
        for request in np.flatnonzero(sums).tolist():
            place = batch.order[request]
            own = counts[ends[request] - rows[request] : ends[request]]
            each = UnknownIds(feature, int(sums[request]), own, batch.row_counts[request])
            told[place] = (*told.get(place, ()), each)
    return told
