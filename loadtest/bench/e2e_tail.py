"""The tail of the end-to-end benches: open loops, where latency counts from when a request was due.

Beside Triton stand as many heads as `ringpull serve --heads auto` starts here, and closed loops of both come first.

A tail says something only beside the rate it was taken at, so whoever is compared is asked at equal rates: shares of
what the slower one reaches in a closed loop. At half of it three figures tell how much of the difference is processor
time: what each takes of the cores; how long its threads are ready and have none; and the p99 of a queue in which a
request takes that processor time on one core and nothing else. Then both are asked once more at rates at which they
should take as much of the cores, and what they took there is reported. Where the tails differ by more than the queues,
or still differ at equal use, processor time is not all of it (see "Beside Triton" in loadtest/README.md).

By itself it measures nothing else: `python -m ringpull.loadtest.bench.e2e_tail`; within `e2e` it is the last part but
one.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from statistics import median
from typing import Final

import numpy as np
import torch

from ringpull.inference.model.bfloat16 import instructions
from ringpull.loadtest.bench.asked_rates import in_drawn_order
from ringpull.loadtest.bench.baselines import triton
from ringpull.loadtest.bench.dlrm_requests import CANDIDATES, Request, make_requests, score_request
from ringpull.loadtest.bench.e2e_contenders import (
    BF16_WITHIN,
    IN_PROCESS,
    NO_BF16,
    OPEN_SECONDS,
    ROWS,
    Contender,
    baseline,
    check_scores,
    echo_of,
    ringpull,
)
from ringpull.loadtest.bench.harness import QUICK, Report, Samples
from ringpull.loadtest.bench.load import Run, Server
from ringpull.loadtest.dlrm import make_model
from ringpull.loadtest.generator import endless_arrivals

ROUNDS: Final = 2 if QUICK else 4
LONE_REQUESTS: Final = 100
SHARES: Final = (0.25, 0.5, 0.75)
"""Rates of the open loops, as shares of the slower one's top rate."""
HALF: Final = 0.5
PERCENTILES: Final = (50, 99)
NEAR_TOP: Final = 0.9
"""The most that Triton is asked for an equal use, as a share of its own top rate: beyond that any queue grows."""
QUEUED: Final = 200_000
"""Arrivals of the simulated queues: with 435, the ratio of two p99 was 1.29 to 1.82 by the seed alone."""
CONNECTIONS: Final = 16
"""Connections to heads on one port: the kernel deals them out, by chance, so there have to be some."""


def key_of(percent: int, share: float) -> str:
    """Return the key of a percentile beside Triton's; what is at half of the top rate goes without saying."""
    at = "" if share == HALF else f"_at_{share:g}".replace(".", "_")
    return f"p{percent}_vs_triton{at}"


HEADS: Final = "auto_heads"
BF16: Final = "e2e_bf16_vs_triton"
EQUAL_USE: Final = "p99_vs_triton_at_equal_use"
OF_QUEUES: Final = "queue_p99_vs_triton"
CORE_USE: Final = "core_use"
CORE_WAIT: Final = "core_wait_ms"
QUEUE_P99: Final = "queue_p99_ms"
USE_THERE: Final = "core_use_at_equal_use"
WHOSE_USE: Final = "share of the cores that generator and server take; ours: heads and shards only"
OF_BOTH: Final = (CORE_USE, CORE_WAIT, QUEUE_P99, USE_THERE)
"""Figures of both; those of Triton have its name before."""
KEYS: Final = ("p99_vs_inprocess", "p99_ms", "echo_p99_ms")
TRITON_KEYS: Final = (
    HEADS,
    "e2e_vs_triton",
    BF16,
    *(key_of(percent, share) for share in SHARES for percent in PERCENTILES),
    EQUAL_USE,
    OF_QUEUES,
    *OF_BOTH,
    *(f"triton_{key}" for key in OF_BOTH),
)


def main() -> None:
    requests = make_requests(32, ROWS)
    report = Report("The tail: DLRM of `e2e`, open loops")
    with ringpull(requests) as ours:
        alone(report, ours, requests)
    beside(report, requests)
    report.finish()


def alone(report: Report, ours: Contender, requests: Sequence[Request]) -> None:
    """Report the tail of one head."""
    with report.part("the tail", *KEYS):
        beside_echo(report, ours, requests)


def beside(report: Report, requests: Sequence[Request]) -> None:
    """Report rate and tail of as many heads as pay off beside Triton, or why there are none."""
    if (why := triton.missing()) is None:
        with report.part("heads beside Triton", *TRITON_KEYS):
            beside_triton(report, requests)
    else:
        report.absent("heads beside Triton", why, *TRITON_KEYS)


def beside_echo(report: Report, ours: Contender, requests: Sequence[Request]) -> None:
    """Report the p99 at half of the top rate, beside one request in process and a bare echo."""
    setting, one_ms = lone_request_ms(requests)
    calls_per_s = float(np.median([ours.run().calls_per_s for _ in range(3)])) * HALF
    with echo_of(ours.first_reply()) as echo:
        loops = {
            "ours": partial(open_loop, ours.server, ours.payloads, calls_per_s),
            "echo": partial(open_loop, echo, ours.payloads, calls_per_s),
        }
        p99_ms = percentiles(in_turns(loops, rounds=ROUNDS))[99]
    ours_ms, echo_ms = p99_ms.median("ours"), p99_ms.median("echo")
    at = f"p99 at half the top rate, {calls_per_s:.0f} requests/s, ms"
    report.row(
        at,
        f"{ours_ms:.1f}",
        f"one request in process, {setting}, {one_ms:.1f}",
        ours_ms / one_ms,
        key="p99_vs_inprocess",
    )
    report.row("the same", f"{ours_ms:.1f}", f"a bare echo of these bytes {echo_ms:.1f}", ours_ms / echo_ms)
    report.key("p99_ms", ours_ms)
    report.key("echo_p99_ms", echo_ms)


def lone_request_ms(requests: Sequence[Request]) -> tuple[str, float]:
    """Return what one request takes in process, the median, in the setting that is faster, and which that is."""
    model = make_model(ROWS)
    took: dict[str, list[float]] = {setting: [] for setting in IN_PROCESS}
    with torch.inference_mode():
        for setting, threads in IN_PROCESS.items():
            torch.set_num_threads(threads)
            for number in range(LONE_REQUESTS):
                begin = time.perf_counter()
                score_request(model, requests[number % len(requests)])
                took[setting].append((time.perf_counter() - begin) * 1e3)
    one_ms, setting = min((float(np.median(each)), setting) for setting, each in took.items())
    return setting, one_ms


def beside_triton(report: Report, requests: Sequence[Request]) -> None:
    """Report top rates, and latencies at equal rates, of `--heads auto` beside as many instances of Triton."""
    with ringpull(requests, "--heads", "auto") as heads:
        instances = max(triton.INSTANCES, heads.heads)
        report.row("heads of --heads auto", str(heads.heads), f"Triton's instances {instances}")
        report.key(HEADS, heads.heads)
        with baseline("triton", requests, "--instances", str(instances)) as theirs:
            check_scores((heads, theirs), requests[0])
            contenders = {"ours": heads, "triton": theirs}
            contenders = {name: each.by_connections(CONNECTIONS) for name, each in contenders.items()}
            # Which has ended before the tails are taken: an idle deployment wakes up, too.
            with ExitStack() as stack:
                others = {}
                if instructions("cpu"):
                    # The same number: chosen again, it would be by the memory that is left beside these.
                    as_many = ("--heads", str(heads.heads))
                    others["bf16"] = stack.enter_context(ringpull(requests, *as_many, precision="bfloat16"))
                    check_scores(others.values(), requests[0], within=BF16_WITHIN)
                others = {name: each.by_connections(CONNECTIONS) for name, each in others.items()}
                tops = compare_rates(report, {**contenders, **others})
            compare_at_shares(report, contenders, tops)


def compare_rates(report: Report, contenders: Mapping[str, Contender]) -> Samples:
    """Report closed loops of `ours`, and of `bf16` where there is one, beside `triton`; return their calls a second."""
    tops = in_drawn_order({name: partial(_calls_per_s, each) for name, each in contenders.items()}, rounds=ROUNDS)
    samples = Samples({name: [each * CANDIDATES for each in values] for name, values in tops.values.items()})
    report.compare("samples/s, heads", samples, ("ours", "triton"), key="e2e_vs_triton")
    if "bf16" in contenders:
        report.compare("samples/s, heads, in bfloat16", samples, ("bf16", "triton"), key=BF16)
    else:
        report.absent("heads in bfloat16", NO_BF16, BF16)
    return tops


def compare_at_shares(report: Report, contenders: Mapping[str, Contender], tops: Samples) -> None:
    """Report `ours` beside `triton` in open loops at shares of the slower one's top rate, of `tops`."""
    pair = ("ours", "triton")
    slower = min(tops.median(name) for name in pair)
    for share in SHARES:
        rate = slower * share
        runs = taking_turns(contenders, dict.fromkeys(pair, rate))
        for percent, latency_ms in percentiles(runs).items():
            what = f"p{percent}, heads, {rate:.0f} requests/s, {share:g} of the slower one's top, ms"
            report.compare(what, latency_ms, pair, key=key_of(percent, share), show=".1f")
        if share == HALF:
            compare_use(report, runs, rate)
            compare_at_equal_use(report, contenders, runs, rate, tops.median("triton") * NEAR_TOP)


def compare_use(report: Report, runs: Mapping[str, Sequence[Run]], rate: float) -> None:
    """Report what of the cores both took in open loops at a rate, and the p99 of queues of that."""
    cost_s, waited_ms, cores = costs_s(runs), waits_ms(runs), cores_here()
    queue_ms = {name: queue_p99_s(rate, each, cores) * 1e3 for name, each in cost_s.items()}
    report_both(report, WHOSE_USE, CORE_USE, {name: each * rate / cores for name, each in cost_s.items()})
    report_both(report, "ready without a core, all threads of the server, ms a request", CORE_WAIT, waited_ms)
    what = "p99 of a queue where a request stays on one core that long, ms"
    report_both(report, what, QUEUE_P99, queue_ms, ratio_key=OF_QUEUES)


def compare_at_equal_use(
    report: Report,
    contenders: Mapping[str, Contender],
    runs: Mapping[str, Sequence[Run]],
    rate: float,
    most: float,
) -> None:
    """Report tails where `triton` should take as much of the cores as `ours` does at a rate, and what both took.

    Args:
        runs: Open loops at this rate, which say what a request takes.
        most: The highest rate that `triton` is asked at.
    """
    cost_s = costs_s(runs)
    rates = {"ours": rate, "triton": min(rate * cost_s["ours"] / cost_s["triton"], most)}
    there = taking_turns(contenders, rates)
    what = f"p99 at equal use of the cores, {rates['ours']:.0f} and {rates['triton']:.0f} requests/s, ms"
    report.compare(what, percentiles(there)[99], ("ours", "triton"), key=EQUAL_USE, show=".1f")
    use = {name: each * rates[name] / cores_here() for name, each in costs_s(there).items()}
    report_both(report, f"there: {WHOSE_USE}", USE_THERE, use)


def report_both(report: Report, what: str, key: str, of: Mapping[str, float | None], *, ratio_key: str = "") -> None:
    """Report a figure of both, None where it could not be measured, each by a key of its own."""
    ours, theirs = of["ours"], of["triton"]
    shown, other = ("-" if each is None else f"{each:.2f}" for each in (ours, theirs))
    report.row(what, shown, f"triton {other}", ours / theirs if ours and theirs else None, key=ratio_key)
    report.key(key, ours)
    report.key(f"triton_{key}", theirs)


def costs_s(runs: Mapping[str, Sequence[Run]]) -> dict[str, float]:
    """Return the processor time of a request by contender, the generator's included."""
    return {name: median(run.cpu_per_call_s for run in each) for name, each in runs.items()}


def waits_ms(runs: Mapping[str, Sequence[Run]]) -> dict[str, float | None]:
    """Return how long threads were ready and had no core, a request, by contender; None: the kernel does not count."""
    found: dict[str, float | None] = {}
    for name, each in runs.items():
        waited = [run.server_waited_s / run.calls for run in each if run.server_waited_s is not None]
        found[name] = median(waited) * 1e3 if waited else None
    return found


def cores_here() -> int:
    """Return how many cores this process may use, and so whom it has started."""
    return len(os.sched_getaffinity(0))


def _calls_per_s(contender: Contender) -> float:
    return contender.run().calls_per_s


def queue_p99_s(calls_per_s: float, service_s: float, cores: int) -> float:
    """Return the p99 of Poisson requests that wait in one queue, in order, for one of the cores, and stay on it.

    No floor: parts of a real request run on several cores at once.
    """
    free_s, took_s = [0.0] * cores, []
    for due_s in islice(endless(calls_per_s), QUEUED):
        end_s = max(due_s, heapq.heappop(free_s)) + service_s
        heapq.heappush(free_s, end_s)
        took_s.append(end_s - due_s)
    return float(np.percentile(took_s, 99))


def arrivals(calls_per_s: float) -> Iterator[float]:
    """Yield the times of an open loop, the same ones for whoever is asked at this rate."""
    return islice(endless(calls_per_s), int(calls_per_s * OPEN_SECONDS))


def endless(calls_per_s: float) -> Iterator[float]:
    """Yield Poisson times without end, the same ones at this rate."""
    return endless_arrivals(calls_per_s, np.random.default_rng(0))


def open_loop(asked: Server, payloads: Sequence[bytes], calls_per_s: float) -> Run:
    """Ask at the times of `arrivals`."""
    return asked.open_loop(payloads, arrivals(calls_per_s))


def taking_turns(contenders: Mapping[str, Contender], rates: Mapping[str, float]) -> dict[str, list[Run]]:
    """Return open loops of contenders at their rates."""
    return in_turns(
        {name: partial(open_loop, each.server, each.payloads, rates[name]) for name, each in contenders.items()},
        rounds=ROUNDS,
    )


def in_turns(loops: Mapping[str, Callable[[], Run]], *, rounds: int) -> dict[str, list[Run]]:
    """Return runs of loops that take turns, in an order drawn for each round; the first of each is to warm up."""
    runs: dict[str, list[Run]] = {name: [] for name in loops}

    def measure(name: str) -> float:
        runs[name].append(loops[name]())
        return 0.0

    in_drawn_order({name: partial(measure, name) for name in loops}, rounds=rounds)
    return {name: each[1:] for name, each in runs.items()}


def percentiles(runs: Mapping[str, Sequence[Run]]) -> dict[int, Samples]:
    """Return the percentiles of runs, in ms."""
    return {
        percent: Samples({name: [run.percentile_ms(percent) for run in each] for name, each in runs.items()})
        for percent in PERCENTILES
    }


if __name__ == "__main__":
    main()
