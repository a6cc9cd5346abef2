"""The shard map: which shard owns which slots, and where it listens. Frozen; a new epoch is a new map.

Heads route with it, shards guard with the ring inside it. Routing reads one array: `owner_table(r)[position >> 48]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ps.ring import Ring
from ps.spec import Replicas


@dataclass(frozen=True, slots=True)
class ShardAddress:
    """Where one shard's data plane listens."""

    shard: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Who owns what, as of one epoch."""

    epoch: int
    shards: tuple[ShardAddress, ...]
    """Ascending by shard id: the fixed order in which partials are merged."""
    ring: Ring
    replicas: Mapping[tuple[str, str], Replicas]
    """(model, table) -> wanted copies; a table not named has one."""
