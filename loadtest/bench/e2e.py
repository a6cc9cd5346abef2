"""End to end: a DLRM over gRPC, ours with remote tables against servers that hold every table themselves.

One user and 128 candidates per request, 8 requests in flight, the load generator on the same cores. All contenders
serve the same weights, take turns, and their scores of one request are compared before anything is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import grpc
import numpy as np
import psutil
import torch
from google.protobuf.wrappers_pb2 import BytesValue
from numpy.typing import NDArray

from ringpull.inference.proto import ringpull_pb2
from ringpull.inference.wire.codec import decode_response
from ringpull.loadtest.bench import dlrm, load, redis_server
from ringpull.loadtest.bench.deployment import PREDICT_METHOD, deployed
from ringpull.loadtest.bench.harness import QUICK, Report, Samples, interleave
from ringpull.loadtest.bench.model_folder import dlrm_folder
from ringpull.loadtest.bench.process import cpu_seconds, server
from ringpull.loadtest.bench.rivals import METHOD

ROWS = 10_000 if QUICK else 50_000
SHARDS = 2
IN_FLIGHT = 8
SECONDS = 3.0 if QUICK else 6.0
TAIL_ROUNDS = 2 if QUICK else 5
ROUNDS = 1 if QUICK else 3
REACH = {"inprocess": "0.4, aim 0.8", "grpc_torch": "0.7", "redis_torch": "10", "ray_serve": "2"}

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Contender:
    """One server under load."""

    target: str
    method: str
    payloads: Sequence[bytes]
    workers: Sequence[psutil.Process]
    """What answers the requests; their CPU time is what serving costs."""
    scores: Callable[[bytes], Scores]
    """Reads a reply."""

    def first_scores(self) -> Scores:
        with grpc.insecure_channel(self.target, options=load.OPTIONS) as channel:
            return self.scores(channel.unary_unary(self.method)(self.payloads[0]))

    def run(self, *, in_flight: int = IN_FLIGHT, seconds: float = SECONDS) -> load.Outcome:
        return load.closed_loop(self.target, self.method, self.payloads, in_flight=in_flight, seconds=seconds)


def in_process(rows: int, requests: Sequence[dlrm.Request]) -> Callable[[], float]:
    """Return a contender without any server: samples per second of the bare model, with as many threads as cores."""
    model = dlrm.make_model(rows)

    def measure() -> float:
        done, begin = 0, time.perf_counter()
        with torch.inference_mode():
            while (took := time.perf_counter() - begin) < SECONDS:
                model.score_request(requests[done % len(requests)])
                done += 1
        return done * dlrm.CANDIDATES / took

    return measure


@contextmanager
def ringpull(requests: Sequence[dlrm.Request]) -> Iterator[Contender]:
    """Serve the exported model with the real command."""
    payloads = [dlrm.payload_of(request) for request in requests]
    with deployed(dlrm_folder(ROWS), SHARDS) as ours:
        yield Contender(ours.target, PREDICT_METHOD, payloads, ours.workers(), _ours)


def _ours(reply: bytes) -> Scores:
    outputs = decode_response(ringpull_pb2.PredictResponse.FromString(reply)).outputs
    return next(iter(outputs.values())).reshape(-1)


@contextmanager
def rival(name: str, requests: Sequence[dlrm.Request], *arguments: str, wrap: bool = False) -> Iterator[Contender]:
    """Serve the same model by one of `loadtest.bench.rivals`; `wrap`: its messages are protobuf's BytesValue."""
    payloads = [request.to_bytes() for request in requests]
    if wrap:
        payloads = [BytesValue(value=payload).SerializeToString() for payload in payloads]

    def scores(reply: bytes) -> Scores:
        return np.frombuffer(BytesValue.FromString(reply).value if wrap else reply, np.float32)

    with server(f"ringpull.loadtest.bench.rivals.{name}", "--rows", str(ROWS), *arguments) as (port, process):
        yield Contender(f"127.0.0.1:{port}", METHOD, payloads, [process], scores)


def main() -> None:
    requests = dlrm.make_requests(32, ROWS)
    report = Report(
        f"DLRM end to end: 26 tables x {ROWS:,} x 64, 1 user + 128 candidates, {IN_FLIGHT} in flight, samples/s"
    )
    with ringpull(requests) as ours:
        _against_rivals(report, ours, requests)
        # Alone again: an idle Ray Serve wakes up often enough to be in the tail of others.
        _latency(report, ours, requests)
    report.finish()


def _against_rivals(report: Report, ours: Contender, requests: Sequence[dlrm.Request]) -> None:
    with ExitStack() as stack:
        contenders = {"ours": ours, "grpc_torch": stack.enter_context(rival("grpc_torch", requests))}
        if (why := redis_server.missing()) is None:
            port, _ = stack.enter_context(redis_server.private_redis())
            contenders["redis_torch"] = stack.enter_context(rival("redis_torch", requests, "--redis-port", str(port)))
        else:
            report.absent("redis_torch", why, "e2e_vs_redis_torch")
        if find_spec("fastapi") is not None:
            contenders["ray_serve"] = stack.enter_context(rival("ray_serve", requests, wrap=True))
        else:
            report.absent("ray_serve", "Ray Serve is not installed: pip install 'ringpull[bench]'", "e2e_vs_ray_serve")
        _same_scores(contenders, requests[0])
        _throughput(report, contenders, in_process(ROWS, requests))


def _same_scores(contenders: dict[str, Contender], request: dlrm.Request) -> None:
    with torch.inference_mode():
        expected = dlrm.make_model(ROWS).score_request(request).numpy().reshape(-1)
    for contender in contenders.values():
        np.testing.assert_allclose(contender.first_scores(), expected, rtol=1e-4, atol=1e-5)


def _throughput(report: Report, contenders: dict[str, Contender], bare: Callable[[], float]) -> None:
    outcomes: dict[str, list[load.Outcome]] = {name: [] for name in contenders}
    cpu_us: list[float] = []

    def contend(name: str, contender: Contender) -> Callable[[], float]:
        def measure() -> float:
            before, outcome = cpu_seconds(contender.workers), contender.run()
            outcomes[name].append(outcome)
            if name == "ours":
                cpu_us.append((cpu_seconds(contender.workers) - before) / (outcome.calls * dlrm.CANDIDATES) * 1e6)
            return outcome.calls_per_s * dlrm.CANDIDATES

        return measure

    runs = {"inprocess": bare, **{name: contend(name, contender) for name, contender in contenders.items()}}
    samples = interleave(runs, rounds=ROUNDS)
    for name in REACH:
        if name in runs:
            _compare(report, samples, name, outcomes.get(name, []))
    report.row("p50 / p99 at full load, ms", f"{outcomes['ours'][-1].p50_ms:.1f} / {outcomes['ours'][-1].p99_ms:.1f}")
    report.row("CPU us per sample, head + shards", f"{np.median(cpu_us[1:]):.1f}")
    report.key("samples_per_s", samples.median("ours"))
    report.key("cpu_us_per_sample", float(np.median(cpu_us[1:])))


def _compare(report: Report, samples: Samples, name: str, outcomes: Sequence[load.Outcome]) -> None:
    tail = f", p99 {outcomes[-1].p99_ms:.0f} ms" if outcomes else ""
    ratio = samples.ratio("ours", name)
    report.row(
        "samples/s", f"{samples.median('ours'):,.0f}", f"{name} {samples.median(name):,.0f}{tail}", ratio, REACH[name]
    )
    report.key(f"e2e_vs_{name}", ratio)


def _latency(report: Report, ours: Contender, requests: Sequence[dlrm.Request]) -> None:
    model = dlrm.make_model(ROWS)
    took = []
    with torch.inference_mode():
        for number in range(100):
            begin = time.perf_counter()
            model.score_request(requests[number % len(requests)])
            took.append(time.perf_counter() - begin)
    one_ms = float(np.median(took)) * 1000
    calls_per_s = float(np.median([ours.run().calls_per_s for _ in range(3)])) / 2
    with grpc.insecure_channel(ours.target) as channel:
        reply_bytes = len(channel.unary_unary(ours.method)(ours.payloads[0]))
    with server("ringpull.loadtest.bench.rivals.echo", "--reply-bytes", str(reply_bytes)) as (port, _):

        def p99_ms(target: str, method: str) -> Callable[[], float]:
            return lambda: (
                load.open_loop(target, method, ours.payloads, calls_per_s=calls_per_s, seconds=SECONDS).p99_ms
            )

        contenders = {"ours": p99_ms(ours.target, ours.method), "echo": p99_ms(f"127.0.0.1:{port}", METHOD)}
        samples = interleave(contenders, rounds=TAIL_ROUNDS)
    ours_ms, echo_ms = samples.median("ours"), samples.median("echo")
    at = f"p99 at half the top rate, {calls_per_s:.0f} requests/s, ms"
    report.row(at, f"{ours_ms:.1f}", f"one request in process {one_ms:.1f}", ours_ms / one_ms, "<= 5, aim 3")
    report.row("the same", f"{ours_ms:.1f}", f"a bare echo of these bytes {echo_ms:.1f}", ours_ms / echo_ms)
    report.key("p99_vs_inprocess", ours_ms / one_ms)
    report.key("p99_ms", ours_ms)
    report.key("echo_p99_ms", echo_ms)


if __name__ == "__main__":
    main()
