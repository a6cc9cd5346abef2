"""Scrape targets: where each process of a deployment serves its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.router.control.observed import HeadHeartbeat


@dataclass(frozen=True, slots=True)
class ScrapeTarget:
    """Metrics endpoint of one process."""

    role: str
    """Kind of the process, `head` or `shard`."""
    member: str
    """Name of the process: `head-0`, `shard-3`."""
    host: str
    """Address it listens on, which may be every interface of its machine."""
    port: int


def scrape_targets(
    heads: Mapping[int, HeadHeartbeat], shards: Mapping[int, ShardHeartbeat]
) -> tuple[ScrapeTarget, ...]:
    """Return the targets of all processes with metrics, as of their last heartbeats, even of those that died since."""
    targets = [*_targets("head", heads), *_targets("shard", shards)]
    return tuple(target for target in targets if target.port)


def _targets(role: str, heartbeats: Mapping[int, HeadHeartbeat | ShardHeartbeat]) -> list[ScrapeTarget]:
    return [
        ScrapeTarget(role, f"{role}-{number}", heartbeat.host, heartbeat.metrics_port)
        for number, heartbeat in sorted(heartbeats.items())
    ]
