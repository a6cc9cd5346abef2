"""Observed state of shards and heads: what the coordinator has learnt from them. It is never saved.

Observations belong to one incarnation of a member. A restarted member has another incarnation: everything known of it
is forgotten, and it is sent again whatever it should store and serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ringpull.router.control.head_counts import HeadCounts
from ringpull.router.shard_map import ShardAddress

SpecIds = frozenset[int]

UNKNOWN: Final = -1.0
"""Throttle of a shard whose limit is not known: sending it failed, or an earlier coordinator or incarnation set it."""


@dataclass(slots=True)
class ObservedShard:
    """Live shard."""

    incarnation: str
    address: ShardAddress
    node: str
    fresh: bool = True
    """Whether it had served nothing yet when it was first seen; otherwise it is only new to this coordinator."""
    stored: SpecIds = frozenset()
    """Specs whose ranges it has stored."""
    served: SpecIds = frozenset()
    """Specs whose slots it serves."""
    damaged: bool = False
    """Whether it asked to be prepared again, because copies of its own are damaged."""
    versions: frozenset[tuple[str, int]] | None = None
    """Versions that it was assigned last, as (model, version); None: not known."""
    told: tuple[tuple[str, int, str], ...] = ()
    """Tables of which it was told that it has pushed rows, by model, lineage and name."""
    missing: frozenset[tuple[str, int]] = frozenset()
    """Versions of `stored` that it could not open: it has the others."""
    tries_again: bool = False
    """Whether what it lacks is due to be asked of it again."""
    passing: int = 0
    """Failures in a row that may pass in a moment, to open some of its versions."""
    throttle: float | None = UNKNOWN
    """Limit on what it streams, in bytes per second; None: no limit."""
    throttling: bool = False
    """Whether a new limit is on its way: two at a time could arrive in either order."""


@dataclass(slots=True)
class ObservedHead:
    """Head, as of its last heartbeat."""

    incarnation: str
    loaded: frozenset[tuple[str, int]] = frozenset()
    """Versions that it has open and checked, as (model, version)."""
    routed: int = 0
    """Newest epoch that it has acknowledged: none of its pulls in flight uses an older map."""
    missing: frozenset[tuple[str, int]] = frozenset()
    """Versions that it could not load: it serves the others."""
    tries_again: bool = False
    """Whether what it lacks is due to be asked of it again."""
    passing: int = 0
    """Failures in a row that may pass in a moment, to load some of its versions."""
    unchecked: int = 0
    """Self-checks in a row of versions to come that lacked rows, though every shard serves them."""
    expired: bool = False
    """Whether it is dead, or its lease has run out, so that shards refuse what it asks by a map that is history."""
    alone: bool = True
    """Whether no earlier process of it can still serve beside it, by a map and versions that are history."""


@dataclass(frozen=True, slots=True)
class TableTraffic:
    """Look-ups in one table since the head started."""

    keys: int
    bags: int
    missing: int
    here: int = 0
    """Keys among these that heads have answered from files of their own machine."""


@dataclass(frozen=True, slots=True)
class HeadHeartbeat:
    """State that a head reports of itself."""

    incarnation: str
    host: str
    grpc_port: int
    http_port: int
    """Port of HTTP. Both ports are 0 before the head serves."""
    epoch: int
    versions: tuple[tuple[str, int], ...]
    """Open versions, as (model, version)."""
    requests: int = 0
    failed: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    """99th percentile of recent Predicts; 0 when there were none."""
    traffic: Mapping[str, TableTraffic] = field(default_factory=dict)
    """Look-ups by `MODEL/TABLE`."""
    metrics_port: int = 0
    """Port of its metrics; 0 when it has none, or not yet."""
    warnings: tuple[str, ...] = ()
    """What an operator should know of it now, a sentence each; `status` shows them."""
    term: int = 0
    """Highest term of a coordinator that it was introduced to; 0: none yet."""
    counts: HeadCounts = field(default_factory=HeadCounts)
    """Counts of its calls, and what is new of their last minutes."""
    admin: str = ""
    """Address of its operators' door, `unix:/PATH` or HOST:PORT; empty: there is none, or not yet."""
