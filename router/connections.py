"""Connections to the shards, one to each, opened when first needed and again after it broke, shared by all requests.

A connection that broke is never reused: the request that lost it fails with `ConnectionLost`, and the next one connects
anew, at once. From then on attempts to that address are spaced by a backoff until the shard has answered
something: between two of them requests fail at once, so that other owners, or the policy of the table, answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from ringpull.ps.errors import DeadlineExceeded, RingpullError, Stranger, Unavailable
from ringpull.ps.wire.messages import Reply, Request
from ringpull.router.backoff import Backoff
from ringpull.router.shard_map import ShardAddress


class ShardConnection(Protocol):
    """A connection as the router needs it; `ringpull.ps.wire.connection.Connection` is one."""

    @property
    def closed(self) -> bool:
        """Whether every further request would fail."""
        ...

    async def request(self, message: Request, *, deadline_s: float) -> Reply:
        """Send one request and return its reply; failures are raised as `RingpullError`s."""
        ...

    async def close(self) -> None:
        """Close; requests in flight fail."""
        ...


class NotReached(Unavailable):
    """Raised when there is no connection to a shard: what it would have said is not known."""


Connect = Callable[[ShardAddress], Awaitable[ShardConnection]]


class _Line:
    """The line between this router and one address: its connection, if any, and attempts to open one."""

    __slots__ = ("address", "attempts", "connection", "error", "in_flight", "next_s", "opening", "strange", "wanted")

    def __init__(self, address: ShardAddress) -> None:
        self.address = address
        self.wanted = False
        """Whether the shard is in the map."""
        self.in_flight = 0
        """Requests in flight, those that wait for a connection included."""
        self.connection: ShardConnection | None = None
        self.opening: asyncio.Task[ShardConnection] | None = None
        self.attempts = 0
        """Attempts to connect since the shard last answered: opening a connection that then breaks is no success."""
        self.next_s = 0.0
        """Time of the next attempt, at the earliest, on the router's clock."""
        self.error = "the connection broke before anything was answered"
        """Reason why the last attempt failed."""
        self.strange = False
        """Whether another one than was meant listened there."""

    def __str__(self) -> str:
        return f"{self.address.shard} at {self.address.host}:{self.address.port}"

    @property
    def is_open(self) -> bool:
        return self.connection is not None and not self.connection.closed

    async def hang_up(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()


class Connections:
    """The connections to the shards of a map, and to those of older maps while requests are in flight there."""

    def __init__(self, connect: Connect, backoff: Backoff, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._connect = connect
        self._backoff = backoff
        self._clock = clock
        self._lines: dict[ShardAddress, _Line] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        lines = self._lines.values()
        return (
            f"<Connections [{sum(line.is_open for line in lines)} open,"
            f" {sum(line.opening is not None for line in lines)} opening,"
            f" {sum(line.in_flight for line in lines)} in flight]>"
        )

    def want(self, addresses: Iterable[ShardAddress]) -> None:
        """Keep connections to these addresses only. Others close when the last request in flight there is answered.

        Where a stranger listened, whoever the new map means may be right: it is tried again at once.
        """
        wanted = frozenset(addresses)
        for address in wanted:
            line = self._line(address)
            line.wanted = True
            if line.strange:
                line.strange, line.attempts = False, 0
        for line in list(self._lines.values()):
            if line.address not in wanted:
                line.wanted = False
                if not line.in_flight:
                    task = asyncio.create_task(self._let_go(line))
                    self._closing.add(task)
                    task.add_done_callback(self._closing.discard)

    async def ask(self, address: ShardAddress, message: Request, *, deadline_s: float) -> Reply:
        """Send one request to the shard at `address`, connecting first where needed.

        Raises:
            DeadlineExceeded: No connection, or no reply, in time.
            NotReached: The shard cannot be reached, or could not a moment ago.
            Stranger: Another process listens there.
            ConnectionLost: The connection broke.
            RingpullError: The shard answered with an error, `Unavailable` for one.
        """
        line = self._line(address)
        line.in_flight += 1
        try:
            connection = line.connection
            if connection is None or connection.closed:
                connection = await self._opened(line, deadline_s)
            reply = await connection.request(message, deadline_s=deadline_s)
            line.attempts = 0
            return reply
        except Stranger as exc:
            line.error, line.strange = str(exc), True
            raise
        finally:
            line.in_flight -= 1
            if not line.in_flight and not line.wanted:
                await self._let_go(line)

    def attempt_in_s(self, address: ShardAddress) -> float:
        """Return the seconds until the next attempt to connect there is allowed; 0 where there is a connection."""
        line = self._lines.get(address)
        return 0.0 if line is None or line.is_open else self._wait_s(line)

    async def drop(self, address: ShardAddress) -> None:
        """Close the connection to a shard that says nothing; requests in flight there fail, the next one connects."""
        line = self._lines.get(address)
        if line is not None:
            await line.hang_up()

    async def close(self) -> None:
        """Close all connections. Requests in flight and later ones fail."""
        self._closed = True
        for line in list(self._lines.values()):
            if line.opening is not None:
                line.opening.cancel()
            await line.hang_up()
        await asyncio.gather(*self._closing)

    def _line(self, address: ShardAddress) -> _Line:
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = _Line(address)
        return line

    def _wait_s(self, line: _Line) -> float:
        return max(0.0, line.next_s - self._clock()) if line.attempts else 0.0

    async def _opened(self, line: _Line, deadline_s: float) -> ShardConnection:
        """Return an open connection. Requests that need the same one share one attempt, which outlives each of them."""
        if self._closed:
            raise NotReached(f"the router is closed; shard {line} was not asked")
        opening = line.opening
        if opening is None:
            wait_s = self._wait_s(line)
            if wait_s:
                raise NotReached(f"shard {line} is not tried again for {wait_s * 1e3:.0f} ms: {line.error}")
            opening = line.opening = asyncio.create_task(self._connected(line))
            opening.add_done_callback(lambda task: _attempted(line, task))
        try:
            async with asyncio.timeout(deadline_s - self._clock()):
                await asyncio.wait([opening])
        except TimeoutError as exc:
            raise DeadlineExceeded(f"no connection to shard {line} in time") from exc
        if opening.cancelled():
            raise NotReached(f"the router was closed while it connected to shard {line}")
        error = opening.exception()
        if isinstance(error, RingpullError):
            # New for each that waited: one exception object raised in many tasks would mix their tracebacks.
            raise NotReached(*error.args) from error
        return opening.result()

    async def _connected(self, line: _Line) -> ShardConnection:
        line.attempts += 1
        try:
            connection = await self._connect(line.address)
        except OSError as exc:
            line.error = str(exc)
            raise Unavailable(f"shard {line} cannot be reached: {exc}") from exc
        except RingpullError as exc:
            line.error = str(exc)
            raise
        finally:
            # Counted from the end: an attempt may itself take seconds.
            line.next_s = self._clock() + self._backoff.wait_s(line.attempts)
        if not line.wanted and not line.in_flight:
            # Its shard left the map, and all requests gave up: nothing else is left to close it.
            await connection.close()
            raise Unavailable(f"shard {line} is not in the map any more")
        line.connection = connection
        return connection

    async def _let_go(self, line: _Line) -> None:
        """Close the connection to a shard that left the map, unless it is in use by now, or back in the map."""
        if self._lines.get(line.address) is line and not line.in_flight and not line.wanted:
            del self._lines[line.address]
            await line.hang_up()


def _attempted(line: _Line, attempt: asyncio.Task[ShardConnection]) -> None:
    line.opening = None
    if not attempt.cancelled():
        # Retrieved here: all requests that waited may have run out of time, and asyncio would warn of an unseen error.
        attempt.exception()
