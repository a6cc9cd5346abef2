"""Goodput under three times the load that a deployment can bear: how much of what is sent is answered in time.

The top rate is that of a closed loop; then requests are sent at three times that rate whatever the answers do, each
with a deadline that counts from when it was due. Both use encoded requests and bare calls without retries, so that it
is the server that is measured; the answers are held against the oracle afterwards.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import numpy as np

from ringpull.inference.client.stubs import PREDICT
from ringpull.inference.wire.codec import as_call, decode_response, encode_request
from ringpull.loadtest.chaos.checked_model import MODEL
from ringpull.loadtest.chaos.oracle import Live, Oracle, Question, Verdict
from ringpull.loadtest.generator import Load, Outcome, PayloadSender, arrival_times, connected

CANDIDATES: Final = 128
MAX_ITEMS: Final = 100
"""Length of a candidate's bag at most: work for the server, not for this program, which takes the same cores."""
FACTOR: Final = 3.0
DEADLINE_S: Final = 1.0
IN_FLIGHT: Final = 16
"""Requests of the closed loop at a time: enough to keep all heads busy."""
CONNECTIONS: Final = 8
"""Connections to the heads. The kernel spreads them by chance: few could all come to one."""
TOP_S: Final = 4.0
WARM_UP_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Goodput:
    """Result of the overload."""

    top_rate: float
    """Requests per second of the closed loop, before and after."""
    offered_rate: float
    good_rate: float
    """Answers per second within the deadline."""
    wrong: int
    refused: Counter[str]
    """Requests that failed, by gRPC status."""
    refused_p50_ms: float
    """Median time after which those that were refused knew."""
    generator_cores: float
    """Cores that this program took while it offered three times the top rate, and the server could not have."""
    late_p99_ms: float
    """Delay from due to sent. That much of the deadline was not the server's to use."""

    @property
    def ratio(self) -> float:
        """Goodput as a share of the top rate."""
        return self.good_rate / self.top_rate if self.top_rate else 0.0


async def measure(target: str, oracle: Oracle, live: Live, *, seconds: float, seed: int) -> Goodput:
    """Find the top rate, send three times as much for some seconds, and find the top rate again.

    Args:
        oracle: One of requests of `CANDIDATES` each.
    """
    calls = [as_call(MODEL, *request.features()) for request in oracle.requests]
    payloads = [encode_request(call).SerializeToString() for call in calls]
    tops: list[Outcome] = []
    sent: list[Outcome] = []
    async with connected(target, CONNECTIONS) as channels:
        await _top_rate(channels, payloads, WARM_UP_S, tops)
        before = await _top_rate(channels, payloads, TOP_S, tops)
        cpu_s = time.process_time()
        overload = Load(PayloadSender(channels, payloads, timeout_s=DEADLINE_S, from_due=True), sent.append)
        await overload.open_loop(arrival_times(FACTOR * before, seconds, seed))
        cores = (time.process_time() - cpu_s) / overload.now_s()
        # Machines drift: the top rate is that before and that after.
        top_rate = (before + await _top_rate(channels, payloads, TOP_S, tops)) / 2
    refused_s = [each.took_s for each in sent if each.error]
    return Goodput(
        top_rate=top_rate,
        offered_rate=len(sent) / seconds,
        good_rate=sum(each.error is None and each.took_s <= DEADLINE_S for each in sent) / seconds,
        wrong=_wrong([*tops, *sent], oracle, live),
        refused=Counter(each.status for each in sent if each.error),
        refused_p50_ms=float(np.median(refused_s)) * 1e3 if refused_s else 0.0,
        generator_cores=cores,
        late_p99_ms=float(np.percentile([each.late_s for each in sent], 99)) * 1e3,
    )


async def _top_rate(
    channels: Sequence[grpc.aio.Channel], payloads: Sequence[bytes], seconds: float, ended: list[Outcome]
) -> float:
    """Keep requests in flight; return answers per second."""
    first = len(ended)
    load = Load(PayloadSender(channels, payloads, timeout_s=10 * DEADLINE_S), ended.append)
    await load.closed_loop(load.for_seconds(seconds), IN_FLIGHT)
    return sum(each.error is None for each in ended[first:]) / load.now_s()


def _wrong(outcomes: Sequence[Outcome], oracle: Oracle, live: Live) -> int:
    """Return how many answers are not right."""

    def right(outcome: Outcome) -> bool:
        reply: Any = PREDICT.reply.FromString(outcome.answer)
        question = Question(MODEL, outcome.number % len(oracle.requests))
        return oracle.judge(question, decode_response(reply), live.now(MODEL))[0] is Verdict.RIGHT

    return sum(not right(each) for each in outcomes if each.error is None)
