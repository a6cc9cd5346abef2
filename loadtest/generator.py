"""The load generator: arrivals -> sender -> outcomes. It runs every load over gRPC but locust's.

Benches of the data plane ask shards by themselves. An open loop sends when a request is due, whatever the answers do,
and counts from then on: what queues, and what the generator itself sends late, is in the latency. A closed loop keeps
so many requests in flight, each sent when one before it has ended. What is sent is the sender's business, what is kept
of an outcome is its receiver's.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from ringpull.inference.client.channels import open_channel
from ringpull.inference.client.connecting import through_proxy
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.numbers import timeout
from ringpull.inference.client.stubs import CHANNEL_OPTIONS, PREDICT
from ringpull.inference.client.targets import parse_target
from ringpull.inference.errors import RingpullError, Unavailable

MAX_IN_FLIGHT: Final = 10_000
"""Requests in flight beyond which one fails unsent: the server is hopelessly behind, and memory is finite."""
CONNECT_TIMEOUT_S: Final = 60.0

CLIENT_OF_ITS_OWN: Final = (("grpc.use_local_subchannel_pool", 1),)
"""Channel option without which all channels of a process share one connection: they stand for clients of their own."""

FAILURES: Final = (grpc.RpcError, RingpullError)
"""Errors that are outcomes; any other one is a defect of the sender, and ends the load."""

Sender = Callable[[int, float], Awaitable[Any]]
"""Sends the request of this number, which is so many seconds late already; returns the answer or raises a failure."""


class NotSent(RingpullError):
    """Raised instead of sending a request while too many others wait for an answer."""


@dataclass(slots=True)
class Outcome:
    """One request from when it was due to its end; times are seconds since the load began."""

    number: int
    due_s: float
    sent_s: float
    end_s: float
    answer: Any
    error: Exception | None

    @property
    def took_s(self) -> float:
        """Latency from when the request was due."""
        return self.end_s - self.due_s

    @property
    def late_s(self) -> float:
        """Delay from due to sent."""
        return self.sent_s - self.due_s

    @property
    def status(self) -> str:
        """gRPC status code, or the class of an error that has none; OK for an answer."""
        return "OK" if self.error is None else _status(self.error)

    @property
    def why(self) -> str:
        """Status and the server's words, in one line; empty for an answer."""
        return "" if self.error is None else why_failed(self.error)


def why_failed(error: Exception) -> str:
    """Return the status of a failed request and the server's words, in one line."""
    return f"{_status(error)}: {error.details() if isinstance(error, grpc.RpcError) else error}"


def _status(error: Exception) -> str:
    return str(error.code().name) if isinstance(error, grpc.RpcError) else type(error).__name__


class Load:
    """A run of load, whose clock starts when it is made.

    Args:
        sender: Called once per request.
        ended: Receives every outcome, in the order in which requests end.
        max_in_flight: Requests of an open loop that may wait for an answer at once.
    """

    def __init__(
        self, sender: Sender, ended: Callable[[Outcome], object], *, max_in_flight: int = MAX_IN_FLIGHT
    ) -> None:
        self._sender = sender
        self._ended = ended
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._begin = time.perf_counter()

    def now_s(self) -> float:
        """Return the seconds since the load began."""
        return time.perf_counter() - self._begin

    async def open_loop(self, arrivals: Iterable[float]) -> None:
        """Send a request at each of these times, seconds since the load began; return when all have ended."""
        async with asyncio.TaskGroup() as group:
            for number, due_s in enumerate(arrivals):
                if (delay := due_s - self.now_s()) > 0:
                    await asyncio.sleep(delay)
                if self._in_flight >= self._max_in_flight:
                    error = NotSent(f"{self._max_in_flight} requests were waiting")
                    now_s = self.now_s()
                    self._ended(Outcome(number, due_s, now_s, now_s, None, error))
                    await asyncio.sleep(0)  # answers must be read, or none of those waiting ever ends
                else:
                    self._in_flight += 1  # here, for a task that is late may not have begun when the next is due
                    group.create_task(self._send(number, due_s))

    async def closed_loop(self, numbers: Iterable[int], in_flight: int, *, pause_s: float | None = None) -> None:
        """Send the requests of these numbers, `in_flight` at a time; return when all have ended.

        Args:
            pause_s: Pause between an answer and the next request; None: none, not even a turn of the event loop.
        """
        rest = iter(numbers)

        async def ask() -> None:
            for number in rest:
                self._in_flight += 1
                await self._send(number, self.now_s())
                if pause_s is not None:
                    await asyncio.sleep(pause_s)

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(ask())

    def for_seconds(self, seconds: float) -> Iterator[int]:
        """Yield numbers from 0 on until so many seconds have passed."""
        end = time.perf_counter() + seconds
        return itertools.takewhile(lambda _: time.perf_counter() < end, itertools.count())

    async def _send(self, number: int, due_s: float) -> None:
        sent_s, answer, error = self.now_s(), None, None
        try:
            answer = await self._sender(number, sent_s - due_s)
        except FAILURES as exc:
            error = exc
        end_s = self.now_s()
        self._in_flight -= 1
        self._ended(Outcome(number, due_s, sent_s, end_s, answer, error))


class PayloadSender:
    """Sends encoded requests in turns, over connections in turns; an answer is bytes, too.

    Args:
        timeout_s: Deadline of a request from when it is sent; None: none.
        from_due: Count the deadline from when the request was due instead.
        credentials: Credentials with the token; None: those of the environment.
    """

    def __init__(
        self,
        channels: Sequence[grpc.aio.Channel],
        payloads: Sequence[bytes],
        *,
        method: str = PREDICT.path,
        timeout_s: float | None = None,
        from_due: bool = False,
        credentials: Credentials | None = None,
    ) -> None:
        self._calls = [channel.unary_unary(method) for channel in channels]
        self._payloads = payloads
        self._timeout_s = None if timeout_s is None else timeout("timeout_s", timeout_s)
        self._from_due = from_due
        self._metadata = (Credentials.given() if credentials is None else credentials).metadata

    async def __call__(self, number: int, late_s: float) -> Any:
        timeout_s = self._timeout_s
        if timeout_s is not None and self._from_due:
            timeout_s = max(timeout_s - late_s, 0.0)
        call = self._calls[number % len(self._calls)]
        return await call(self._payloads[number % len(self._payloads)], timeout=timeout_s, metadata=self._metadata)


@asynccontextmanager
async def connected(
    target: str,
    connections: int = 1,
    timeout_s: float = CONNECT_TIMEOUT_S,
    credentials: Credentials | None = None,
) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Open connections and close them at the end: clients connect once and stay, so that is not part of any request.

    Args:
        credentials: Credentials for TLS; None: those of the environment.

    Raises:
        InvalidInput: `target` is no address, or the credentials of the environment cannot be used.
        Unavailable: They did not come about within `timeout_s`.
    """
    shown = Credentials.given() if credentials is None else credentials
    address, options = parse_target(target), (*CHANNEL_OPTIONS, *CLIENT_OF_ITS_OWN)
    channels = [open_channel(grpc.aio, address, shown, options) for _ in range(connections)]
    try:
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(channel.channel_ready() for channel in channels))
        except TimeoutError as exc:
            raise Unavailable(not_connected(target, timeout_s, shown)) from exc
        yield channels
    finally:
        for channel in channels:
            await channel.close()


def not_connected(target: str, timeout_s: float, credentials: Credentials) -> str:
    """Return the message of a connection that did not come about; gRPC does not tell why while it keeps trying."""
    proxy = through_proxy(parse_target(target))
    over = "TLS" if credentials.tls else "plain text"
    return f"{target}: no connection over {over} within {timeout_s:g} s{f' ({proxy})' if proxy else ''}"


def arrival_times(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Return the times, in seconds from the start, at which requests of a Poisson process of this rate are due."""
    rng = np.random.default_rng([seed, 0x0FEB])
    # Given their number, the arrivals of a Poisson process are uniform: no gap is ever cut off at the end.
    return np.sort(rng.random(rng.poisson(rate * seconds)) * seconds)


def endless_arrivals(rate: float, rng: np.random.Generator) -> Iterator[float]:
    """Yield the times at which requests of a Poisson process of this rate are due, without end."""
    return itertools.accumulate(rng.exponential(1 / rate) for _ in itertools.count())
