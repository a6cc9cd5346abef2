"""End to end: a DLRM over gRPC, ours with remote tables against servers that hold every table themselves.

One user and 128 candidates per request, 8 requests in flight, the load generator on the same cores. All contenders serve the same
weights, take turns, and their scores of one request are compared before anything is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
import torch
from google.protobuf.wrappers_pb2 import BytesValue

from inference.codec import as_call, decode_response, encode_request
from loadtest.bench import dlrm, load, redis_server
from loadtest.bench.harness import QUICK, Report, interleave
from loadtest.bench.model_folder import dlrm_folder
from loadtest.bench.process import cpu_seconds, server
from loadtest.bench.rivals import METHOD

ROWS = 10_000 if QUICK else 50_000
SHARDS = 2
IN_FLIGHT = 8
SECONDS = 3.0 if QUICK else 6.0
ROUNDS = 1 if QUICK else 3
PREDICT = "/ringpull.v1.Predictor/Predict"


@dataclass(frozen=True, slots=True)
class Contender:
    """One server under load."""

    target: str
    method: str
    payloads: Sequence[bytes]
    process: psutil.Process
    scores: Callable[[bytes], np.ndarray]

    def first_scores(self) -> np.ndarray:
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
def ringpull(folder: Path, requests: Sequence[dlrm.Request], *, shards: int = SHARDS) -> Iterator[Contender]:
    """Serve the exported model with the real command."""
    arguments = ("serve", str(folder), "--shards", str(shards), "--grpc-port", "0", "--http-port", "0")
    payloads = []
    for request in requests:
        features, context = dlrm.columns(request)
        payloads.append(encode_request(as_call("dlrm", features, context)).SerializeToString())
    with server("deploy.cli", *arguments, ready="ringpull ready ") as (line, process):
        target = dict(word.split("=", 1) for word in line.split() if "=" in word)["grpc"]
        yield Contender(target, PREDICT, payloads, process, _ours)


def _ours(reply: bytes) -> np.ndarray:
    from inference.proto import ringpull_pb2

    outputs = decode_response(ringpull_pb2.PredictResponse.FromString(reply)).outputs
    return next(iter(outputs.values())).reshape(-1)


@contextmanager
def rival(
    name: str, requests: Sequence[dlrm.Request], rows: int, *arguments: str, wrap: bool = False
) -> Iterator[Contender]:
    payloads = [request.to_bytes() for request in requests]
    if wrap:
        payloads = [BytesValue(value=payload).SerializeToString() for payload in payloads]

    def scores(reply: bytes) -> np.ndarray:
        return np.frombuffer(BytesValue.FromString(reply).value if wrap else reply, np.float32)

    with server(f"loadtest.bench.rivals.{name}", "--rows", str(rows), *arguments) as (port, process):
        yield Contender(f"127.0.0.1:{port}", METHOD, payloads, process, scores)


def main() -> None:
    requests = dlrm.make_requests(32, ROWS)
    report = Report(
        f"DLRM end to end: 26 tables x {ROWS:,} x 64, 1 user + 128 candidates, {IN_FLIGHT} in flight, samples/s"
    )
    with ExitStack() as stack:
        contenders = {"ours": stack.enter_context(ringpull(dlrm_folder(ROWS), requests))}
        contenders["grpc_torch"] = stack.enter_context(rival("grpc_torch", requests, ROWS))
        if redis_server.installed():
            port = stack.enter_context(redis_server.private_redis())
            contenders["redis_torch"] = stack.enter_context(
                rival("redis_torch", requests, ROWS, "--redis-port", str(port))
            )
        else:
            print("redis-server is not installed (apt-get install redis-server): redis_torch is left out", flush=True)
        contenders["ray_serve"] = stack.enter_context(rival("ray_serve", requests, ROWS, wrap=True))
        _same_scores(contenders, requests[0])
        _measure(report, contenders, in_process(ROWS, requests))
        _latency(report, contenders["ours"], requests)
    report.finish()


def _same_scores(contenders: dict[str, Contender], request: dlrm.Request) -> None:
    with torch.inference_mode():
        expected = dlrm.make_model(ROWS).score_request(request).numpy().reshape(-1)
    for contender in contenders.values():
        np.testing.assert_allclose(contender.first_scores(), expected, rtol=1e-4, atol=1e-5)


def _measure(report: Report, contenders: dict[str, Contender], bare: Callable[[], float]) -> None:
    outcomes: dict[str, list[load.Outcome]] = {name: [] for name in contenders}
    cpu_us: list[float] = []

    def measure(name: str) -> float:
        family = [contenders[name].process, *contenders[name].process.children(recursive=True)]
        before, outcome = cpu_seconds(family), contenders[name].run()
        outcomes[name].append(outcome)
        if name == "ours":
            samples = outcome.calls_per_s * SECONDS * dlrm.CANDIDATES
            cpu_us.append((cpu_seconds(family) - before) / samples * 1e6)
        return outcome.calls_per_s * dlrm.CANDIDATES

    runs: dict[str, Callable[[], float]] = {"inprocess": bare}
    runs |= {name: (lambda name=name: measure(name)) for name in contenders}
    samples = interleave(runs, rounds=ROUNDS)
    ours = f"{samples.median('ours'):,.0f}"
    reach = {"inprocess": "0.4, aim 0.8", "grpc_torch": "0.7", "redis_torch": "10", "ray_serve": "2"}
    for name, bound in reach.items():
        if name in runs:
            tail = f", p99 {outcomes[name][-1].p99_ms:.0f} ms" if name in outcomes else ""
            ratio = samples.ratio("ours", name)
            report.row(
                "served" if name != "inprocess" else "served",
                ours,
                f"{name} {samples.median(name):,.0f}{tail}",
                ratio,
                bound,
            )
            report.key(f"e2e_vs_{name}", ratio)
    report.row("p50 / p99 at full load, ms", f"{outcomes['ours'][-1].p50_ms:.1f} / {outcomes['ours'][-1].p99_ms:.1f}")
    report.row("CPU us per sample, head + shards", f"{np.median(cpu_us[1:]):.1f}")
    report.key("samples_per_s", samples.median("ours"))
    report.key("cpu_us_per_sample", float(np.median(cpu_us[1:])))


def _latency(report: Report, ours: Contender, requests: Sequence[dlrm.Request]) -> None:
    model = dlrm.make_model(ROWS)
    with torch.inference_mode():
        took = []
        for number in range(100):
            begin = time.perf_counter()
            model.score_request(requests[number % len(requests)])
            took.append(time.perf_counter() - begin)
    one_ms = float(np.median(took)) * 1000
    top = ours.run(seconds=SECONDS).calls_per_s
    open_p99 = [
        load.open_loop(ours.target, ours.method, ours.payloads, calls_per_s=top / 2, seconds=SECONDS).p99_ms
        for _ in range(3)
    ]
    p99 = float(np.median(open_p99))
    report.row(
        "p99 at half the top rate, ms",
        f"{p99:.1f}",
        f"one request in process {one_ms:.1f}",
        p99 / one_ms,
        "<= 5, aim 3",
    )
    report.key("p99_vs_inprocess", p99 / one_ms)


if __name__ == "__main__":
    main()
