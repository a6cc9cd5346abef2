"""The open loop of `ringpull loadtest`: requests at Poisson times whatever the answers do, timed from when due.

Users in a closed loop wait for an answer before they ask again: a slow server slows them down, and the queue that real
traffic would have built never shows. Here it does. What the generator itself sent late counts as late, too;
`GeneratorHealth` says how much that was, and when the figures are the generator's rather than the server's.
"""

from __future__ import annotations

import math
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import uvloop
from hdrh.histogram import HdrHistogram

from ringpull.inference.client.channels import MAX_CHANNELS
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.errors import InvalidInput
from ringpull.loadtest.generator import (
    MAX_IN_FLIGHT,
    Load,
    NotSent,
    Outcome,
    PayloadSender,
    arrival_times,
    connected,
)
from ringpull.loadtest.latencies import Latencies, empty_histogram, milliseconds, stages_of
from ringpull.loadtest.options import MAX_SEED
from ringpull.loadtest.report import Moment

LATE_MS: Final = 2.0
"""Delay of the 99th send that spoils the tail, when it is more than `LATE_SHARE` of the 99th latency, too."""
LATE_SHARE: Final = 0.1
MAX_REQUESTS: Final = 100_000_000
"""Requests of one run: their times are drawn before it, 8 bytes each."""
BUSY: Final = 0.9
"""Share of a core at which the generator, one thread of Python, is the bottleneck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoopPlan:
    """Plan of a run, apart from the messages.

    Raises:
        InvalidInput: A number is out of its bounds, or there would be more than `MAX_REQUESTS`.
    """

    rate: float
    """Requests per second."""
    seconds: float
    seed: int = 0
    """Seed of the arrival times."""
    timeout_s: float = 10.0
    """Deadline of a request, from when it is sent."""
    connections: int = 4

    def __post_init__(self) -> None:
        for name in ("rate", "seconds", "timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidInput(f"{name} is {getattr(self, name)}; it must be above 0, and finite")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidInput(f"--seed is {self.seed}; it must be from 0 to {MAX_SEED}")
        if not 1 <= self.connections <= MAX_CHANNELS:
            raise InvalidInput(f"--connections is {self.connections}; it must be from 1 to {MAX_CHANNELS:,}")
        if self.rate * self.seconds > MAX_REQUESTS:
            raise InvalidInput(
                f"{self.rate:g} requests/s for {self.seconds:g} s are more than {MAX_REQUESTS:,} requests, whose times"
                " are drawn before the run"
            )


@dataclass(frozen=True, slots=True)
class GeneratorHealth:
    """Health of the generator: how well it kept up with its own schedule."""

    cpu_s: float
    """CPU time of this process, all threads, system's share included."""
    wall_s: float
    late_p50_ms: float
    """Median delay from due to sent."""
    late_p99_ms: float
    unsent: int
    """Requests that failed because `MAX_IN_FLIGHT` others were waiting."""

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
            found.append(f"{self.unsent} requests were not sent: {MAX_IN_FLIGHT} were waiting for an answer")
        return found


@dataclass(frozen=True, slots=True)
class OpenLoopRun:
    """Outcome of a run at one rate."""

    plan: OpenLoopPlan
    seconds: float
    """Time from the start to the last answer."""
    sent: int
    latencies: Latencies
    health: GeneratorHealth
    started_s: float
    """Unix time."""
    timeline: Sequence[Moment]

    @property
    def warnings(self) -> list[str]:
        return self.health.warnings(self.latencies.percentile_ms(99))


def run_open_loop(
    target: str, payloads: Sequence[bytes], plan: OpenLoopPlan, credentials: Credentials | None = None
) -> OpenLoopRun:
    """Send as planned and wait for every answer; blocks. A failed request is counted, not raised.

    Args:
        credentials: Credentials for TLS, and a token; None: those of the environment.

    Raises:
        Unavailable: No connection within the deadline of a request.
    """
    return uvloop.run(_run(target, payloads, plan, Credentials.given() if credentials is None else credentials))


class _Recorder:
    """Counts outcomes as they come: a long run keeps histograms, not requests."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.latencies = Latencies()
        self.late: HdrHistogram = empty_histogram()
        self.sent = 0
        self.unsent = 0
        self.ended: Counter[int] = Counter()
        self.failed: Counter[int] = Counter()
        self.last_answer_s = 0.0

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome.error, NotSent):
            self.unsent += 1
            self.latencies.failed(self._timeout_s, f"not sent: {outcome.error}")
            return
        self.sent += 1
        self.last_answer_s = outcome.end_s
        self.late.record_value(max(round(outcome.late_s * 1e6), 1))
        second = int(outcome.end_s)
        self.ended[second] += 1
        if outcome.error is None:
            self.latencies.answered(outcome.took_s, stages_of(outcome.answer))
        else:
            self.failed[second] += 1
            self.latencies.failed(outcome.took_s, outcome.why)


async def _run(target: str, payloads: Sequence[bytes], plan: OpenLoopPlan, credentials: Credentials) -> OpenLoopRun:
    arrivals = arrival_times(plan.rate, plan.seconds, plan.seed)
    recorder = _Recorder(plan.timeout_s)
    async with connected(target, plan.connections, plan.timeout_s, credentials) as channels:
        started_s, cpu_s = time.time(), _cpu_s()
        sender = PayloadSender(channels, payloads, timeout_s=plan.timeout_s, credentials=credentials)
        load = Load(sender, recorder.add)
        await load.open_loop(arrivals)
        wall_s, cpu_s = load.now_s(), _cpu_s() - cpu_s
    health = GeneratorHealth(
        cpu_s=cpu_s,
        wall_s=wall_s,
        late_p50_ms=milliseconds(recorder.late, 50),
        late_p99_ms=milliseconds(recorder.late, 99),
        unsent=recorder.unsent,
    )
    return OpenLoopRun(
        plan=plan,
        seconds=max(recorder.last_answer_s, 1e-9),
        sent=recorder.sent,
        latencies=recorder.latencies,
        health=health,
        started_s=started_s,
        timeline=[Moment(second, recorder.ended[second], recorder.failed[second]) for second in range(int(wall_s) + 1)],
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
