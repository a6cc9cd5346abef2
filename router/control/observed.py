"""What the coordinator knows of shards and heads: told by them, never saved, gone with them.

A fact belongs to one incarnation of a member. A member that was restarted is seen with another one, and everything
that was known of it is forgotten: whatever it should hold, it is told again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ringpull.router.shard_map import ShardAddress

SpecIds = frozenset[int]

UNKNOWN: Final = -1.0
"""As the throttle of a shard: it could not be told, or was told by an earlier coordinator, or before it was lost."""


@dataclass(slots=True)
class ObservedShard:
    """One shard that lives."""

    incarnation: str
    address: ShardAddress
    node: str
    fresh: bool = True
    """Whether it had answered for nothing yet when it was first seen; one that had is only new to this coordinator."""
    stored: SpecIds = frozenset()
    """Worlds whose ranges it has."""
    served: SpecIds = frozenset()
    """Worlds whose slots it answers for."""
    throttle: float | None = UNKNOWN
    """Bytes per second that it was told to stream at most."""
    throttling: bool = False
    """Whether it is being told another one: two at a time could reach it in either order."""


@dataclass(slots=True)
class ObservedHead:
    """One head, as last heard of."""

    incarnation: str
    loaded: frozenset[tuple[str, int]] = frozenset()
    """(model, version) that it has open and checked."""
    routed: int = 0
    """The newest epoch that it acknowledged: no pull in flight uses an older one."""
    expired: bool = False
    """It is dead, or its lease has run out: it asks for the map before it serves again."""


@dataclass(frozen=True, slots=True)
class TableTraffic:
    """What was looked up in one table since the head started."""

    keys: int
    bags: int
    missing: int


@dataclass(frozen=True, slots=True)
class HeadHeartbeat:
    """What a head answers when it is asked how it is."""

    incarnation: str
    host: str
    grpc_port: int
    http_port: int
    """Ports are 0 before it serves."""
    epoch: int
    versions: tuple[tuple[str, int], ...]
    """(model, version) that it has open."""
    requests: int = 0
    failed: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    """Of recent Predicts; 0 when there were none."""
    traffic: Mapping[str, TableTraffic] = field(default_factory=dict)
    """`MODEL/TABLE` -> what was looked up."""
    metrics_port: int = 0
    """Where its metrics are scraped; 0: nowhere, or not yet."""
