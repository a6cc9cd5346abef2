"""Route planning: takes keys, gives parts of them with the shard to ask for each.

A plan is made by the newest map; keys without an owner there that may be asked go by the map before it, while a move
drains. Every key is in exactly one part of a plan, also those that no shard can be asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ringpull.router.batch import Batch
from ringpull.router.health import Health
from ringpull.router.partition import Part, partition
from ringpull.router.pull import Exclusions, Pull
from ringpull.router.replicas import Loads, Placement, least_loaded
from ringpull.router.routes import Routes
from ringpull.router.shard_map import ShardAddress, Stamp


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """Parts of a pull and the shards they are asked of, by the map of one moment."""

    stamp: Stamp
    parts: Sequence[tuple[Placement, Part]]
    """Parts with a shard to ask, each with the map it goes by: the newest one, or the one before it."""
    unowned: Sequence[Part]
    """Parts without an owner that may be asked."""
    excluded: Exclusions


class RoutePlanner:
    """Plans the rounds of all pulls of a router."""

    def __init__(self, routes: Routes, health: Health, loads: Loads) -> None:
        self._routes = routes
        self._health = health
        self._loads = loads

    def plan(
        self, pull: Pull, batches: Sequence[Batch], excluded: Exclusions, *, spare_ejected: bool = False
    ) -> RoutePlan:
        """Return whom to ask for these keys of a pull, the shards in `excluded` left out.

        Ejected shards are asked only for what no other shard has; if `spare_ejected`, not even for that.

        Raises:
            Unavailable: There is no map.
        """
        current, ejected = self._routes.current(), self._health.ejected
        parts, unowned = self._assign(pull, batches, current, {**excluded, **ejected} if ejected else excluded)
        if unowned and ejected and not spare_ejected:
            excluded = {**excluded, **self._health.given_up}
            more, unowned = self._assign(pull, [part.as_batch() for part in unowned], current, excluded)
            parts += more
        return RoutePlan(current.shard_map.stamp, parts, unowned, excluded)

    async def renew_map(self, stamp: Stamp, deadline_s: float, *, sparingly: bool = False) -> bool:
        """Try to get a map newer than `stamp` in time; return whether there is one. See `Routes.renewed`."""
        return await self._routes.renewed(stamp, deadline_s, sparingly=sparingly)

    def ask_for_map(self) -> None:
        """Have the newest map fetched, sparingly, and wait for nothing."""
        self._routes.ask_soon()

    def _assign(
        self, pull: Pull, batches: Sequence[Batch], current: Placement, spared: Collection[ShardAddress]
    ) -> tuple[list[tuple[Placement, Part]], list[Part]]:
        """Give keys to owners by this map, else to those by the map before it; return what is unowned, too."""
        parts: list[tuple[Placement, Part]] = []
        unowned: list[Part] = []
        placement: Placement | None = current
        while batches and placement is not None:
            replicas = placement.replicas(pull.model, pull.batch.tables)
            waiting = self._loads.waiting(placement, spared)
            full_copy = least_loaded(waiting)
            unowned = []
            for batch in batches:
                for part in partition(batch, replicas, full_copy, placement.owners, waiting):
                    if part.shard is None:
                        unowned.append(part)
                    else:
                        parts.append((placement, part))
            batches, placement = [part.as_batch() for part in unowned], placement.previous
        return parts, unowned
