"""Where each process of a deployment tells its metrics: what a scraper is to be pointed at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.router.control.observed import HeadHeartbeat


@dataclass(frozen=True, slots=True)
class ScrapeTarget:
    """One process."""

    role: str
    """`head` or `shard`."""
    member: str
    """`head-0`, `shard-3`."""
    host: str
    """As it listens: perhaps every interface of its machine."""
    port: int


def scrape_targets(
    heads: Mapping[int, HeadHeartbeat], shards: Mapping[int, ShardHeartbeat]
) -> tuple[ScrapeTarget, ...]:
    """Return who tells metrics, as last heard of: one that has died since is found dead by who scrapes it."""
    targets = [*_targets("head", heads), *_targets("shard", shards)]
    return tuple(target for target in targets if target.port)


def _targets(role: str, heartbeats: Mapping[int, HeadHeartbeat | ShardHeartbeat]) -> list[ScrapeTarget]:
    return [
        ScrapeTarget(role, f"{role}-{number}", heartbeat.host, heartbeat.metrics_port)
        for number, heartbeat in sorted(heartbeats.items())
    ]
