"""Preparing degraded requests: what is left of them becomes features, and what was left out is written down.

Of each request only those steps are named that changed it: a history of 10 ids is not cut to 50, and its answer is
whole.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.degrade.columns import degraded_columns
from ringpull.inference.degrade.steps import Step
from ringpull.inference.head.request.received import ReceivedColumns
from ringpull.inference.schema.features import Fill, Prepared, PreparedFeature, PreparedRequests
from ringpull.inference.schema.schema import Schema


def prepare_degraded(
    schema: Schema, requests: ReceivedColumns, looked_up: Collection[str], version: int
) -> PreparedRequests:
    """Prepare requests of one layout and degradation without what that leaves out.

    Args:
        schema: Schema of the version that answers.
        requests: R requests.
        looked_up: The version's features whose ids are looked up.
        version: Its number.

    Returns:
        Features that take default vectors are withheld and among the fills; `degraded` names what was left out.

    Raises:
        InvalidInput: As `Schema.prepare_requests`.
    """
    degradation = requests.degradation
    assert degradation is not None
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
        candidates=_withheld(prepared.candidates, defaults),
        context=_withheld(prepared.context, defaults),
    )
    phrases = []
    for changed, filled in zip(left.changed, prepared.filled(), strict=True):
        steps: set[Step] = changed | {degradation.defaults[f.feature] for f in filled if f.reason == "degraded"}
        if degradation.other is not None and degradation.other.version == version:
            steps.add(degradation.other)
        phrases.append(tuple(step.phrase for step in degradation.steps if step in steps))
    return replace(prepared, degraded=phrases)


def _withheld(part: Prepared, defaults: frozenset[str]) -> Prepared:
    """Return a part whose features in `defaults` are not looked up, and count as filled in."""
    names = sorted(defaults & set(part.features))
    features = {name: replace(part.features[name], withheld=np.ones(part.rows, bool)) for name in names}
    fills = [Fill(name, "degraded", _ids_of_rows(feature)) for name, feature in features.items()]
    return replace(part, features={**part.features, **features}, fills=(*part.fills, *fills))


def _ids_of_rows(feature: PreparedFeature) -> NDArray[np.int64]:
    """Return how many ids each row has (B,)."""
    return np.ones(feature.rows, np.int64) if feature.offsets is None else np.diff(feature.offsets)
