"""Rounds of questions in flight, counted by the epoch of the map they were routed by.

So a router knows when no shard is asked by an old map any more, and the coordinator may take its ranges away.
"""

from __future__ import annotations

import asyncio
from collections import Counter


class InFlightByEpoch:
    """Counts of rounds in flight. One event loop, no locks."""

    def __init__(self) -> None:
        self._rounds: Counter[int] = Counter()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def __repr__(self) -> str:
        return f"<InFlightByEpoch {dict(self._rounds)}>"

    def begin(self, epoch: int) -> None:
        """Count one round. Each that begins must `end`, once."""
        self._rounds[epoch] += 1

    def end(self, epoch: int) -> None:
        """Count one round less, and wake the tasks that wait for the last one of its epoch."""
        self._rounds[epoch] -= 1
        if not self._rounds[epoch]:
            del self._rounds[epoch]
            for wanted, done in self._waiting:
                if self._is_drained(wanted) and not done.done():
                    done.set_result(None)

    async def drained(self, epoch: int) -> None:
        """Wait until no round of an epoch below this one is in flight."""
        if self._is_drained(epoch):
            return
        entry = (epoch, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            await entry[1]
        finally:
            self._waiting.remove(entry)

    def _is_drained(self, epoch: int) -> bool:
        return min(self._rounds, default=epoch) >= epoch
