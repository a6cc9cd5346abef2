"""The lease of a head: by which it notices that no heartbeat has come for a while, and asks for the newest map itself.

It asks beside its requests, never in them: a request that has a map is served by it, however old that is. That is safe,
since an old map costs a detour and never a wrong answer:

* a shard refuses slots that it serves no more (`NotOwner`), and versions that it has closed; only then the request
  waits for a map, no longer than its deadline allows;
* a shard that has stopped, or whose port is another process's by now, is found out by the hello of its connection;
* every pull names the version that it is of: rows of its bases never change, and tables with pushed rows do not move.

That nobody answers is no reason not to serve: predictions outlive the coordinator, be it dead or stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from ringpull.ps.errors import Replaced, RingpullError

logger: Final = logging.getLogger(__name__)

ASK_SHARE: Final = 0.5
"""Part of a lease that may be left when the head begins to ask: it was renewed many times in the part before."""

ASK_AGAIN_S: Final = 1.0
"""Pause before the newest map is asked for again, after an answer or none."""

ANSWER_LEASE_S: Final = 2.0
"""Lease that an answer is worth: time for the next heartbeat, or the next answer."""


class Lease:
    """Time for which a head counts on being led. Owned by the event loop."""

    def __init__(self, ask: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without an end: a head that was never led has no coordinator to ask.

        Args:
            ask: Fetches the newest map and routes by it; raises a `RingpullError` when nobody answers.
            clock: Seconds. Waits are the event loop's.
        """
        self._ask = ask
        self._clock = clock
        self._led = asyncio.Event()
        self._lease_s = 0.0
        self._until_s = float("inf")
        self._heard_s: float | None = None
        self._asked_s = float("-inf")
        self._alone = False

    def __repr__(self) -> str:
        return f"<Lease expired={self.expired} heard_s={self.heard_s}>"

    @property
    def expired(self) -> bool:
        """Whether neither a heartbeat nor a map came in time, so that this head's map may be history."""
        return self._clock() >= self._until_s

    @property
    def heard_s(self) -> float | None:
        """Seconds since a leader last renewed the lease; None: never.

        A map that it gives is no sign of a leader: any thread of its process hands that out.
        """
        return None if self._heard_s is None else self._clock() - self._heard_s

    def renew(self, lease_s: float) -> None:
        """Take a heartbeat: so many seconds more, unless the lease has run out: then only the newest map helps.

        A heartbeat that was on its way while this process was stopped says nothing of the map of today.
        """
        now_s = self._heard_s = self._clock()
        self._lease_s = lease_s
        if now_s < self._until_s:
            self._until_s = now_s + lease_s
            self._alone = False
        self._led.set()

    async def keep(self) -> None:
        """Ask for the newest map whenever the lease nears its end or has run out, until cancelled, or replaced."""
        await self._led.wait()
        while True:
            wait_s = self._ask_at_s() - self._clock()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            else:
                try:
                    await self._ask_once()
                except Replaced:
                    return  # Whoever asked has heard it, and stops.

    def _ask_at_s(self) -> float:
        return max(self._until_s - ASK_SHARE * self._lease_s, self._asked_s + ASK_AGAIN_S)

    async def _ask_once(self) -> None:
        try:
            await self._ask()
        except Replaced:
            raise
        except Exception as exc:
            # Whatever it is, the next time may be better. Before the lease has run out there may only be no answer now,
            # and of what is said then, once for each time is enough.
            if self.expired and not self._alone:
                unforeseen = None if isinstance(exc, RingpullError) else exc
                logger.warning(
                    "no heartbeat and no map came for %.0f s; this head serves on by the map it has: %s",
                    self.heard_s or 0.0,
                    exc,
                    exc_info=unforeseen,
                )
                self._alone = True
        else:
            self._alone = False
            self._until_s = max(self._until_s, self._clock() + ANSWER_LEASE_S)
        finally:
            self._asked_s = self._clock()
