"""The open loop: requests are sent at Poisson times whatever the answers do, and timed from when they were due.

Users in a closed loop wait for an answer before they ask again: a slow server slows them down, and the queue that real
traffic would have built never shows. Here it does. What the generator itself sent late counts as late, too;
`GeneratorHealth` says how much that was, and when the figures are the generator's rather than the server's.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
import uvloop
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from ringpull.inference.client.stubs import CHANNEL_OPTIONS, PREDICT
from ringpull.inference.errors import Unavailable
from ringpull.loadtest.latencies import Latencies, empty_histogram, milliseconds, stages_of
from ringpull.loadtest.report import Moment

MOST_IN_FLIGHT: Final = 10_000
"""Beyond this a request fails unsent: the server is hopelessly behind, and memory is finite."""

LATE_MS: Final = 2.0
"""A generator whose 99th send is later than this, and than `LATE_SHARE` of the 99th latency, spoils the tail."""
LATE_SHARE: Final = 0.1
BUSY: Final = 0.9
"""Of one core: the generator is one thread of Python."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoopPlan:
    """What to send, apart from the messages."""

    rate: float
    """Requests per second."""
    seconds: float
    seed: int = 0
    """Of the arrival times."""
    timeout_s: float = 10.0
    """Deadline of a request, from when it is sent."""
    connections: int = 4


@dataclass(frozen=True, slots=True)
class GeneratorHealth:
    """How well the generator kept up with its own schedule."""

    cpu_s: float
    """CPU time of this process, all threads, system's share included."""
    wall_s: float
    late_p50_ms: float
    """From due to sent."""
    late_p99_ms: float
    unsent: int
    """Requests that failed because `MOST_IN_FLIGHT` others were waiting."""

    @property
    def cpu(self) -> float:
        """Cores in use."""
        return self.cpu_s / self.wall_s

    def warnings(self, p99_ms: float) -> list[str]:
        """Return what a reader must know before believing the figures; nothing, when they are the server's."""
        found = []
        if self.cpu > BUSY:
            found.append(
                f"the generator used {self.cpu:.0%} of a core: it is the bottleneck; run several"
                " at a share of the rate each"
            )
        if self.late_p99_ms > max(LATE_MS, LATE_SHARE * p99_ms):
            found.append(
                f"1% of the requests were sent {self.late_p99_ms:.1f} ms late or more: the generator, or this machine,"
                " is too busy, and the tail is partly its own"
            )
        if self.unsent:
            found.append(f"{self.unsent} requests were not sent: {MOST_IN_FLIGHT} were waiting for an answer")
        return found


@dataclass(frozen=True, slots=True)
class OpenLoopRun:
    """What one run at one rate saw."""

    plan: OpenLoopPlan
    seconds: float
    """From the start to the last answer."""
    sent: int
    latencies: Latencies
    health: GeneratorHealth
    started_s: float
    """Unix time."""
    timeline: Sequence[Moment]

    @property
    def warnings(self) -> list[str]:
        return self.health.warnings(self.latencies.percentile_ms(99))


def arrival_times(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Return the times, in seconds from the start, at which requests of a Poisson process of this rate are due."""
    rng = np.random.default_rng([seed, 0x0FEB])
    # Given their number, the arrivals of a Poisson process are uniform: no gap is ever cut off at the end.
    return np.sort(rng.random(rng.poisson(rate * seconds)) * seconds)


def run_open_loop(target: str, payloads: Sequence[bytes], plan: OpenLoopPlan) -> OpenLoopRun:
    """Send as planned and wait for every answer; blocks. A failed request is counted, not raised.

    Raises:
        Unavailable: No connection within the deadline of a request.
    """
    return uvloop.run(_run(target, payloads, plan))


class _Sender:
    """Sends single requests over a few connections, and records what comes of each."""

    def __init__(self, channels: Sequence[Any], timeout_s: float) -> None:
        self._sends = [channel.unary_unary(PREDICT.path) for channel in channels]
        self._timeout_s = timeout_s
        self.latencies = Latencies()
        self.late: HdrHistogram = empty_histogram()
        self.in_flight = 0
        self.sent = 0
        self.unsent = 0
        self.ended: Counter[int] = Counter()
        self.failed: Counter[int] = Counter()
        self.last_answer = time.perf_counter()

    async def send(self, payload: bytes, due: float, begin: float) -> None:
        """Send one request that was due at `due`."""
        self.in_flight += 1
        send = self._sends[self.sent % len(self._sends)]
        self.sent += 1
        self.late.record_value(max(round((time.perf_counter() - due) * 1e6), 1))
        failure: Any = None
        reply = b""
        try:
            reply = await send(payload, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as exc:
            failure = exc
        self.last_answer = now = time.perf_counter()
        self.in_flight -= 1
        second = int(now - begin)
        self.ended[second] += 1
        if failure is None:
            self.latencies.answered(now - due, stages_of(reply))
        else:
            self.failed[second] += 1
            self.latencies.failed(now - due, f"{failure.code().name}: {failure.details()}")


async def _run(target: str, payloads: Sequence[bytes], plan: OpenLoopPlan) -> OpenLoopRun:
    options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(plan.connections)]
    due_times = arrival_times(plan.rate, plan.seconds, plan.seed)
    try:
        await _connected(target, channels, plan.timeout_s)
        sender = _Sender(channels, plan.timeout_s)
        started_s, begin, cpu = time.time(), time.perf_counter(), _cpu_s()
        async with asyncio.TaskGroup() as group:
            for number, offset in enumerate(due_times):
                due = begin + offset
                if (delay := due - time.perf_counter()) > 0:
                    await asyncio.sleep(delay)
                if sender.in_flight >= MOST_IN_FLIGHT:
                    sender.unsent += 1
                    sender.latencies.failed(plan.timeout_s, f"not sent: {MOST_IN_FLIGHT} requests were waiting")
                    await asyncio.sleep(0)  # answers must be read, or none of those waiting ever ends
                else:
                    group.create_task(sender.send(payloads[number % len(payloads)], due, begin))
        took = time.perf_counter() - begin
        used = _cpu_s() - cpu
    finally:
        for channel in channels:
            await channel.close()
    health = GeneratorHealth(
        cpu_s=used,
        wall_s=took,
        late_p50_ms=milliseconds(sender.late, 50),
        late_p99_ms=milliseconds(sender.late, 99),
        unsent=sender.unsent,
    )
    timeline = [Moment(second, sender.ended[second], sender.failed[second]) for second in range(int(took) + 1)]
    return OpenLoopRun(
        plan=plan,
        seconds=max(sender.last_answer - begin, 1e-9),
        sent=sender.sent,
        latencies=sender.latencies,
        health=health,
        started_s=started_s,
        timeline=timeline,
    )


async def _connected(target: str, channels: Sequence[Any], timeout_s: float) -> None:
    """Connecting is not part of the first requests: clients connect once and stay."""
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
    except TimeoutError as exc:
        raise Unavailable(f"{target}: no connection within {timeout_s:g} s") from exc


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
