"""Sums of calls over all heads, as any one of them tells them.

Its own numbers are those of the moment, the others' come from the coordinator, which is asked off the event loop, by
one question at a time and a few a second: whoever asks shares the next question that begins. See
`ringpull.router.control.head_counts` for why sums never go back. Where the coordinator does not answer the others'
numbers are those of its last answer, and it is said so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final

from ringpull.inference.head.catalog import VersionName
from ringpull.inference.head.metrics.call_tally import CallTally, Overall, keys_here, model_counts, overall
from ringpull.inference.head.metrics.model_counts import ModelCounts
from ringpull.ps.errors import RingpullError, Unavailable
from ringpull.router.control.head_counts import GatheredCounts, Growing, HeadCounts, KnownTotals, summed
from ringpull.router.control.observed import TableTraffic
from ringpull.router.control.operations import Asker, Operations, Overview
from ringpull.router.counters import RouterCounters

ASK_EVERY_S: Final = 0.2
"""Shortest time from one question to the next."""
PATIENCE_S: Final = 2.0
"""Time for the coordinator to answer, after which the sums go without it."""


def traffic_of(counted: RouterCounters) -> dict[str, TableTraffic]:
    """Return what was looked up, by `MODEL/TABLE`, wherever it was answered."""
    return {
        f"{model}/{table}": TableTraffic(counts.keys, counts.bags, counts.missing, counts.here)
        for (model, table), counts in counted.tables.items()
    }


class DeploymentCounts:
    """Sums over all heads. Owned by the event loop."""

    def __init__(
        self,
        tally: CallTally,
        asker: Asker,
        operations: Operations | None,
        loaded: Callable[[], list[VersionName]] = list,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Prepare to ask.

        Args:
            tally: Counts of this head.
            asker: This head.
            operations: The way to the coordinator; None: there is this head alone.
            loaded: Returns the versions that are loaded here.
            patience_s: Time for the coordinator to answer.
        """
        self.warning = ""
        """Sentence that says why sums are not of now; empty: they are."""
        self._tally = tally
        self._asker = asker
        self._operations = operations
        self._loaded = loaded
        self._patience_s = patience_s
        self._known = KnownTotals()
        self._overview: Overview | None = None
        # Of its own, so that a coordinator that hangs holds up nobody else who asks it.
        self._asking = ThreadPoolExecutor(1, "counts")
        self._under_way: Future[Overview] | None = None
        self._asked_s = -ASK_EVERY_S
        self._next: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._own = HeadCounts()

    def __repr__(self) -> str:
        return f"<DeploymentCounts {self._known!r} {self.warning}>"

    async def of_models(self) -> dict[VersionName, ModelCounts]:
        """Return the counts of every version that is loaded here, over all heads, with every call that this head has
        answered by now."""
        await self.renew()
        sums = {key: ModelCounts() for key in self._loaded()}
        for totals in self._known.by_life().values():
            for key, counts in model_counts(totals).items():
                if key in sums:
                    sums[key] += counts
        return sums

    async def renew(self) -> None:
        """Have the counts of all heads as of now or later."""
        if self._next is None:
            self._next = asyncio.create_task(self._renew())
        await asyncio.shield(self._next)

    def overall(self) -> Overall:
        """Return what all heads did in all their lives, as of the last `renew`."""
        return overall(self._known.by_life())

    def keys_here(self, table: str, version: int) -> tuple[int, int]:
        """Return how many keys of `MODEL/TABLE` heads answered themselves, and how many of these were missing."""
        return keys_here(self._known.by_life(), table, version)

    def recent(self) -> Growing:
        """Return the numbers of the last steps, summed over all heads, as of the last `renew`."""
        gathered = GatheredCounts() if self._overview is None else self._overview.counts
        return summed([gathered.recent, self._own.recent])

    def overview(self) -> Overview | None:
        """Return what the coordinator told when it answered last; None: it never has. See `warning`."""
        return self._overview

    def close(self) -> None:
        """Ask no more."""
        self._asking.shutdown(wait=False, cancel_futures=True)

    async def _renew(self) -> None:
        async with self._turn:
            await asyncio.sleep(self._asked_s + ASK_EVERY_S - time.monotonic())
            self._next = None  # Whoever asks from now on may have calls in mind that are not counted below.
            self._asked_s = time.monotonic()
            self._own = self._tally.counts()
            self._known.take(self._asker.incarnation, self._own.totals)
            self._known.keep_only(self._loaded())
            try:
                answer = await self._ask()
            except RingpullError as exc:
                self.warning = f"sums are of this head as of now and of others as last heard: {exc}"
                return
            if answer is not None:
                self._overview = answer
                for incarnation, totals in answer.counts.totals.items():
                    self._known.take(incarnation, totals)
            self.warning = ""

    async def _ask(self) -> Overview | None:
        if self._operations is None:
            return None
        if self._under_way is not None and not self._under_way.done():
            raise Unavailable("the coordinator does not answer")
        ask = partial(self._operations.overview, self._asker, self._own, self._known.by_life())
        self._under_way = self._asking.submit(ask)
        try:
            async with asyncio.timeout(self._patience_s):
                return await asyncio.wrap_future(self._under_way)
        except TimeoutError as exc:
            raise Unavailable(f"the coordinator has not answered within {self._patience_s:g} s") from exc
