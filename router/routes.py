"""The shard map that pulls are routed by, and the fetching of newer ones. Maps are swapped whole, never edited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ringpull.ps.errors import RingpullError, Unavailable
from ringpull.router.replicas import Placement
from ringpull.router.shard_map import ShardAddress, ShardMap

Refresh = Callable[[], Awaitable[ShardMap]]


class Routes:
    """The newest shard map, as routing reads it.

    Args:
        refresh: Fetches the newest map. None: maps come by `update` only.
        want: Called with all addresses of every new map, those before a move that drains included.
    """

    def __init__(
        self,
        refresh: Refresh | None,
        want: Callable[[frozenset[ShardAddress]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refresh = refresh
        self._want = want
        self._clock = clock
        self._refreshing = asyncio.Lock()
        self._placement: Placement | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the map; 0 before there is one."""
        return 0 if self._placement is None else self._placement.epoch

    def update(self, shard_map: ShardMap) -> None:
        """Take a newer map; one that is not newer is ignored."""
        if self._placement is None or shard_map.epoch > self._placement.epoch:
            self._placement = placement = Placement(shard_map)
            before = () if placement.previous is None else placement.previous.shard_map.shards
            self._want(frozenset((*shard_map.shards, *before)))

    def current(self) -> Placement:
        """Return the map to route by.

        Raises:
            Unavailable: There is none yet.
        """
        if self._placement is None:
            raise Unavailable("this router has no shard map yet")
        return self._placement

    async def renewed(self, epoch: int, deadline_s: float) -> bool:
        """Try to get a map newer than `epoch` in time; return whether there is one. Pulls share one fetch."""
        try:
            async with asyncio.timeout(deadline_s - self._clock()), self._refreshing:
                if self._refresh is not None and self.epoch <= epoch:
                    self.update(await self._refresh())
        except (TimeoutError, RingpullError):
            # Nobody to ask: predictions outlive the coordinator, with the map that is there.
            return False
        return self.epoch > epoch
