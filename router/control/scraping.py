"""Where each process of a deployment tells its metrics: what a scraper is to be pointed at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ringpull.ps.pulse import ShardPulse
from ringpull.router.control.facts import HeadPulse


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


def scrape_targets(heads: Mapping[int, HeadPulse], shards: Mapping[int, ShardPulse]) -> tuple[ScrapeTarget, ...]:
    """Return who tells metrics, as last heard of: one that has died since is found dead by who scrapes it."""
    told = [*_targets("head", heads), *_targets("shard", shards)]
    return tuple(target for target in told if target.port)


def _targets(role: str, pulses: Mapping[int, HeadPulse | ShardPulse]) -> list[ScrapeTarget]:
    return [
        ScrapeTarget(role, f"{role}-{number}", pulse.host, pulse.metrics_port)
        for number, pulse in sorted(pulses.items())
    ]
