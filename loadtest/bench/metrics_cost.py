"""The cost of metrics: rate and processor time of requests with them, scraped every second, beside without them.

Two deployments of one model, one of them served with `--no-metrics`, loaded in turns. Requests of one candidate are the
worst case: what is counted once a request weighs most where a request does least. A scraper usually comes every 15 s.
"""

from __future__ import annotations

import json
import threading
import time
import timeit
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from ringpull.inference.client.credentials import Credentials
from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.metrics.call_log import Call
from ringpull.inference.head.metrics.call_metrics import CallMetrics
from ringpull.inference.head.metrics.call_watch import CallWatch
from ringpull.loadtest.bench.asked_rates import PATIENT
from ringpull.loadtest.bench.dlrm_requests import CANDIDATES, payloads_of
from ringpull.loadtest.bench.harness import QUICK, Report, Samples, interleave
from ringpull.loadtest.bench.load import Server
from ringpull.loadtest.deployment import Deployment, deployed
from ringpull.loadtest.dlrm import MODEL, dlrm_folder
from ringpull.loadtest.http_read import read
from ringpull.ps.pull_messages import PullReply, PullRequest
from ringpull.ps.wire.tally import ServerTally

ROWS = 10_000 if QUICK else 50_000
SHARDS = 2
SECONDS = 1.0
ROUNDS = 4
SCRAPE_S = 1.0
IN_FLIGHT = {1: 64, CANDIDATES: 8}
"""Requests in flight by the candidates of a request."""


def main() -> None:
    folder = dlrm_folder(ROWS)
    report = Report(f"Metrics, scraped every {SCRAPE_S:g} s, beside none: requests/s, and CPU of head and shards")
    with (
        deployed(folder, SHARDS, *PATIENT) as metered,
        deployed(folder, SHARDS, *PATIENT, "--no-metrics") as unmetered,
    ):
        for candidates in IN_FLIGHT:
            _compare(report, {"with": metered, "without": unmetered}, candidates)
    of_call, of_pull = counting_us()
    report.row("counting a call at a head, us", f"{of_call:.2f}", "in process, nothing else")
    report.row("counting a pull at a shard, us", f"{of_pull:.2f}", "in process, nothing else")
    report.key("counting_us_per_call", of_call)
    report.key("counting_us_per_pull", of_pull)
    report.finish()


def _compare(report: Report, deployments: Mapping[str, Deployment], candidates: int) -> None:
    payloads = payloads_of(64, ROWS, candidates=candidates)
    cpu_us: dict[str, list[float]] = {name: [] for name in deployments}

    def rate(name: str, ours: Deployment) -> Callable[[], float]:
        def measure() -> float:
            with scraped(ours.http if name == "with" else None):
                asked = Server(ours.target, processes=ours.running())
                run = asked.closed_loop(payloads, in_flight=IN_FLIGHT[candidates], seconds=SECONDS)
            cpu_us[name].append(run.server_cpu_per_call_s * 1e6)
            return run.calls_per_s

        return measure

    samples = interleave({name: rate(name, ours) for name, ours in deployments.items()}, rounds=ROUNDS)
    cpu = Samples({name: values[1:] for name, values in cpu_us.items()})
    kind = "small" if candidates == 1 else "whole"
    names, of = ("with", "without"), f"{candidates} candidates"
    report.compare(f"requests/s, {of}", samples, names, key=f"metrics_rate_{kind}")
    report.compare(f"CPU us a request, {of}", cpu, names, key=f"metrics_cpu_{kind}")


def counting_us() -> tuple[float, float]:
    """Return what is added to the way of a call through a head, and of a pull through a shard: without the noise."""
    calls, tally = CallMetrics(), ServerTally()
    calls.serves(MODEL)
    watch = CallWatch(calls)
    times = StageTimes(0.001, 0.0002, 0.002, 0.001, CANDIDATES)
    nothing = np.empty(0, np.float32)
    positions, lengths = np.empty(0, np.uint64), np.empty(0, np.uint32)
    pull = PullRequest(MODEL, 1, 1, (), positions, lengths, nothing)
    reply = PullReply(nothing, lengths, np.empty(0, np.uint8))

    def call() -> None:
        now = time.monotonic()
        watch.answered(Call(now), MODEL, 1, times, decoded_s=now, scored_s=now)

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
        assert http is not None
        credentials = Credentials.given()
        targets = json.loads(read(http, "/metrics/targets", credentials))
        while not done.wait(SCRAPE_S):
            for each in targets:
                read(each["targets"][0], "/metrics", credentials)

    scraper = threading.Thread(target=scrape)
    if http is not None:
        scraper.start()
    try:
        yield
    finally:
        done.set()
        if http is not None:
            scraper.join()


if __name__ == "__main__":
    main()
