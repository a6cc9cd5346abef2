"""End to end: a DLRM over gRPC, ours with remote tables against servers that hold every table themselves.

One user and 128 candidates per request, 8 requests in flight, the load generator on the same cores. All contenders
serve the same weights, take turns, and their scores of one request are compared before anything is measured.
Then a DIN with averaged histories, pooled by the pull and not (`ringpull.loadtest.bench.e2e_din`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice

import numpy as np
import torch
from google.protobuf.wrappers_pb2 import BytesValue
from numpy.typing import NDArray

from ringpull.inference.proto import ringpull_pb2
from ringpull.inference.wire.codec import decode_response
from ringpull.loadtest.bench import e2e_din, redis_server
from ringpull.loadtest.bench.baselines import METHOD
from ringpull.loadtest.bench.dlrm_requests import CANDIDATES, Request, make_requests, payload_of, score_request
from ringpull.loadtest.bench.harness import QUICK, Report, interleave
from ringpull.loadtest.bench.load import Run, Server, one_reply
from ringpull.loadtest.deployment import deployed
from ringpull.loadtest.dlrm import dlrm_folder, make_model
from ringpull.loadtest.generator import endless_arrivals
from ringpull.loadtest.process import server

ROWS = 10_000 if QUICK else 50_000
SHARDS = 2
IN_FLIGHT = 8
SECONDS = 3.0 if QUICK else 6.0
TAIL_ROUNDS = 2 if QUICK else 5
ROUNDS = 1 if QUICK else 3
BASELINES = ("inprocess", "grpc_torch", "redis_torch", "ray_serve")

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Contender:
    """One server under load, and what it is asked."""

    server: Server
    payloads: Sequence[bytes]
    scores: Callable[[bytes], Scores]
    """Reads a reply."""

    def first_reply(self) -> bytes:
        """Return the reply to the first request."""
        return one_reply(self.server, self.payloads[0])

    def run(self) -> Run:
        return self.server.closed_loop(self.payloads, in_flight=IN_FLIGHT, seconds=SECONDS)


@contextmanager
def echo_of(reply: bytes) -> Iterator[Server]:
    """Serve a bare grpc.aio echo that answers with as many bytes: the floor under every server."""
    with server("ringpull.loadtest.bench.echo", "--reply-bytes", str(len(reply))) as (port, _):
        yield Server(f"127.0.0.1:{port}")


def in_process(rows: int, requests: Sequence[Request]) -> Callable[[], float]:
    """Return a contender without any server: samples per second of the bare model, with as many threads as cores."""
    model = make_model(rows)

    def measure() -> float:
        done, begin = 0, time.perf_counter()
        with torch.inference_mode():
            while (took := time.perf_counter() - begin) < SECONDS:
                score_request(model, requests[done % len(requests)])
                done += 1
        return done * CANDIDATES / took

    return measure


@contextmanager
def ringpull(requests: Sequence[Request], *options: str) -> Iterator[Contender]:
    """Serve the exported model with the real command."""
    with deployed(dlrm_folder(ROWS), SHARDS, *options) as ours:
        asked = Server(ours.target, processes=ours.running())
        yield Contender(asked, [payload_of(request) for request in requests], _ours)


def _ours(reply: bytes) -> Scores:
    outputs = decode_response(ringpull_pb2.PredictResponse.FromString(reply)).outputs
    return next(iter(outputs.values())).reshape(-1)


@contextmanager
def baseline(name: str, requests: Sequence[Request], *arguments: str, wrap: bool = False) -> Iterator[Contender]:
    """Serve the same model by one of `ringpull.loadtest.bench.baselines`; `wrap`: its messages are BytesValue."""
    payloads = [request.to_bytes() for request in requests]
    if wrap:
        payloads = [BytesValue(value=payload).SerializeToString() for payload in payloads]

    def scores(reply: bytes) -> Scores:
        return np.frombuffer(BytesValue.FromString(reply).value if wrap else reply, np.float32)

    with server(f"ringpull.loadtest.bench.baselines.{name}", "--rows", str(ROWS), *arguments) as (port, _):
        yield Contender(Server(f"127.0.0.1:{port}", METHOD), payloads, scores)


def main() -> None:
    requests = make_requests(32, ROWS)
    report = Report(
        f"DLRM end to end: 26 tables x {ROWS:,} x 64, 1 user + 128 candidates, {IN_FLIGHT} in flight, samples/s"
    )
    with ringpull(requests) as ours:
        _against_baselines(report, ours, requests)
        # Alone again: an idle Ray Serve wakes up often enough to be in the tail of others.
        _latency(report, ours, requests)
    e2e_din.measure(report)
    report.finish()


def _against_baselines(report: Report, ours: Contender, requests: Sequence[Request]) -> None:
    with ExitStack() as stack:
        # As on machines of their own: every key is asked of the shards, though their files are here.
        remote = stack.enter_context(ringpull(requests, "--local-reads", "off"))
        grpc_torch = stack.enter_context(baseline("grpc_torch", requests))
        contenders = {"ours": ours, "remote": remote, "grpc_torch": grpc_torch}
        if (why := redis_server.missing()) is None:
            port, _ = stack.enter_context(redis_server.private_redis())
            redis_torch = baseline("redis_torch", requests, "--redis-port", str(port))
            contenders["redis_torch"] = stack.enter_context(redis_torch)
        else:
            report.absent("redis_torch", why, "e2e_vs_redis_torch")
        if find_spec("fastapi") is not None:
            contenders["ray_serve"] = stack.enter_context(baseline("ray_serve", requests, wrap=True))
        else:
            report.absent("ray_serve", "Ray Serve is not installed: pip install 'ringpull[bench]'", "e2e_vs_ray_serve")
        _check_scores(contenders.values(), requests[0])
        _throughput(report, contenders, in_process(ROWS, requests))


def _check_scores(contenders: Iterable[Contender], request: Request) -> None:
    with torch.inference_mode():
        expected = score_request(make_model(ROWS), request).numpy().reshape(-1)
    for contender in contenders:
        np.testing.assert_allclose(contender.scores(contender.first_reply()), expected, rtol=1e-4, atol=1e-5)


def _throughput(report: Report, contenders: Mapping[str, Contender], bare: Callable[[], float]) -> None:
    runs: dict[str, list[Run]] = {name: [] for name in contenders}

    def contend(name: str, contender: Contender) -> Callable[[], float]:
        def measure() -> float:
            runs[name].append(contender.run())
            return runs[name][-1].calls_per_s * CANDIDATES

        return measure

    rates = {"inprocess": bare, **{name: contend(name, contender) for name, contender in contenders.items()}}
    samples = interleave(rates, rounds=ROUNDS)
    for name in BASELINES:
        if name in rates:
            report.compare("samples/s", samples, ("ours", name), key=f"e2e_vs_{name}")
            if name in runs:
                report.row(f"p99 of {name} at full load, ms", f"{runs[name][-1].percentile_ms(99):.0f}")
    report.compare("samples/s, local reads off", samples, ("remote", "grpc_torch"), key="e2e_remote_vs_grpc_torch")
    cpu_us, remote_us = (
        float(np.median([run.server_cpu_per_call_s / CANDIDATES * 1e6 for run in runs[name][1:]]))
        for name in ("ours", "remote")
    )
    last = runs["ours"][-1]
    report.row("p50 / p99 at full load, ms", f"{last.percentile_ms(50):.1f} / {last.percentile_ms(99):.1f}")
    report.row("CPU us per sample, head + shards", f"{cpu_us:.1f}", f"local reads off {remote_us:.1f}")
    report.key("samples_per_s", samples.median("ours"))
    report.key("cpu_us_per_sample", cpu_us)


def _latency(report: Report, ours: Contender, requests: Sequence[Request]) -> None:
    model = make_model(ROWS)
    took = []
    with torch.inference_mode():
        for number in range(100):
            begin = time.perf_counter()
            score_request(model, requests[number % len(requests)])
            took.append(time.perf_counter() - begin)
    one_ms = float(np.median(took)) * 1000
    calls_per_s = float(np.median([ours.run().calls_per_s for _ in range(3)])) / 2

    def p99_ms(asked: Server) -> Callable[[], float]:
        def measure() -> float:
            arrivals = islice(endless_arrivals(calls_per_s, np.random.default_rng(0)), int(calls_per_s * SECONDS))
            return asked.open_loop(ours.payloads, arrivals).percentile_ms(99)

        return measure

    with echo_of(ours.first_reply()) as echo:
        samples = interleave({"ours": p99_ms(ours.server), "echo": p99_ms(echo)}, rounds=TAIL_ROUNDS)
    ours_ms, echo_ms = samples.median("ours"), samples.median("echo")
    at = f"p99 at half the top rate, {calls_per_s:.0f} requests/s, ms"
    report.row(at, f"{ours_ms:.1f}", f"one request in process {one_ms:.1f}", ours_ms / one_ms, key="p99_vs_inprocess")
    report.row("the same", f"{ours_ms:.1f}", f"a bare echo of these bytes {echo_ms:.1f}", ours_ms / echo_ms)
    report.key("p99_ms", ours_ms)
    report.key("echo_p99_ms", echo_ms)


if __name__ == "__main__":
    main()
