"""Asking shards: one connection each, opened when first needed and again after it broke, shared by all requests.

A connection that broke is never reused: the request that lost it fails with `ConnectionLost`, and who asks next
connects anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from ps.errors import DeadlineExceeded, RingpullError, Unavailable
from ps.wire.messages import Reply, Request
from router.shard_map import ShardAddress


class ShardConnection(Protocol):
    """What the router needs of a connection; `ps.wire.connection.Connection` is one."""

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


Connect = Callable[[ShardAddress], Awaitable[ShardConnection]]


class Connections:
    """The connections to the shards of a map, and to those of older maps while requests are in flight there."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._wanted: frozenset[ShardAddress] = frozenset()
        self._opening: dict[ShardAddress, asyncio.Task[ShardConnection]] = {}
        self._open: dict[ShardAddress, ShardConnection] = {}
        self._in_flight: Counter[ShardAddress] = Counter()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return (
            f"<Connections [{len(self._open)} open, {len(self._opening)} opening, {self._in_flight.total()} in flight]>"
        )

    def want(self, addresses: Iterable[ShardAddress]) -> None:
        """Keep connections to these addresses only. Others close when the last request in flight there is answered."""
        self._wanted = frozenset(addresses)
        for address in self._open.keys() - self._wanted:
            if not self._in_flight[address]:
                task = asyncio.create_task(self._forget(address))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def ask(self, address: ShardAddress, message: Request, *, deadline_s: float) -> Reply:
        """Send one request to the shard at `address`, connecting first where needed.

        Raises:
            DeadlineExceeded: No connection, or no reply, in time.
            Unavailable: The shard cannot be reached, or the connection broke (`ConnectionLost`).
            RingpullError: The shard answered with an error.
        """
        self._in_flight[address] += 1
        try:
            connection = self._open.get(address)
            if connection is None or connection.closed:
                connection = await self._opened(address, deadline_s)
            return await connection.request(message, deadline_s=deadline_s)
        finally:
            self._in_flight[address] -= 1
            if not self._in_flight[address]:
                del self._in_flight[address]
                if address not in self._wanted:
                    await self._forget(address)

    async def close(self) -> None:
        """Close all connections. Requests in flight and later ones fail."""
        self._closed = True
        for task in list(self._opening.values()):
            task.cancel()
        for address in list(self._open):
            await self._forget(address)
        await asyncio.gather(*self._closing)

    async def _opened(self, address: ShardAddress, deadline_s: float) -> ShardConnection:
        """Return an open connection. Requests that need the same one share one attempt, which outlives each of them."""
        if self._closed:
            raise Unavailable(f"the router is closed; shard {_where(address)} was not asked")
        opening = self._opening.get(address)
        if opening is None:
            opening = self._opening[address] = asyncio.create_task(self._connected(address))
            opening.add_done_callback(lambda task: self._attempted(address, task))
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                await asyncio.wait([opening])
        except TimeoutError as exc:
            raise DeadlineExceeded(f"no connection to shard {_where(address)} in time") from exc
        if opening.cancelled():
            raise Unavailable(f"the router was closed while it connected to shard {_where(address)}")
        error = opening.exception()
        if isinstance(error, RingpullError):
            # New for each that waited: one exception object raised in many tasks would mix their tracebacks.
            raise type(error)(*error.args) from error
        return opening.result()

    def _attempted(self, address: ShardAddress, attempt: asyncio.Task[ShardConnection]) -> None:
        del self._opening[address]
        if not attempt.cancelled():
            # Seen here, because those who waited may all have run out of time: nobody else would look at it.
            attempt.exception()

    async def _connected(self, address: ShardAddress) -> ShardConnection:
        try:
            connection = await self._connect(address)
        except OSError as exc:
            raise Unavailable(f"shard {_where(address)} cannot be reached: {exc}") from exc
        if address not in self._wanted and not self._in_flight[address]:
            # Its shard left the map, and whoever asked gave up: nobody is left to close it.
            await connection.close()
            raise Unavailable(f"shard {_where(address)} is not in the map any more")
        self._open[address] = connection
        return connection

    async def _forget(self, address: ShardAddress) -> None:
        connection = self._open.pop(address, None)
        if connection is not None:
            await connection.close()


def _where(address: ShardAddress) -> str:
    return f"{address.shard} at {address.host}:{address.port}"
