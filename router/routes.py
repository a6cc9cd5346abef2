"""The shard map that pulls are routed by, and the fetching of newer ones. Maps are swapped whole, never edited.

A fetch is a task of its own, one at a time: whoever waits for a map may stop to, and whoever does not wait is not held
up. One that has been under way for long is not waited for at all: the coordinator hangs, and predictions outlive it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from ringpull.ps.errors import RingpullError, Unavailable
from ringpull.router.replicas import Placement
from ringpull.router.shard_map import NO_MAP, MapEdition, ShardAddress, ShardMap

logger: Final = logging.getLogger(__name__)

Refresh = Callable[[], Awaitable[ShardMap]]

PATIENCE_S: Final = 0.5
"""Time from the beginning of a fetch after which nobody waits for it any more."""

ASK_AGAIN_S: Final = 1.0
"""Pause after a fetch before the next one that only might bring something."""


class Routes:
    """The newest shard map, as routing reads it.

    Args:
        refresh: Fetches the newest map. None: maps come by `update` only.
        want: Called with all addresses of every new map, those before a move that drains included.
        deployment: Id of the deployment whose maps these are; empty: any.
    """

    def __init__(
        self,
        refresh: Refresh | None,
        want: Callable[[frozenset[ShardAddress]], None],
        *,
        deployment: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refresh = refresh
        self._want = want
        self._deployment = deployment
        self._clock = clock
        self._placement: Placement | None = None
        self._fetch: asyncio.Task[None] | None = None
        self._began_s = 0.0
        """Begin of the fetch that is under way."""
        self._ended_s = float("-inf")
        """End of the last one."""

    @property
    def edition(self) -> MapEdition:
        """The edition of the map; `NO_MAP` before there is one."""
        return NO_MAP if self._placement is None else self._placement.shard_map.edition

    @property
    def deployment(self) -> str:
        """Id of the deployment whose shards are meant: its own, or else that of the map; empty: any."""
        return self._deployment or ("" if self._placement is None else self._placement.shard_map.deployment)

    def update(self, shard_map: ShardMap) -> bool:
        """Take a newer map; return whether it is one. A map of another deployment never is."""
        if shard_map.edition <= self.edition:
            return False
        if self._deployment and shard_map.deployment not in ("", self._deployment):
            logger.warning("shard map of another deployment not taken", extra={"epoch": shard_map.epoch})
            return False
        self._placement = placement = Placement(shard_map)
        before = () if placement.previous is None else placement.previous.shard_map.shards
        self._want(frozenset((*shard_map.shards, *before)))
        logger.info("shard map taken", extra={"epoch": shard_map.epoch, "shards": len(shard_map.shards)})
        return True

    def current(self) -> Placement:
        """Return the map to route by.

        Raises:
            Unavailable: There is none yet.
        """
        if self._placement is None:
            raise Unavailable("this router has no shard map yet")
        return self._placement

    # -- newer maps ----------------------------------------------------------------------------------------------------

    async def renewed(self, edition: MapEdition, deadline_s: float, *, sparingly: bool = False) -> bool:
        """Try to get a map newer than `edition` in time; return whether there is one. Pulls share one fetch.

        Args:
            sparingly: Not again soon after the last time: nothing says that there is a newer map.
        """
        while self.edition <= edition:
            fetch, began_before = self._fetch, self._fetch is not None
            if fetch is None:
                if self._refresh is None or (sparingly and self._asked_lately):
                    return False
                fetch = self._begin()
            now_s = self._clock()
            left_s = min(deadline_s, self._began_s + PATIENCE_S) - now_s
            if left_s <= 0 or not (await asyncio.wait([fetch], timeout=left_s))[0]:
                return self.edition > edition
            # One that was under way already may have been answered before there was anything newer.
            if not began_before or sparingly:
                break
        return self.edition > edition

    def ask_soon(self) -> None:
        """Have the newest map fetched, sparingly, and wait for nothing."""
        if self._refresh is not None and self._fetch is None and not self._asked_lately:
            self._begin()

    async def refresh(self) -> None:
        """Fetch the newest map, with all others who need it.

        Raises:
            RingpullError: Nobody answers.
        """
        if self._refresh is None:
            raise Unavailable("there is nobody to ask for a newer map")
        await asyncio.shield(self._fetch or self._begin())

    def close(self) -> None:
        """End the fetch that is under way."""
        self._refresh = None
        if self._fetch is not None:
            self._fetch.cancel()

    @property
    def _asked_lately(self) -> bool:
        return self._clock() < self._ended_s + ASK_AGAIN_S

    def _begin(self) -> asyncio.Task[None]:
        assert self._refresh is not None
        self._began_s = self._clock()
        self._fetch = fetch = asyncio.get_running_loop().create_task(self._fetched(self._refresh))
        fetch.add_done_callback(self._ended)
        return fetch

    async def _fetched(self, refresh: Refresh) -> None:
        self.update(await refresh())

    def _ended(self, fetch: asyncio.Task[None]) -> None:
        self._fetch = None
        self._ended_s = self._clock()
        # Nobody to ask: predictions outlive the coordinator, with the map that is there.
        error = None if fetch.cancelled() else fetch.exception()
        if error is not None and not isinstance(error, RingpullError):
            logger.error("a newer shard map could not be fetched", exc_info=error)
