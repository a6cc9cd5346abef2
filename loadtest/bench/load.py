"""The load of the end-to-end benches: encoded requests from the generator, in this process, and how long they took.

A closed loop finds the top rate; an open loop finds the latency at given times, counted from when a request was due.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc
import numpy as np
import psutil
import uvloop

from ringpull.inference.client.channels import open_channel
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.stubs import PREDICT
from ringpull.loadtest.bench.threads import threads_of, waited_between_s
from ringpull.loadtest.generator import Load, Outcome, PayloadSender, connected
from ringpull.loadtest.process import cpu_seconds

REFUSED: Final = grpc.StatusCode.RESOURCE_EXHAUSTED.name
MAX_REFUSED: Final = 0.05
"""Share of a closed loop's calls that may be refused as too many: a shared machine may be slow for a second, and what
is counted are answers. With more of them its figures would be those of refusing."""


@dataclass(slots=True)
class Run:
    """Outcomes of a run of load, as plain numbers: objects that are kept make collections of garbage longer."""

    due_s: list[float] = field(default_factory=list)
    """Times at which the answered requests were due, in seconds from the start."""
    took_s: list[float] = field(default_factory=list)
    """Latencies of the answered requests, from when they were due."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Requests by gRPC status."""
    why: str = ""
    """Status of the first failed request, and the server's words."""
    wall_s: float = 0.0
    server_cpu_s: float = 0.0
    """CPU time of the server's processes."""
    server_waited_s: float | None = 0.0
    """Time that threads of the server's processes were ready and had no core; None: the kernel does not count it."""
    generator_cpu_s: float = 0.0
    """CPU time of this process."""

    @property
    def calls(self) -> int:
        """Number of answered requests."""
        return len(self.took_s)

    @property
    def calls_per_s(self) -> float:
        return self.calls / self.wall_s

    @property
    def server_cpu_per_call_s(self) -> float:
        return self.server_cpu_s / self.calls

    @property
    def cpu_per_call_s(self) -> float:
        """CPU time of a call, the generator's included."""
        return (self.server_cpu_s + self.generator_cpu_s) / self.calls

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile of the latencies of answered requests."""
        return float(np.percentile(self.took_s, percent)) * 1e3

    def add(self, outcome: Outcome) -> None:
        """Count one request that has ended."""
        self.statuses[outcome.status] += 1
        if outcome.error is None:
            self.due_s.append(outcome.due_s)
            self.took_s.append(outcome.took_s)
        elif not self.why:
            self.why = outcome.why


def check_answered(target: str, statuses: Mapping[str, int], why: str = "", *, may_be_refused: float = 0.0) -> None:
    """Check that no call failed, by the calls of each status.

    Args:
        why: Words of one that did, if they are known.
        may_be_refused: Share of the calls that may be refused as too many.

    Raises:
        RuntimeError: One did: what is left would be the figures of those that worked.
    """
    failed = {status: count for status, count in statuses.items() if status != "OK"}
    if failed.keys() == {REFUSED} and failed[REFUSED] <= may_be_refused * sum(statuses.values()):
        return
    if failed:
        raise RuntimeError(f"{target}: calls failed: {dict(statuses)}{f' ({why})' if why else ''}")


@dataclass(frozen=True, slots=True)
class Server:
    """A server under load, and how it is asked."""

    target: str
    method: str = PREDICT.path
    processes: Sequence[psutil.Process] = ()
    """Processes that answer; their CPU time is what serving costs."""
    connections: int = 1
    timeout_s: float | None = None
    """Deadline of a request, from when it is sent."""
    credentials: Credentials | None = None
    """Credentials that are shown and trusted; None: those of the environment."""

    def closed_loop(self, payloads: Sequence[bytes], *, in_flight: int, seconds: float) -> Run:
        """Keep `in_flight` calls going for `seconds`; one that is refused as too many is followed by the next.

        Raises:
            RuntimeError: A call failed otherwise, or more than `MAX_REFUSED` of them were refused.
        """
        run = self._run(payloads, lambda load: load.closed_loop(load.for_seconds(seconds), in_flight))
        check_answered(self.target, run.statuses, run.why, may_be_refused=MAX_REFUSED)
        return run

    def open_loop(self, payloads: Sequence[bytes], arrivals: Iterable[float], *, may_fail: bool = False) -> Run:
        """Send calls at these times, seconds from the start, whatever the answers do.

        Args:
            may_fail: Failed calls are counted, and do not raise.

        Raises:
            RuntimeError: A call failed.
        """
        run = self._run(payloads, lambda load: load.open_loop(arrivals))
        if not may_fail:
            check_answered(self.target, run.statuses, run.why)
        return run

    def _run(self, payloads: Sequence[bytes], loop: Callable[[Load], Awaitable[None]]) -> Run:
        async def go() -> Run:
            run = Run()
            async with connected(self.target, self.connections, credentials=self.credentials) as channels:
                sender = PayloadSender(
                    channels, payloads, method=self.method, timeout_s=self.timeout_s, credentials=self.credentials
                )
                before, server_cpu_s = threads_of(self.processes), cpu_seconds(self.processes)
                cpu_s, load = time.process_time(), Load(sender, run.add)
                await loop(load)
                run.wall_s = load.now_s()
                run.generator_cpu_s = time.process_time() - cpu_s
                run.server_cpu_s = cpu_seconds(self.processes) - server_cpu_s
                run.server_waited_s = waited_between_s(before, threads_of(self.processes))
            return run

        gc.freeze()  # A full collection of what the bench has loaded would be a pause of the server's in the figures.
        return uvloop.run(go())


def one_reply(asked: Server, payload: bytes) -> bytes:
    """Send one request, and return its reply."""
    credentials = Credentials.given()
    with open_channel(grpc, asked.target, credentials) as channel:
        reply: bytes = channel.unary_unary(asked.method)(payload, metadata=credentials.metadata)
        return reply
