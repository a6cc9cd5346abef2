"""What a shard tells of itself every second or so: who it is, where it listens, how far it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShardHeartbeat:
    """A shard as of now."""

    incarnation: str
    """Made anew by every process: one that differs from the last has forgotten all it was told."""
    shard: int
    host: str
    port: int
    """Where its data plane listens."""
    node: str
    """Of the machine, as it was told when it was made."""
    epoch: int
    """Of what it answers for; 0 before it was assigned anything."""
    copied_bytes: int
    """Rows and keys that the `prepare` under way, or the last one, has copied; it begins with what an interrupted one
    left."""
    bytes_to_copy: int
    """What that `prepare` has to copy in all; 0 when it only opened files."""
    resident_bytes: int
    """Of this process in memory. A page that several shards map counts in each."""
    metrics_port: int = 0
    """Where its metrics are scraped; 0: nowhere."""
