"""Requests in flight of one kind for one version: counted, waited for, and refused once the version is closed."""

from __future__ import annotations

import asyncio
from types import TracebackType

from ringpull.ps.errors import Unavailable


class InFlight:
    """Context manager around each request. Owned by the event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def __repr__(self) -> str:
        return f"in_flight={self._count} closed={self._closed}"

    def check_open(self) -> None:
        """Check that requests are taken.

        Raises:
            Unavailable: The head is stopping, or the version goes.
        """
        if self._closed:
            raise Unavailable("this head is stopping")

    def __enter__(self) -> None:
        self.check_open()
        self._count += 1
        self._idle.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def close(self, timeout_s: float) -> None:
        """Take no more requests and wait until those here are answered, for at most `timeout_s`."""
        self._closed = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass  # The router fails what is left when it is closed.
