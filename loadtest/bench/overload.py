"""Overload: three times as many requests as can be answered, at Poisson times, each with a deadline.

What counts is goodput: answers within their deadline per second, over the top rate that a closed loop reaches. A server
without admission lets its queue grow until every answer is late. The generator shares the cores with the server, and at
three times the rate it takes three times as much of them, and gRPC takes its part to refuse a call. So beside the
goodput as it is stands what the processors of head and shards still do for an answer: `cpu_per_answer_at_3x`, over that
at the top rate.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
import psutil
import uvloop

from ringpull.loadtest.bench import dlrm, load
from ringpull.loadtest.bench.deployment import PREDICT_METHOD, deployed
from ringpull.loadtest.bench.harness import QUICK, Report
from ringpull.loadtest.bench.model_folder import dlrm_folder
from ringpull.loadtest.bench.process import cpu_seconds
from ringpull.loadtest.open_loop import arrival_times

ROWS = 10_000 if QUICK else 50_000
SHARDS = 2
SECONDS = 6.0 if QUICK else 15.0
ROUNDS = 1 if QUICK else 3
IN_FLIGHT = 16
DEADLINE_S = 0.5
CHANNELS = 4
LOADS: Final = (0.5, 0.9, 3.0)
"""Of the top rate."""
SETTLED_S = 2.0
"""From then on an overload is no burst any more, whose queue may be longer."""
SAMPLE_MEMORY_S = 0.1


@dataclass(slots=True)
class Outcome:
    """What an open loop saw."""

    seconds: float
    sent: int = 0
    answered: list[tuple[float, float]] = field(default_factory=list)
    """Of answers within their deadline: when their request was due, in seconds from the start, and what it took from
    then on."""
    ended: Counter[str] = field(default_factory=Counter)
    """By status code."""
    generator_cores: float = 0.0
    server_cpu_s: float = 0.0
    """Of head and shards, all of it."""

    @property
    def cpu_per_answer_s(self) -> float:
        """CPU time of head and shards for each answer in time: what refusing and working in vain takes included."""
        return self.server_cpu_s / len(self.answered)

    @property
    def goodput(self) -> float:
        """Answers in time per second."""
        return len(self.answered) / self.seconds

    @property
    def refused(self) -> float:
        """Share of the requests."""
        return self.ended["RESOURCE_EXHAUSTED"] / self.sent

    def percentile_ms(self, percent: float, *, after_s: float = 0.0) -> float:
        """Return a percentile of the latencies of accepted requests that were due after `after_s`."""
        return float(np.percentile([took_s for due_s, took_s in self.answered if due_s >= after_s], percent)) * 1e3


def open_loop(target: str, payloads: Sequence[bytes], *, calls_per_s: float, seconds: float, seed: int) -> Outcome:
    """Send at Poisson times, whatever the answers do; failures are counted."""
    cpu_s = time.process_time()
    outcome = uvloop.run(_open_loop(target, payloads, calls_per_s, seconds, seed))
    outcome.generator_cores = (time.process_time() - cpu_s) / seconds
    return outcome


async def _open_loop(target: str, payloads: Sequence[bytes], calls_per_s: float, seconds: float, seed: int) -> Outcome:
    channels = [grpc.aio.insecure_channel(target, options=load.OPTIONS) for _ in range(CHANNELS)]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    methods = [channel.unary_unary(PREDICT_METHOD) for channel in channels]
    due = arrival_times(calls_per_s, seconds, seed)
    outcome = Outcome(seconds, sent=len(due))
    begin = time.perf_counter()

    async def call(method: Any, payload: bytes, offset: float) -> None:
        try:
            await method(payload, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            outcome.ended[error.code().name] += 1
            return
        took_s = time.perf_counter() - begin - offset
        if took_s <= DEADLINE_S:
            outcome.answered.append((offset, took_s))
        outcome.ended["OK" if took_s <= DEADLINE_S else "OK, but late"] += 1

    async with asyncio.TaskGroup() as group:
        for number, offset in enumerate(due):
            if (delay := begin + offset - time.perf_counter()) > 0:
                await asyncio.sleep(delay)
            method, payload = methods[number % CHANNELS], payloads[number % len(payloads)]
            group.create_task(call(method, payload, float(offset)))
    for channel in channels:
        await channel.close()
    return outcome


class Memory:
    """The most that processes took together, looked at all the while."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self.most_bytes = self.now_bytes()

    def now_bytes(self) -> int:
        """Return their unique memory: what would be free without them."""
        return sum(process.memory_full_info().uss for process in self._processes)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look every `SAMPLE_MEMORY_S` until it ends."""
        stop = threading.Event()

        def look() -> None:
            while not stop.wait(SAMPLE_MEMORY_S):
                self.most_bytes = max(self.most_bytes, self.now_bytes())

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def main() -> None:
    payloads = [dlrm.payload_of(request) for request in dlrm.make_requests(32, ROWS)]
    report = Report(
        f"Overload: DLRM, 128 candidates and {len(payloads[0]) / 1e3:.0f} kB a request, deadline {DEADLINE_S:g} s"
    )
    tops: list[float] = []
    top_cpu_s: list[float] = []
    """Of head and shards, for an answer at the top rate."""
    outcomes: dict[float, list[Outcome]] = {each: [] for each in LOADS}
    with deployed(dlrm_folder(ROWS), SHARDS) as ours:
        workers = ours.workers()
        memory = Memory(workers)

        def top() -> float:
            before_s = cpu_seconds(workers)
            ended = load.closed_loop(
                ours.target, PREDICT_METHOD, payloads, in_flight=IN_FLIGHT, seconds=SECONDS, channels=CHANNELS
            )
            top_cpu_s.append((cpu_seconds(workers) - before_s) / ended.calls)
            return ended.calls_per_s

        top()
        before_bytes = memory.now_bytes()
        for seed in range(ROUNDS):
            tops.append(top())
            for each in LOADS:
                with memory.watched():
                    before_s = cpu_seconds(workers)
                    outcome = open_loop(ours.target, payloads, calls_per_s=each * tops[-1], seconds=SECONDS, seed=seed)
                    outcome.server_cpu_s = cpu_seconds(workers) - before_s
                    outcomes[each].append(outcome)
    _report(report, tops, float(np.median(top_cpu_s)), outcomes)
    grown = memory.most_bytes / before_bytes
    report.row("memory of head and shards, MB", f"{memory.most_bytes / 1e6:,.0f}", "before any overload", grown)
    report.key("memory_growth", grown)
    report.finish()


def _report(report: Report, tops: Sequence[float], top_cpu_s: float, outcomes: dict[float, list[Outcome]]) -> None:
    report.row("top rate, requests/s", f"{np.median(tops):,.0f}", f"closed loop of {IN_FLIGHT}")
    for each in LOADS:
        runs = outcomes[each]
        goodput = float(np.median([run.goodput / top for run, top in zip(runs, tops, strict=True)]))
        p99_ms = float(np.median([run.percentile_ms(99) for run in runs]))
        settled_ms = float(np.median([run.percentile_ms(99, after_s=SETTLED_S) for run in runs]))
        p50_ms = float(np.median([run.percentile_ms(50) for run in runs]))
        refused = float(np.median([run.refused for run in runs]))
        ended = sum((run.ended for run in runs), Counter())
        name = f"at {each:g} x the top rate"
        report.row(f"goodput {name}", f"{goodput:.2f}", "the top rate", goodput, ">= 0.85" if each > 1 else "")
        report.row(f"p50 / p99 {name}, ms", f"{p50_ms:.0f} / {p99_ms:.0f}", f"{settled_ms:.0f} after {SETTLED_S:g} s")
        report.row(f"ended {name}", ", ".join(f"{count} {code}" for code, count in ended.most_common()))
        report.row(f"generator {name}, cores", f"{np.median([run.generator_cores for run in runs]):.2f}")
        answer_cpu_s = float(np.median([run.cpu_per_answer_s for run in runs]))
        row = f"{answer_cpu_s * 1e3:.2f}", f"{top_cpu_s * 1e3:.2f} at the top rate", answer_cpu_s / top_cpu_s
        report.row(f"processor time of head and shards for an answer {name}, ms", *row)
        suffix = f"{each:g}x".replace(".", "_")
        report.key(f"goodput_at_{suffix}", goodput)
        report.key(f"cpu_per_answer_at_{suffix}", answer_cpu_s / top_cpu_s)
        report.key(f"p99_ms_at_{suffix}", p99_ms)
        report.key(f"settled_p99_ms_at_{suffix}", settled_ms)
        report.key(f"refused_at_{suffix}", refused)


if __name__ == "__main__":
    main()
