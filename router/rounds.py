"""Rounds in flight, by the epoch of the map they go by: so that it is known when nobody is asked by an old one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Rounds:
    """Counts rounds. One event loop, no locks."""

    def __init__(self) -> None:
        self._in_flight: Counter[int] = Counter()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def __repr__(self) -> str:
        return f"<Rounds {dict(self._in_flight)}>"

    @contextmanager
    def by(self, epoch: int) -> Iterator[None]:
        """Count one round while this context is entered."""
        self._in_flight[epoch] += 1
        try:
            yield
        finally:
            self._in_flight[epoch] -= 1
            if not self._in_flight[epoch]:
                del self._in_flight[epoch]
                for wanted, done in self._waiting:
                    if self._is_drained(wanted) and not done.done():
                        done.set_result(None)

    async def drained(self, epoch: int) -> None:
        """Wait until no round goes by an epoch below this one."""
        if self._is_drained(epoch):
            return
        entry = (epoch, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            await entry[1]
        finally:
            self._waiting.remove(entry)

    def _is_drained(self, epoch: int) -> bool:
        return min(self._in_flight, default=epoch) >= epoch
