"""Goodput under three times the load that a deployment can bear: how much of what is sent is answered in time.

The top rate is that of a closed loop; then requests are sent at three times that rate whatever the answers do, each
with a deadline that counts from when it was due. Both use encoded requests and bare calls without retries, so that it
is the server that is measured; the answers are held against the oracle afterwards.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np

from ringpull.inference.client.stubs import CHANNEL_OPTIONS, PREDICT
from ringpull.inference.wire.codec import as_call, decode_response, encode_request
from ringpull.loadtest.bench.checked_model import MODEL, CheckedRequest
from ringpull.loadtest.chaos.oracle import Live, Oracle, Outcome, Question
from ringpull.loadtest.open_loop import arrival_times

CANDIDATES: Final = 128
MOST_ITEMS: Final = 100
"""Of a candidate's bag: work for the server, not for this program, which takes the same cores."""
FACTOR: Final = 3.0
DEADLINE_S: Final = 1.0
IN_FLIGHT: Final = 16
"""Of the closed loop: enough to keep all heads busy."""
CONNECTIONS: Final = 8
"""The kernel spreads connections over heads by chance: few could all come to one."""
TOP_S: Final = 4.0
WARM_UP_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Goodput:
    """What came of the overload."""

    top_rate: float
    """Requests per second of the closed loop, before and after."""
    offered_rate: float
    good_rate: float
    """Answers per second within the deadline."""
    wrong: int
    refused: Counter[str]
    """gRPC status -> requests."""
    refused_p50_ms: float
    """How soon those that were refused knew."""
    generator_cores: float
    """What this program took while it offered three times the top rate, and the server could not have."""
    late_p99_ms: float
    """From due to sent. That much of the deadline was not the server's to use."""

    @property
    def ratio(self) -> float:
        """Goodput as a share of the top rate."""
        return self.good_rate / self.top_rate if self.top_rate else 0.0


@dataclass(frozen=True, slots=True)
class _Ended:
    number: int
    late_s: float
    """From due to sent."""
    took_s: float
    """From due to its end."""
    answer: Any
    """None: it failed."""
    code: str


class _Sender:
    def __init__(self, channels: Sequence[Any], payloads: Sequence[bytes]) -> None:
        # Bytes in: encoding is the client's cost, and was paid.
        self._sends = [channel.unary_unary(PREDICT.path, None, PREDICT.reply.FromString) for channel in channels]
        self._payloads = payloads
        self._next = itertools.count()
        self.ended: list[_Ended] = []

    async def send(self, due: float, timeout_s: float) -> None:
        number = next(self._next)
        answer, code = None, ""
        late_s = time.perf_counter() - due
        send = self._sends[number % len(self._sends)]
        try:
            answer = await send(self._payloads[number % len(self._payloads)], timeout=max(timeout_s - late_s, 0.0))
        except grpc.aio.AioRpcError as exc:
            code = exc.code().name
        took_s = time.perf_counter() - due
        self.ended.append(_Ended(number % len(self._payloads), late_s, took_s, answer, code))


async def measure(
    target: str, requests: Sequence[CheckedRequest], oracle: Oracle, live: Live, *, seconds: float, seed: int
) -> Goodput:
    """Find the top rate, send three times as much for some seconds, and find the top rate again.

    Args:
        requests: Of `CANDIDATES` each; those that the oracle was made for.
    """
    payloads = [encode_request(as_call(MODEL, *request.features())).SerializeToString() for request in requests]
    channels = [
        grpc.aio.insecure_channel(target, options=[*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)])
        for _ in range(CONNECTIONS)
    ]
    try:
        await _closed_loop(_Sender(channels, payloads), WARM_UP_S)
        top, sender = _Sender(channels, payloads), _Sender(channels, payloads)
        before = await _closed_loop(top, TOP_S)
        cpu_s, begin = time.process_time(), time.perf_counter()
        await _open_loop(sender, FACTOR * before, seconds, seed)
        cores = (time.process_time() - cpu_s) / (time.perf_counter() - begin)
        # Machines drift: the top rate is that before and that after.
        top_rate = (before + await _closed_loop(top, TOP_S)) / 2
    finally:
        for channel in channels:
            await channel.close()
    now = live.now(MODEL)
    answers = [each for each in (*top.ended, *sender.ended) if each.answer is not None]
    wrong = sum(
        oracle.judge(Question(MODEL, each.number), decode_response(each.answer), now)[0] is not Outcome.RIGHT
        for each in answers
    )
    good = sum(each.answer is not None and each.took_s <= DEADLINE_S for each in sender.ended)
    refused_s = [each.took_s for each in sender.ended if each.answer is None]
    return Goodput(
        top_rate=top_rate,
        offered_rate=len(sender.ended) / seconds,
        good_rate=good / seconds,
        wrong=wrong,
        refused=Counter(each.code for each in sender.ended if each.code),
        refused_p50_ms=float(np.median(refused_s)) * 1e3 if refused_s else 0.0,
        generator_cores=cores,
        late_p99_ms=float(np.percentile([each.late_s for each in sender.ended], 99)) * 1e3,
    )


async def _closed_loop(sender: _Sender, seconds: float) -> float:
    """Keep requests in flight; return answers per second."""
    begin, first = time.perf_counter(), len(sender.ended)

    async def ask() -> None:
        while time.perf_counter() < begin + seconds:
            await sender.send(time.perf_counter(), 10 * DEADLINE_S)

    await asyncio.gather(*(ask() for _ in range(IN_FLIGHT)))
    return sum(each.answer is not None for each in sender.ended[first:]) / (time.perf_counter() - begin)


async def _open_loop(sender: _Sender, rate: float, seconds: float, seed: int) -> None:
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for offset in arrival_times(rate, seconds, seed):
            await asyncio.sleep(max(begin + offset - time.perf_counter(), 0))
            group.create_task(sender.send(begin + offset, DEADLINE_S))
