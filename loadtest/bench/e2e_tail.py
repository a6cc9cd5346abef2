"""The tail of the end-to-end benches: open loops, where latency counts from when a request was due.

A tail says something only beside the rate it was taken at, so whoever is compared is asked at equal rates: shares of
what the slower one reaches in a closed loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final

import numpy as np
import torch

from ringpull.loadtest.bench.asked_rates import in_drawn_order
from ringpull.loadtest.bench.dlrm_requests import CANDIDATES, Request, score_request
from ringpull.loadtest.bench.e2e_contenders import (
    IN_PROCESS,
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

ROUNDS: Final = 2 if QUICK else 5
TOP_ROUNDS: Final = 1 if QUICK else 3
LONE_REQUESTS: Final = 100
SHARES: Final = (0.25, 0.5, 0.75)
"""Rates of the open loops, as shares of the slower one's top rate."""
HALF: Final = 0.5
PERCENTILES: Final = (50, 99)
HEADS: Final = 2
"""Heads beside Triton's instances, of which there are as many."""
CONNECTIONS: Final = 16
"""Connections to two heads on one port: the kernel deals them out, by chance, so there have to be some."""


def key_of(percent: int, share: float) -> str:
    """Return the key of a percentile beside Triton's; what is at half of the top rate goes without saying."""
    at = "" if share == HALF else f"_at_{share:g}".replace(".", "_")
    return f"p{percent}_vs_triton{at}"


KEYS: Final = ("p99_vs_inprocess", "p99_ms", "echo_p99_ms")
TRITON_KEYS: Final = ("e2e_heads_vs_triton", *(key_of(percent, share) for share in SHARES for percent in PERCENTILES))


def beside_echo(report: Report, ours: Contender, requests: Sequence[Request]) -> None:
    """Report the p99 at half of the top rate, beside one request in process and a bare echo."""
    setting, one_ms = lone_request_ms(requests)
    calls_per_s = float(np.median([ours.run().calls_per_s for _ in range(3)])) * HALF
    with echo_of(ours.first_reply()) as echo:
        loops = {
            "ours": partial(open_loop, ours.server, ours.payloads, calls_per_s),
            "echo": partial(open_loop, echo, ours.payloads, calls_per_s),
        }
        p99_ms = tails(loops, rounds=ROUNDS)[99]
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
    """Report top rates, and latencies at equal rates, of two heads beside Triton's two instances."""
    with ringpull(requests, "--heads", str(HEADS)) as heads, baseline("triton", requests) as triton:
        check_scores((heads, triton), requests[0])
        contenders = {"ours": heads, "triton": triton}
        compare_at_shares(report, {name: each.by_connections(CONNECTIONS) for name, each in contenders.items()})


def compare_at_shares(report: Report, contenders: Mapping[str, Contender]) -> None:
    """Report `ours` beside `triton`: closed loops, then open ones at shares of the slower one's top rate."""
    pair = ("ours", "triton")
    tops = in_drawn_order({name: partial(_calls_per_s, each) for name, each in contenders.items()}, rounds=TOP_ROUNDS)
    samples = Samples({name: [each * CANDIDATES for each in values] for name, values in tops.values.items()})
    report.compare(f"samples/s, {HEADS} heads", samples, pair, key="e2e_heads_vs_triton")
    slower = min(tops.median(name) for name in pair)
    for share in SHARES:
        rate = slower * share
        loops = {name: partial(open_loop, each.server, each.payloads, rate) for name, each in contenders.items()}
        for percent, latency_ms in tails(loops, rounds=ROUNDS).items():
            what = f"p{percent}, {HEADS} heads, {rate:.0f} requests/s, {share:g} of the slower one's top, ms"
            report.compare(what, latency_ms, pair, key=key_of(percent, share), show=".1f")


def _calls_per_s(contender: Contender) -> float:
    return contender.run().calls_per_s


def open_loop(asked: Server, payloads: Sequence[bytes], calls_per_s: float) -> Run:
    """Ask at Poisson times, the same ones for whoever is asked at this rate."""
    arrivals = islice(endless_arrivals(calls_per_s, np.random.default_rng(0)), int(calls_per_s * OPEN_SECONDS))
    return asked.open_loop(payloads, arrivals)


def tails(loops: Mapping[str, Callable[[], Run]], *, rounds: int) -> dict[int, Samples]:
    """Return the percentiles, in ms, of loops that take turns, in an order drawn for each round."""
    runs: dict[str, list[Run]] = {name: [] for name in loops}

    def measure(name: str) -> float:
        runs[name].append(loops[name]())
        return runs[name][-1].percentile_ms(PERCENTILES[-1])

    in_drawn_order({name: partial(measure, name) for name in loops}, rounds=rounds)
    return {
        percent: Samples({name: [run.percentile_ms(percent) for run in each[1:]] for name, each in runs.items()})
        for percent in PERCENTILES
    }
