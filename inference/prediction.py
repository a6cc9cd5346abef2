"""The answer to a predict call, and what it says of itself: who answered, what was filled in, where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FillReason = Literal["absent", "missing", "unavailable", "degraded", "beyond"]


@dataclass(frozen=True, slots=True)
class Filled:
    """A feature that did not get all its values from the request and the tables."""

    feature: str
    reason: FillReason
    """Reason for filling in. absent: not sent, the missing rule stands for it. missing: NaN or empty values, the
    missing rule stands for them. unavailable: no live shard had the keys, default vectors stand for their rows.
    degraded: the head is under load and did not look the ids up, default vectors stand for their rows.
    beyond: ids that the model has no row for, the one that the schema declares stands for them."""
    values: int
    """Number of values filled in; an absent feature counts one per row it was prepared for."""


@dataclass(frozen=True, slots=True, eq=False)
class Unknown:
    """A feature some of whose ids were scored on the default vectors of their tables: nothing was learned of them."""

    feature: str
    ids: int
    """Number of unknown ids in the request, each as often as it was sent: those without a row, and those whose rows
    could not be had (see `filled`: unavailable, degraded)."""
    rows: NDArray[np.int64] | None = None
    """Candidate rows with such ids, ascending; all of them where the feature came as context. Only when asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Microseconds by stage, and the rows of the micro-batch the request rode in."""

    decode_us: int = 0
    features_us: int = 0
    queue_us: int = 0
    lookup_us: int = 0
    """Time of the look-up: route, wire, shards, merge."""
    dense_us: int = 0
    total_us: int = 0
    batch_rows: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The outputs for the rows of one request."""

    outputs: Mapping[str, NDArray[np.float32]]
    """Outputs by name: float32, the first dimension is the row, in the order of the request. Rows that a degraded
    answer left out hold NaN."""
    version: int
    """Model version that answered."""
    filled: tuple[Filled, ...] = ()
    unknown: tuple[Unknown, ...] = ()
    """Features with unknown ids; empty: every id has a row."""
    timings: Timings | None = field(default=None)
    """Time by stage; only when asked for."""
    model: str = ""
    request_id: str = ""
    degraded: tuple[str, ...] = ()
    """Phrases for what was left out of the answer under load, one for each step that changed it: "cut history to 50".
    Empty: nothing (`ringpull.inference.degrade.steps`)."""
