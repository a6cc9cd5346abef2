"""Route planning: takes things to ask about, keys mostly, gives parts of them with the shard to ask for each.

A plan is made by the newest map; things without an owner there that may be asked go by the map before it, while a move
drains. Each is in exactly one part of a plan, also those that no shard can be asked about.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from ringpull.router.health import Health
from ringpull.router.here import is_here
from ringpull.router.question import BatchT, Exclusions, PartT, Question
from ringpull.router.replicas import Loads, Placement
from ringpull.router.routes import Routes
from ringpull.router.shard_map import MapEdition, ShardAddress


@dataclass(frozen=True, slots=True)
class RoutePlan(Generic[PartT]):
    """Parts of a question and the shards they are asked of, by the map of one moment."""

    edition: MapEdition
    parts: Sequence[tuple[Placement, PartT]]
    """Parts with a shard to ask, each with the map it goes by: the newest one, or the one before it."""
    unowned: Sequence[PartT]
    """Parts without an owner that may be asked."""
    excluded: Exclusions


class RoutePlanner:
    """Plans the rounds of all questions of one kind of a router."""

    def __init__(self, routes: Routes, health: Health, loads: Loads) -> None:
        self._routes = routes
        self._health = health
        self._loads = loads

    def plan(
        self,
        question: Question[BatchT, PartT, Any],
        batches: Sequence[BatchT],
        excluded: Exclusions,
        *,
        spare_ejected: bool = False,
    ) -> RoutePlan[PartT]:
        """Return whom to ask about these things of a question, the shards in `excluded` left out.

        Ejected shards are asked only for what no other shard has; if `spare_ejected`, not even for that.

        Raises:
            Unavailable: There is no map.
        """
        current, ejected = self._routes.current(), self._health.ejected
        parts, unowned = self._assign(question, batches, current, {**excluded, **ejected} if ejected else excluded)
        if unowned and ejected and not spare_ejected:
            excluded = {**excluded, **self._health.given_up}
            again = [question.as_batch(part) for part in unowned]
            more, unowned = self._assign(question, again, current, excluded)
            parts += more
        return RoutePlan(current.shard_map.edition, parts, unowned, excluded)

    async def renew_map(self, edition: MapEdition, deadline_s: float, *, sparingly: bool = False) -> bool:
        """Try to get a map newer than `edition` in time; return whether there is one. See `Routes.renewed`."""
        return await self._routes.renewed(edition, deadline_s, sparingly=sparingly)

    def ask_for_map(self) -> None:
        """Have the newest map fetched, sparingly, and wait for nothing."""
        self._routes.ask_soon()

    def _assign(
        self,
        question: Question[BatchT, PartT, Any],
        batches: Sequence[BatchT],
        current: Placement,
        spared: Collection[ShardAddress],
    ) -> tuple[list[tuple[Placement, PartT]], list[PartT]]:
        """Give things to whom they are asked of by this map, else by the map before it; return what is unowned, too.

        What is here counts as one: where one layer of it is to be spared, all are.
        """
        parts: list[tuple[Placement, PartT]] = []
        unowned: list[PartT] = []
        placement: Placement | None = current
        here = not any(is_here(address.shard) for address in spared)
        while batches and placement is not None:
            waiting = self._loads.waiting(placement, spared)
            unowned = []
            for part in question.parts(batches, placement, waiting, here):
                if part.shard is None:
                    unowned.append(part)
                else:
                    parts.append((placement, part))
            batches, placement = [question.as_batch(part) for part in unowned], placement.previous
        return parts, unowned
