"""What metrics cost: the rate and the processor time of requests with them, scraped every second, beside without them.

Two deployments of one model, one of them served with `--no-metrics`, loaded in turns. Requests of one candidate are the
worst case: what is counted once a request weighs most where a request does least. A scraper usually comes every 15 s.
"""

from __future__ import annotations

import json
import threading
import time
import timeit
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.metrics.call_log import Call
from ringpull.inference.head.metrics.call_metrics import CallMetrics
from ringpull.inference.head.metrics.call_watch import CallWatch
from ringpull.loadtest.bench import dlrm, load
from ringpull.loadtest.bench.deployment import PREDICT_METHOD, Deployment, deployed
from ringpull.loadtest.bench.harness import QUICK, Report, Samples, interleave
from ringpull.loadtest.bench.model_folder import dlrm_folder
from ringpull.loadtest.bench.process import cpu_seconds
from ringpull.ps.wire.messages import PullReply, PullRequest
from ringpull.ps.wire.tally import ServerTally

ROWS = 10_000 if QUICK else 50_000
SHARDS = 2
SECONDS = 2.0 if QUICK else 4.0
ROUNDS = 4 if QUICK else 12
SCRAPE_S = 1.0
IN_FLIGHT = {1: 64, dlrm.CANDIDATES: 8}
"""By the candidates of a request."""
REACH = ">= 0.97"
PATIENT = ("--max-queue", "60", "--standing-queue", "60", "--default-timeout", "60")
"""On a machine that others use too a closed loop may take any time; none of its calls is to be refused for that."""


def main() -> None:
    folder = dlrm_folder(ROWS)
    report = Report(f"Metrics, scraped every {SCRAPE_S:g} s, beside none: requests/s, and CPU of head and shards")
    with (
        deployed(folder, SHARDS, *PATIENT) as told,
        deployed(folder, SHARDS, *PATIENT, "--no-metrics") as untold,
    ):
        for candidates, in_flight in IN_FLIGHT.items():
            payloads = [dlrm.payload_of(request) for request in dlrm.make_requests(64, ROWS, candidates=candidates)]
            cpu_us: dict[str, list[float]] = {"with": [], "without": []}

            def rate(
                name: str,
                ours: Deployment,
                payloads: Sequence[bytes] = payloads,
                in_flight: int = in_flight,
                cpu_us: dict[str, list[float]] = cpu_us,
            ) -> Callable[[], float]:
                def measure() -> float:
                    workers = ours.workers()
                    before_s = cpu_seconds(workers)
                    with scraped(ours.http if name == "with" else None):
                        outcome = load.closed_loop(
                            ours.target, PREDICT_METHOD, payloads, in_flight=in_flight, seconds=SECONDS
                        )
                    cpu_us[name].append((cpu_seconds(workers) - before_s) / outcome.calls * 1e6)
                    return outcome.calls_per_s

                return measure

            samples = interleave({"with": rate("with", told), "without": rate("without", untold)}, rounds=ROUNDS)
            cpu = Samples({name: values[1:] for name, values in cpu_us.items()})
            kind = "small" if candidates == 1 else "whole"
            ratio, cpu_ratio = samples.ratio("with", "without"), cpu.ratio("with", "without")
            report.row(
                f"requests/s, {candidates} candidates",
                f"{samples.median('with'):,.0f}",
                f"without {samples.median('without'):,.0f}",
                ratio,
                REACH,
            )
            report.row(
                f"CPU us a request, {candidates} candidates",
                f"{cpu.median('with'):,.0f}",
                f"without {cpu.median('without'):,.0f}",
                cpu_ratio,
            )
            report.key(f"metrics_rate_{kind}", ratio)
            report.key(f"metrics_cpu_{kind}", cpu_ratio)
    of_call, of_pull = counting_us()
    report.row("counting a call at a head, us", f"{of_call:.2f}", "in process, nothing else")
    report.row("counting a pull at a shard, us", f"{of_pull:.2f}", "in process, nothing else")
    report.key("counting_us_per_call", of_call)
    report.key("counting_us_per_pull", of_pull)
    report.finish()


def counting_us() -> tuple[float, float]:
    """Return what is added to the way of a call through a head, and of a pull through a shard: without the noise."""
    calls, tally = CallMetrics(), ServerTally()
    calls.serves(dlrm.MODEL)
    watch = CallWatch(calls)
    times = StageTimes(0.001, 0.0002, 0.002, 0.001, dlrm.CANDIDATES)
    nothing = np.empty(0)
    pull = PullRequest(dlrm.MODEL, 1, 1, (), *[nothing] * 3)
    reply = PullReply(*[nothing] * 3)

    def call() -> None:
        now = time.monotonic()
        watch.answered(Call(now), dlrm.MODEL, 1, times, decoded_s=now, scored_s=now)

    def answer() -> None:
        tally.answered(pull, reply, queue_s=0.0001, took_s=0.001, received_bytes=16_000, sent_bytes=40_000)

    return _us(call), _us(answer)


def _us(run: Callable[[], None], times: int = 20_000) -> float:
    return min(timeit.repeat(run, number=times, repeat=5)) / times * 1e6


@contextmanager
def scraped(http: str | None) -> Iterator[None]:
    """Scrape every process of a deployment once in `SCRAPE_S`, as Prometheus would; None: nothing."""
    done = threading.Event()

    def scrape() -> None:
        targets = json.loads(_read(f"http://{http}/metrics/targets"))
        while not done.wait(SCRAPE_S):
            for each in targets:
                _read(f"http://{each['targets'][0]}/metrics")

    scraper = threading.Thread(target=scrape)
    if http is not None:
        scraper.start()
    try:
        yield
    finally:
        done.set()
        if http is not None:
            scraper.join()


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        body: bytes = answer.read()
        return body


if __name__ == "__main__":
    main()
