"""Overload: three times as many requests as can be answered, at Poisson times, each with a deadline.

What counts is goodput: answers within their deadline per second, over the top rate that a closed loop reaches. A server
without admission lets its queue grow until every answer is late. The generator shares the cores with the server, and at
three times the rate it takes three times as much of them, and gRPC takes its part to refuse a call. So beside the
goodput as it is stands what the processors of head and shards still do for an answer: `cpu_per_answer_at_3x`, over that
at the top rate.

What is left of the goodput where nothing else is done is measured beside it: a bare grpc.aio server that knows its
capacity and refuses the rest unread (`ringpull.loadtest.bench.bare_refusing`), whose calls take as much processor time
as ours at the top rate. It serves 4, 8 or 16 calls at a time, whichever answers most. `goodput_at_3x_vs_bare` is our
goodput over its own, each over its top rate.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Final

import numpy as np
import psutil

from ringpull.loadtest.bench.dlrm_requests import payloads_of
from ringpull.loadtest.bench.harness import QUICK, Report
from ringpull.loadtest.bench.load import Run, Server, one_reply
from ringpull.loadtest.deployment import deployed
from ringpull.loadtest.dlrm import dlrm_folder
from ringpull.loadtest.generator import arrival_times
from ringpull.loadtest.process import server

ROWS = 10_000 if QUICK else 50_000
SHARDS = 2
SECONDS = 5.0
ROUNDS = 1 if QUICK else 3
IN_FLIGHT = 16
DEADLINE_S = 0.5
CONNECTIONS = 4
LOADS: Final = (0.5, 0.9, 3.0)
"""Rates of the open loops, as multiples of the top rate."""
OVERLOAD: Final = 3.0
"""The rate of these at which a bare server is measured, too."""
BARE_AT_A_TIME: Final = (4, 8, IN_FLIGHT)
"""Calls that a bare server serves at a time: the one that answers most counts. More would do no more: two threads are
as many as the processors, and what waits is answered no sooner. So many are always answered in time."""
SETTLED_S = 2.0
"""Time after which an overload is no burst any more, whose queue may be longer."""
SAMPLE_MEMORY_S = 0.1


@dataclass(frozen=True, slots=True)
class Overload:
    """Outcome of an open loop; answers count when they came within their deadline."""

    run: Run

    @property
    def in_time(self) -> list[tuple[float, float]]:
        """Requests answered in time: when they were due, and what they took from then on, in seconds."""
        pairs = zip(self.run.due_s, self.run.took_s, strict=True)
        return [(due_s, took_s) for due_s, took_s in pairs if took_s <= DEADLINE_S]

    @property
    def ended(self) -> Counter[str]:
        """Requests by status."""
        late = self.run.calls - len(self.in_time)
        return self.run.statuses - Counter(OK=late) + Counter({"OK, but late": late})

    @property
    def cpu_per_answer_s(self) -> float:
        """CPU time of head and shards for each answer in time: what refusing and working in vain takes included."""
        return self.run.server_cpu_s / len(self.in_time)

    @property
    def goodput(self) -> float:
        """Answers in time per second."""
        return len(self.in_time) / SECONDS

    @property
    def refused(self) -> float:
        """Share of the requests that were refused."""
        return self.run.statuses["RESOURCE_EXHAUSTED"] / self.run.statuses.total()

    @property
    def generator_cores(self) -> float:
        return self.run.generator_cpu_s / SECONDS

    def percentile_ms(self, percent: float, *, after_s: float = 0.0) -> float:
        """Return a percentile of the latencies of accepted requests that were due after `after_s`."""
        return float(np.percentile([took_s for due_s, took_s in self.in_time if due_s >= after_s], percent)) * 1e3


class Memory:
    """The largest memory that processes took together, looked at all the while."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self.max_bytes = self.now_bytes()

    def now_bytes(self) -> int:
        """Return their unique memory: what would be free without them."""
        return sum(process.memory_full_info().uss for process in self._processes)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look every `SAMPLE_MEMORY_S` until it ends."""
        stop = threading.Event()

        def look() -> None:
            while not stop.wait(SAMPLE_MEMORY_S):
                self.max_bytes = max(self.max_bytes, self.now_bytes())

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def main() -> None:
    payloads = payloads_of(32, ROWS)
    report = Report(
        f"Overload: DLRM, 128 candidates and {len(payloads[0]) / 1e3:.0f} kB a request, deadline {DEADLINE_S:g} s"
    )
    tops: list[Run] = []
    """Closed loops, the first of them to warm up."""
    overloads: dict[float, list[Overload]] = {each: [] for each in LOADS}
    bare_overloads: list[tuple[Run, Overload]] = []
    """Closed loops of the bare servers, and the overload of the one that answered most."""
    with ExitStack() as stack:
        ours = stack.enter_context(deployed(dlrm_folder(ROWS), SHARDS))
        patient = Server(ours.target, processes=ours.running(), connections=CONNECTIONS)
        hurried = replace(patient, timeout_s=DEADLINE_S)
        memory = Memory(patient.processes)
        top = partial(patient.closed_loop, payloads, in_flight=IN_FLIGHT, seconds=SECONDS)
        tops.append(top())
        before_bytes = memory.now_bytes()
        bare = stack.enter_context(_as_costly(patient, top(), payloads))
        hurried_bare = [replace(each, timeout_s=DEADLINE_S) for each in bare]
        for seed in range(ROUNDS):
            tops.append(top())
            for each in LOADS:
                with memory.watched():
                    overloads[each].append(_overload(hurried, payloads, each * tops[-1].calls_per_s, seed))
            # Of the one that takes all of a closed loop.
            bare_top = bare[-1].closed_loop(payloads, in_flight=IN_FLIGHT, seconds=SECONDS)
            rate = OVERLOAD * bare_top.calls_per_s
            tried = [_overload(each, payloads, rate, seed) for each in hurried_bare]
            bare_overloads.append((bare_top, max(tried, key=lambda each: each.goodput)))
    _report(report, tops, overloads)
    _report_bare(report, tops, overloads[OVERLOAD], bare_overloads)
    grown = memory.max_bytes / before_bytes
    report.row("memory of head and shards, MB", f"{memory.max_bytes / 1e6:,.0f}", "before any overload", grown)
    report.key("memory_growth", grown)
    report.finish()


def _overload(asked: Server, payloads: Sequence[bytes], rate: float, seed: int) -> Overload:
    return Overload(asked.open_loop(payloads, arrival_times(rate, SECONDS, seed), may_fail=True))


@contextmanager
def _as_costly(ours: Server, top: Run, payloads: Sequence[bytes]) -> Iterator[list[Server]]:
    """Serve bare servers, one for each of `BARE_AT_A_TIME`, whose calls take as much processor time as ours at top."""
    size = len(one_reply(ours, payloads[0]))
    with _bare(IN_FLIGHT, 0.0, size) as nothing_done:
        grpc_s = nothing_done.closed_loop(payloads, in_flight=IN_FLIGHT, seconds=SECONDS / 3).server_cpu_per_call_s
    service_s = max(0.0, top.server_cpu_per_call_s - grpc_s)
    with ExitStack() as stack:
        yield [stack.enter_context(_bare(at_a_time, service_s, size)) for at_a_time in BARE_AT_A_TIME]


@contextmanager
def _bare(at_a_time: int, service_s: float, reply_bytes: int) -> Iterator[Server]:
    options = (
        "--at-a-time",
        str(at_a_time),
        "--service-us",
        f"{service_s * 1e6:.0f}",
        "--reply-bytes",
        str(reply_bytes),
    )
    with server("ringpull.loadtest.bench.bare_refusing", *options) as (port, process):
        yield Server(f"127.0.0.1:{port}", processes=[process], connections=CONNECTIONS)


def _report_bare(
    report: Report, tops: Sequence[Run], ours: Sequence[Overload], bare: Sequence[tuple[Run, Overload]]
) -> None:
    shares = [each.goodput / top.calls_per_s for each, top in zip(ours, tops[1:], strict=True)]
    bare_shares = [each.goodput / top.calls_per_s for top, each in bare]
    ratio = median(share / bare_share for share, bare_share in zip(shares, bare_shares, strict=True))
    name = f"at {OVERLOAD:g} x the top rate"
    row = f"{median(shares):.2f}", f"a bare server that refuses unread {median(bare_shares):.2f}", ratio
    report.row(f"goodput {name}, over that", *row, key="goodput_at_3x_vs_bare")
    report.key("bare_goodput_at_3x", median(bare_shares))
    tops_per_s = [top.calls_per_s for top, _ in bare]
    report.row("top rate of the bare server, requests/s", f"{median(tops_per_s):,.0f}", f"closed loop of {IN_FLIGHT}")
    report.row(f"generator beside it {name}, cores", f"{median(each.generator_cores for _, each in bare):.2f}")


def _report(report: Report, tops: Sequence[Run], overloads: dict[float, list[Overload]]) -> None:
    top_cpu_s = median(top.server_cpu_per_call_s for top in tops)
    rates = [top.calls_per_s for top in tops[1:]]
    report.row("top rate, requests/s", f"{median(rates):,.0f}", f"closed loop of {IN_FLIGHT}")
    for each, runs in overloads.items():
        goodput = median(run.goodput / top for run, top in zip(runs, rates, strict=True))
        p50_ms, p99_ms = (median(run.percentile_ms(percent) for run in runs) for percent in (50, 99))
        settled_ms = median(run.percentile_ms(99, after_s=SETTLED_S) for run in runs)
        ended = sum((run.ended for run in runs), Counter())
        name, suffix = f"at {each:g} x the top rate", f"{each:g}x".replace(".", "_")
        report.row(f"goodput {name}", f"{goodput:.2f}", "the top rate", goodput, key=f"goodput_at_{suffix}")
        report.row(f"p50 / p99 {name}, ms", f"{p50_ms:.0f} / {p99_ms:.0f}", f"{settled_ms:.0f} after {SETTLED_S:g} s")
        report.row(f"ended {name}", ", ".join(f"{count} {code}" for code, count in ended.most_common()))
        report.row(f"generator {name}, cores", f"{median(run.generator_cores for run in runs):.2f}")
        answer_cpu_s = median(run.cpu_per_answer_s for run in runs)
        row = f"{answer_cpu_s * 1e3:.2f}", f"{top_cpu_s * 1e3:.2f} at the top rate", answer_cpu_s / top_cpu_s
        what = f"processor time of head and shards for an answer {name}, ms"
        report.row(what, *row, key=f"cpu_per_answer_at_{suffix}")
        report.key(f"p99_ms_at_{suffix}", p99_ms)
        report.key(f"settled_p99_ms_at_{suffix}", settled_ms)
        report.key(f"refused_at_{suffix}", median(run.refused for run in runs))


if __name__ == "__main__":
    main()
