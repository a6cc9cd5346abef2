"""The lease of a head: for how long it may route by its map without having been heard of.

A head that was stopped, or cut off, may wake up with a map that is history. It asks for the newest one before it serves
again; a heartbeat that was on its way all that time renews nothing. That nobody answers is no reason not to serve:
predictions outlive the coordinator, and a shard refuses slots that are not its own, so an old map costs a detour and
never a wrong answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from ringpull.ps.errors import RingpullError

logger: Final = logging.getLogger(__name__)

ASK_TIMEOUT_S: Final = 0.5
"""Longest time that a request waits for the newest map."""

ASK_AGAIN_S: Final = 1.0
"""Pause before the newest map is asked for again, after an answer or none."""


class Lease:
    """Time for which a head may route by its map. Owned by the event loop."""

    def __init__(self, ask: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without an end: a head that nobody ever pulsed has no coordinator to ask.

        Args:
            ask: Fetches the newest map and routes by it; raises a `RingpullError` when nobody answers.
        """
        self._ask = ask
        self._clock = clock
        self._until_s = float("inf")
        self._ask_from_s = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Lease expired={self.expired}>"

    @property
    def expired(self) -> bool:
        """Whether the newest map must be asked for before the next request."""
        return self._clock() >= max(self._until_s, self._ask_from_s)

    def renew(self, lease_s: float) -> None:
        """Serve for so many seconds more, unless the lease has run out: then only the newest map helps."""
        now_s = self._clock()
        if now_s < self._until_s:
            self._until_s = now_s + lease_s

    async def refresh(self) -> None:
        """Ask for the newest map, all requests that need it together; go on after a while without."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._refreshed())
        await asyncio.shield(self._asking)

    async def _refreshed(self) -> None:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                await self._ask()
            # Long enough for the next pulse.
            self._until_s = self._clock() + ASK_AGAIN_S
        except (RingpullError, TimeoutError) as exc:
            logger.warning("no newer shard map could be had, the old one serves on: %s", exc)
        finally:
            # Answered or not: the next request does not wait for it at once again.
            self._ask_from_s = self._clock() + ASK_AGAIN_S
            self._asking = None
