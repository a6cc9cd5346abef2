"""Waits on an event loop that may itself be held up: they tell a silent peer from a deaf process.

A process that stood still, or has more to do than it can, finds expired timers and unread answers at once; libuv runs
the timers first. So whatever judges a peer by a timer lets in first what has arrived, and counts no time in which this
loop read nothing itself.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_TURNS: Final = 4
"""Turns of the loop: one in which sockets are read, then one each for the request, its task, and the task's waiter."""

_SLICES: Final = 10
"""Slices of a wait. Each counts as its tenth, however long the loop took over it, and lets answers in."""


async def let_answers_in() -> None:
    """Let the event loop read what has arrived, and wake the tasks that wait for it."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def done_in(future: asyncio.Future[Any], seconds: float) -> bool:
    """Wait until a future is done, for `seconds` of a loop that is not held up; return whether it is."""
    for _ in range(_SLICES):
        await asyncio.wait([future], timeout=seconds / _SLICES)
        if not future.done():
            await let_answers_in()
        if future.done():
            return True
    return False


def wake(future: asyncio.Future[None]) -> None:
    """Set a future that may be set already, or cancelled."""
    if not future.done():
        future.set_result(None)
