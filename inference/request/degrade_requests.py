"""Preparing degraded requests: what is left of them becomes features, and what was left out is written down.

Of each request it is said only what the steps changed: a history of 10 ids is not cut to 50, and its answer is whole.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.degrade.levels import Degradation
from ringpull.inference.degrade.steps import Step
from ringpull.inference.request.degrade_columns import degraded_columns
from ringpull.inference.request.received import ReceivedColumns
from ringpull.inference.schema.features import Fill, Prepared, PreparedFeature, PreparedRequests
from ringpull.inference.schema.schema import Schema


@dataclass(frozen=True, slots=True, eq=False)
class DegradedRequests:
    """R requests of one layout and one degradation."""

    prepared: PreparedRequests
    """What is left of them. Its fills name the features that take default vectors."""
    defaults: frozenset[str]
    """The features whose ids are not looked up."""
    phrases: list[tuple[str, ...]]
    """(R,): of the steps that changed each request, in the order declared."""


def prepare_degraded(
    schema: Schema, requests: ReceivedColumns, degradation: Degradation, looked_up: Collection[str], version: int
) -> DegradedRequests:
    """Prepare requests, without what their degradation leaves out.

    Args:
        schema: Of the version that answers.
        looked_up: Its features whose ids are looked up.
        version: Its number.

    Raises:
        InvalidInput: As `Schema.prepare_requests`.
    """
    # A lighter version need not take all that was meant for another; what neither knows is refused as ever.
    unused = {name for name in degradation.sent if schema.get(name) is None}
    candidates, context = (
        {name: column for name, column in part.items() if name not in unused} for part in requests.columns()
    )
    left = degraded_columns(candidates, context, requests.row_counts, degradation)
    prepared = schema.prepare_requests(left.candidates, left.context, left.row_counts)
    defaults = frozenset(degradation.defaults.keys() & set(looked_up))
    prepared = replace(
        prepared,
        candidates=_with_fills(prepared.candidates, defaults),
        context=_with_fills(prepared.context, defaults),
    )
    phrases = []
    for changed, filled in zip(left.changed, prepared.filled(), strict=True):
        steps: set[Step] = changed | {degradation.defaults[f.feature] for f in filled if f.reason == "degraded"}
        if degradation.other is not None and degradation.other.version == version:
            steps.add(degradation.other)
        phrases.append(tuple(step.phrase for step in degradation.steps if step in steps))
    return DegradedRequests(prepared, defaults, phrases)


def _with_fills(part: Prepared, defaults: frozenset[str]) -> Prepared:
    """Return a part that says of its features in `defaults` that their ids were filled in."""
    fills = [
        Fill(name, "degraded", _ids_of_rows(part.features[name])) for name in sorted(defaults & set(part.features))
    ]
    return replace(part, fills=(*part.fills, *fills))


def _ids_of_rows(feature: PreparedFeature) -> NDArray[np.int64]:
    """Return how many ids each row has (B,)."""
    return np.ones(feature.rows, np.int64) if feature.offsets is None else np.diff(feature.offsets)
