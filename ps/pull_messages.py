"""Pulls as values: what one shard is asked for in one frame, and its answer. `ringpull.ps.wire` makes frames of them.

A pull carries everything that one shard is asked for one micro-batch: any number of look-ups, whose keys lie end to end
in a few flat arrays, so that neither side loops over keys in Python. Keys are ring positions (`ringpull.ps.hashing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.no_arrays import no_bytes, no_lengths


class Op(IntEnum):
    """Operation on the rows of a look-up. A mean travels as SUM: the router divides once, after the merge."""

    ROWS = 0
    SUM = 1
    MAX = 2


class SubLookup(NamedTuple):
    """Part of a look-up that one shard is asked for."""

    table: str
    op: Op
    keys: int
    """Positions that belong to this look-up."""
    bags: int
    """(Sub-)bags that they form; 0 for ROWS."""
    weighted: bool
    """Whether each key has a weight; only with SUM."""


@dataclass(frozen=True, slots=True)
class PullRequest:
    """Pull rows or pooled bags of one model version from one shard."""

    model: str
    version: int
    epoch: int
    """Epoch of the map that the sender routed with."""
    lookups: Sequence[SubLookup]
    positions: NDArray[np.uint64]
    """(sum of keys,): all look-ups end to end."""
    lengths: NDArray[np.uint32]
    """(sum of bags,): keys of each sub-bag, at least 1."""
    weights: NDArray[np.float32]
    """(sum of keys of weighted look-ups,): one weight per key."""
    identity: int = 0
    """Identity of the version that the sender has; one that has another content is refused. 0: not known."""
    max_reply_bytes: int = 0
    """Most bytes of values and rows in the reply; 0: as many as the shard sends."""
    tell_absent: bool = False
    """Whether the reply is to tell which keys of pooled look-ups are absent."""
    as_exported: bool = False
    """Whether rows that were pushed are left out: the answer is that of the version as it was exported."""


@dataclass(frozen=True, slots=True)
class PullReply:
    """The answer to a `PullRequest`, look-ups in its order."""

    values: NDArray[np.float32]
    """Flat: per look-up (bags, dim) partials, or (keys, dim) rows for ROWS, end to end. Unknown keys have the default
    vector. Rows of bytes have none: their dim is 0."""
    missing: NDArray[np.uint32]
    """(look-ups,): keys of each that its table does not have."""
    found: NDArray[np.uint8]
    """(sum of keys of ROWS look-ups,): 1 where the table has the key."""
    lengths: NDArray[np.uint32] = field(default_factory=no_lengths)
    """(sum of keys of look-ups in tables of bytes,): bytes of each row, which has no `values`; 0 of an unknown key."""
    data: NDArray[np.uint8] = field(default_factory=no_bytes)
    """(sum of `lengths`,): these rows, end to end."""
    absent: NDArray[np.uint32] = field(default_factory=no_lengths)
    """(sum of `missing` of pooled look-ups,): which of the request's positions these keys are, ascending. Empty where
    the request did not ask, and from a shard of an earlier build."""
