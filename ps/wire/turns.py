"""Turns at work that strangers can ask for on an event loop: one at a time, and for a small share of its time.

A handshake of TLS costs a millisecond or two, and whoever connects may begin one. Done as they come, strangers would
fill a loop that predictions, or pulls, run on. So each step waits for its turn: one in a turn of the loop, and, once
`BURST_S` were used up, no more than a share of all time. Addresses take turns with each other: one that asks for much
makes its own steps wait, not those of others.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

BURST_S: Final = 0.05
"""Work that is done without a wait, after a while without any."""


class Turns:
    """Steps that wait, of addresses. Owned by one event loop."""

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begin with none.

        Args:
            share: Part of the loop's time that steps may take, over 0 and below 1.
        """
        self._share = share
        self._clock = clock
        self._waiting: OrderedDict[str, OrderedDict[Hashable, Callable[[], None]]] = OrderedDict()
        self._addresses: dict[Hashable, str] = {}
        self._used_s = 0.0
        """Time that steps took, less what they might have taken since."""
        self._at_s = clock()
        self._next: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._addresses)

    def ask(self, who: Hashable, address: str, step: Callable[[], None]) -> None:
        """Do a step when its turn comes, in another turn of the loop; of one that waits already nothing new."""
        if who in self._addresses:
            return
        self._addresses[who] = address
        self._waiting.setdefault(address, OrderedDict())[who] = step
        if self._next is None:
            self._do_soon()

    def forget(self, who: Hashable) -> None:
        """Do nothing any more of what one has asked for."""
        address = self._addresses.pop(who, None)
        if address is not None:
            del self._waiting[address][who]
            if not self._waiting[address]:
                del self._waiting[address]

    def _do_soon(self) -> None:
        loop, now_s = asyncio.get_running_loop(), self._clock()
        self._used_s = max(0.0, self._used_s - (now_s - self._at_s) * self._share)
        self._at_s = now_s
        wait_s = (self._used_s - BURST_S) / self._share
        self._next = loop.call_later(wait_s, self._do) if wait_s > 0 else loop.call_soon(self._do)

    def _do(self) -> None:
        self._next = None
        if not self._waiting:
            return
        address, of_address = self._waiting.popitem(last=False)
        who, step = of_address.popitem(last=False)
        del self._addresses[who]
        if of_address:
            self._waiting[address] = of_address  # behind the others
        began_s = self._clock()
        try:
            step()
        finally:
            self._used_s += self._clock() - began_s
            if self._waiting and self._next is None:
                self._do_soon()
