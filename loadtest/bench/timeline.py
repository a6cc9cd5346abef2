"""The timeline of slow requests: which stage the slowest hundred of an open loop waited in, beside the median request.

At half of the top rate, local reads on, with one head and with two. Stages are the server's own timings; what is left
of what the client saw is gRPC, both loops and the way back. Below them the threads of heads: how long each ran, and how
long it was ready and waited for a core, a request. A stage that waits while no thread waits for a core waits for
another stage; where threads wait for cores, the machine is full.

Of two heads it also tells how the kernel dealt the connections, and the p99 of those that each head has: one that is
behind for its many connections is one that takes longer than the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from typing import Final

import grpc.aio
import numpy as np
import psutil
import uvloop
from numpy.typing import NDArray

from ringpull.inference.proto import ringpull_pb2
from ringpull.loadtest.bench.dlrm_requests import make_requests, payload_of
from ringpull.loadtest.bench.e2e_contenders import IN_FLIGHT, OPEN_SECONDS, ROWS, SECONDS, SHARDS
from ringpull.loadtest.bench.harness import QUICK, Report
from ringpull.loadtest.bench.load import Server, check_answered
from ringpull.loadtest.bench.threads import Threads, since, threads_of
from ringpull.loadtest.deployment import deployed
from ringpull.loadtest.dlrm import dlrm_folder
from ringpull.loadtest.generator import Load, Outcome, PayloadSender, connected, endless_arrivals

SLOWEST: Final = 100
SHARE: Final = 0.5
"""Rate of the open loop, as a share of the top rate."""
CONNECTIONS: Final = {1: 1, 2: 16}
"""Connections by the number of heads, as in `ringpull.loadtest.bench.e2e_tail`."""
STAGES: Final = ("late", "decode", "queue", "features", "lookup", "dense", "between", "grpc")
SHOWN_THREADS: Final = 6


def main() -> None:
    report = Report(f"Slowest {SLOWEST} requests at {SHARE:g} of the top rate, ms a stage")
    requests = make_requests(32, ROWS)
    plain = [payload_of(request) for request in requests]
    timed = [payload_of(request, with_timings=True) for request in requests]
    for heads, connections in CONNECTIONS.items():
        with deployed(dlrm_folder(ROWS), SHARDS, "--heads", str(heads)) as ours:
            server = Server(ours.target, connections=connections)
            server.closed_loop(plain, in_flight=IN_FLIGHT, seconds=1.0)
            top = server.closed_loop(plain, in_flight=IN_FLIGHT, seconds=SECONDS).calls_per_s
            processes = ours.running("head")
            before = threads_of(processes)
            outcomes, dealt = uvloop.run(_open_loop(ours.target, processes, timed, top * SHARE, connections))
            after = threads_of(processes)
        report_stages(report, outcomes, f"{heads} heads, {top * SHARE:.0f} requests/s")
        report_heads(report, outcomes, dealt, heads)
        report_threads(report, before, after, len(outcomes))
    report.finish()


async def _open_loop(
    target: str, heads: Sequence[psutil.Process], payloads: Sequence[bytes], rate: float, connections: int
) -> tuple[list[Outcome], list[int]]:
    """Return how requests ended, and the head of each connection; requests go over connections in turns."""
    outcomes: list[Outcome] = []
    seconds = OPEN_SECONDS if QUICK else 5 * OPEN_SECONDS
    async with dealt_out(target, heads, connections) as (channels, dealt):
        load = Load(PayloadSender(channels, payloads), outcomes.append)
        await load.open_loop(islice(endless_arrivals(rate, np.random.default_rng(0)), int(rate * seconds)))
    check_answered(target, Counter(each.status for each in outcomes))
    return outcomes, dealt


@asynccontextmanager
async def dealt_out(
    target: str, heads: Sequence[psutil.Process], count: int
) -> AsyncIterator[tuple[list[grpc.aio.Channel], list[int]]]:
    """Open connections to a port of several heads, one by one, and tell which head the kernel handed each to.

    Raises:
        RuntimeError: It cannot be told, as somebody else connected or hung up meanwhile.
    """
    port = int(target.rpartition(":")[2])
    channels: list[grpc.aio.Channel] = []
    dealt: list[int] = []
    async with AsyncExitStack() as stack:
        before = connections_of(heads, port)
        for _ in range(count):
            # It is there when the head has answered, so the head has accepted it.
            channels += await stack.enter_async_context(connected(target))
            now = connections_of(heads, port)
            more = [head for head, (was, has) in enumerate(zip(before, now, strict=True)) if has != was]
            if len(more) != 1 or now[more[0]] != before[more[0]] + 1:
                raise RuntimeError(f"{target}: one connection more, and heads have {now} instead of {before}")
            dealt.append(more[0])
            before = now
        yield channels, dealt


def connections_of(heads: Iterable[psutil.Process], port: int) -> list[int]:
    """Return how many connections to a port each process has accepted."""
    return [sum(each.laddr.port == port and bool(each.raddr) for each in head.net_connections("tcp")) for head in heads]


def stages_of(outcomes: Iterable[Outcome]) -> NDArray[np.float64]:
    """Return the milliseconds of each request in each of `STAGES`."""
    rows = []
    for each in outcomes:
        times = ringpull_pb2.PredictResponse.FromString(each.answer).timings
        named = (times.decode_us, times.queue_us, times.features_us, times.lookup_us, times.dense_us)
        between = times.total_us - sum(named)
        grpc = (each.end_s - each.sent_s) * 1e6 - times.total_us
        rows.append([each.late_s * 1e6, *named, between, grpc])
    return np.array(rows) / 1e3


def report_stages(report: Report, outcomes: Sequence[Outcome], of: str) -> None:
    """Add the stages of all requests and of the slowest, which are ordered by what the client saw."""
    stages = stages_of(outcomes)
    took = stages.sum(axis=1)
    slow = stages[np.argsort(took)[-SLOWEST:]]
    p50, p99 = np.percentile(took, (50, 99))
    report.row(f"{of}: p50 / p99", f"{p50:.1f} / {p99:.1f}", f"{len(outcomes)} requests")
    for number, name in enumerate(STAGES):
        share = float(slow[:, number].sum() / slow.sum())
        report.row(f"- {name}", f"{slow[:, number].mean():.2f}", f"median {np.median(stages[:, number]):.2f}", share)


def report_heads(report: Report, outcomes: Iterable[Outcome], dealt: Sequence[int], heads: int) -> None:
    """Add the p99 of the requests of each head, beside how many of the connections it has."""
    for head, own in enumerate(latencies_of(outcomes, dealt, heads)):
        has = f"{dealt.count(head)} of {len(dealt)} connections"
        report.row(f"- p99 of head {head}", f"{np.percentile(own, 99):.1f}" if own else "-", has)


def latencies_of(outcomes: Iterable[Outcome], dealt: Sequence[int], heads: int) -> list[list[float]]:
    """Return the latencies, in ms, of each head's requests; requests went over connections in turns."""
    took_ms: list[list[float]] = [[] for _ in range(heads)]
    for each in outcomes:
        took_ms[dealt[each.number % len(dealt)]].append(each.took_s * 1e3)
    return took_ms


def report_threads(report: Report, before: Threads | None, after: Threads | None, requests: int) -> None:
    """Add the busiest threads between two looks."""
    if before is None or after is None:
        report.absent("threads", "this kernel does not count how long they wait for a core")
        return
    for each in since(before, after)[:SHOWN_THREADS]:
        ran, waited = each.ran_s / requests * 1e3, each.waited_s / requests * 1e3
        report.row(f"thread {each.name}, ms a request", f"{ran:.2f}", f"no core {waited:.2f}", each.turns / requests)


if __name__ == "__main__":
    main()
