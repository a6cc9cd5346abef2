"""The load generator of the end-to-end benches: raw bytes over grpc.aio, as little Python per call as possible.

Closed loop finds the top rate (K calls always in flight); open loop finds latency at a given rate, counted from the
moment a call was due, so that waiting behind a slow call counts.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import numpy as np
import uvloop

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of load saw."""

    calls: int
    took_s: float
    p50_ms: float
    p99_ms: float

    @property
    def calls_per_s(self) -> float:
        return self.calls / self.took_s


def closed_loop(
    target: str, method: str, payloads: Sequence[bytes], *, in_flight: int, seconds: float, channels: int = 1
) -> Outcome:
    """Keep `in_flight` calls going for `seconds`; a failed call raises."""
    gc.freeze()  # A full collection of what the bench has loaded would be a pause of the server's in the figures.
    return uvloop.run(_closed_loop(target, method, payloads, in_flight, seconds, channels))


def open_loop(target: str, method: str, payloads: Sequence[bytes], *, calls_per_s: float, seconds: float) -> Outcome:
    """Send calls at Poisson arrival times for `seconds`, whatever the answers do."""
    gc.freeze()
    return uvloop.run(_open_loop(target, method, payloads, calls_per_s, seconds))


async def _closed_loop(
    target: str, method: str, payloads: Sequence[bytes], in_flight: int, seconds: float, channels: int
) -> Outcome:
    opened = [grpc.aio.insecure_channel(target, options=OPTIONS) for _ in range(channels)]
    stubs = [channel.unary_unary(method) for channel in opened]
    latencies: list[float] = []
    begin = time.perf_counter()
    end = begin + seconds

    async def worker(number: int) -> None:
        score = stubs[number % channels]
        turn = number
        while (sent := time.perf_counter()) < end:
            await score(payloads[turn % len(payloads)])
            latencies.append(time.perf_counter() - sent)
            turn += in_flight

    await asyncio.gather(*(worker(i) for i in range(in_flight)))
    took = time.perf_counter() - begin
    for channel in opened:
        await channel.close()
    return _outcome(latencies, took)


async def _open_loop(
    target: str, method: str, payloads: Sequence[bytes], calls_per_s: float, seconds: float
) -> Outcome:
    channel = grpc.aio.insecure_channel(target, options=OPTIONS)
    score = channel.unary_unary(method)
    await score(payloads[0])
    due = np.cumsum(np.random.default_rng(0).exponential(1 / calls_per_s, int(calls_per_s * seconds)))
    latencies: list[float] = []
    begin = time.perf_counter()

    async def call(payload: bytes, due_at: float) -> None:
        await score(payload)
        latencies.append(time.perf_counter() - due_at)

    async with asyncio.TaskGroup() as group:
        for number, offset in enumerate(due):
            delay = begin + offset - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            group.create_task(call(payloads[number % len(payloads)], begin + offset))
    took = time.perf_counter() - begin
    await channel.close()
    return _outcome(latencies, took)


def _outcome(latencies: Sequence[float], took: float) -> Outcome:
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return Outcome(len(latencies), took, float(p50), float(p99))
