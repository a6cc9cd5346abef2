"""Work on requests that would hold up the event loop, done in threads beside it.

Threads are few, as Python's lock lets no two run, and what is short waits for nothing long. Work waits its turn within
its call's deadline and holds the call's room meanwhile. What is given up before it has begun is dropped at once, with
all it holds; what has begun runs to its end, so that at most one such work a thread is in nobody's account.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from ringpull.ps.errors import DeadlineExceeded

T = TypeVar("T")

ON_LOOP_BYTES: Final = 64 << 10
"""Most bytes that are worked on on the event loop: 1 ms at most."""
LONG_BYTES: Final = 1 << 20
"""What is longer waits for its like only, and nothing shorter for it."""

_SHORT: Final = ThreadPoolExecutor(1, "short-work")
_LONG: Final = ThreadPoolExecutor(1, "long-work")


async def aside(nbytes: int, work: Callable[[], T], deadline_s: float | None = None) -> T:
    """Return what a function returns, run where it holds up no other request for long.

    Args:
        nbytes: Bytes that it works on: short ones are done at once, on the event loop.
        deadline_s: Time on the monotonic clock at which it is given up; None: never.

    Raises:
        DeadlineExceeded: That has passed.
    """
    if nbytes <= ON_LOOP_BYTES:
        return work()
    queued = _Queued(work)
    del work  # or the frame keeps what was dropped
    executor = _SHORT if nbytes <= LONG_BYTES else _LONG
    try:
        async with asyncio.timeout(None if deadline_s is None else deadline_s - time.monotonic()):
            return await asyncio.get_running_loop().run_in_executor(executor, queued)
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed while the request was read, or waited for others to be") from None
    finally:
        queued.drop()


class _Queued(Generic[T]):
    """Work in the queue of a thread, which keeps a place there also when it was dropped."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work

    def __call__(self) -> T:
        work = self._work
        if work is None:  # dropped a moment ago: nobody reads what comes of it
            raise DeadlineExceeded("given up")
        return work()

    def drop(self) -> None:
        self._work = None
