"""The data plane alone, over loopback: a shard without tables behind a real server, beside bare sockets.

"Bare" is uvloop with as many bytes there and back: no codec, no thread, no deadline. The ratio says what those cost.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import uvloop

from ringpull.loadtest.bench.harness import QUICK, Report, interleave
from ringpull.loadtest.process import server
from ringpull.ps.memory import reuse_freed_memory
from ringpull.ps.pull_messages import Op, PullReply, PullRequest, SubLookup
from ringpull.ps.top_k_messages import TopKReply, TopKRequest
from ringpull.ps.wire.codec import encode_reply, encode_request
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.files_messages import FilesReply, FilesRequest
from ringpull.ps.wire.messages import DescribeReply, DescribeRequest, RangePullReply, RangePullRequest, ShardStatistics
from ringpull.ps.wire.newest_messages import NewestReply, NewestRequest
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads

DIM = 64
KEYS_PER_BAG = 3
ROUNDS = 3 if QUICK else 7
TRIPS = 200 if QUICK else 3_000
HEAD = 16
"""A bare request begins with its own size and its answer's, uint64 each."""


@dataclass(frozen=True)
class Case:
    name: str
    lookups: int
    bags: int
    in_flight: int

    def request(self) -> PullRequest:
        bags = self.lookups * self.bags
        keys = self.bags * KEYS_PER_BAG
        return PullRequest(
            model="model",
            version=1,
            epoch=1,
            lookups=tuple(SubLookup(f"table_{i}", Op.SUM, keys, self.bags, False) for i in range(self.lookups)),
            positions=np.arange(bags * KEYS_PER_BAG, dtype=np.uint64),
            lengths=np.full(bags, KEYS_PER_BAG, np.uint32),
            weights=np.empty(0, np.float32),
        )


CASES = (
    Case("1 look-up of 1 bag", 1, 1, 1),
    Case("26 look-ups of 1 bag", 26, 1, 1),
    Case("26 look-ups of 1 bag", 26, 1, 16),
    Case("26 look-ups of 64 bags", 26, 64, 1),
    Case("26 look-ups of 64 bags", 26, 64, 4),
)


class NoTables:
    """Answers each bag with ones; nothing but pulls is asked of it."""

    def __init__(self) -> None:
        self._ones = np.ones(1 << 20, np.float32)

    def pull(self, request: PullRequest) -> PullReply:
        values = self._ones[: sum(lookup.bags for lookup in request.lookups) * DIM]
        return PullReply(values, np.zeros(len(request.lookups), np.uint32), np.empty(0, np.uint8))

    def describe(self, request: DescribeRequest) -> DescribeReply:
        raise NotImplementedError

    def files(self, request: FilesRequest) -> FilesReply:
        raise NotImplementedError

    def range_pull(self, request: RangePullRequest) -> RangePullReply:
        raise NotImplementedError

    def statistics(self) -> ShardStatistics:
        raise NotImplementedError

    def newest(self, request: NewestRequest) -> NewestReply:
        raise NotImplementedError

    def top_k(self, request: TopKRequest, go_on: Callable[[], None]) -> TopKReply:
        raise NotImplementedError

    def top_k_cost(self, request: TopKRequest) -> float:
        raise NotImplementedError


class BareServer(asyncio.Protocol):
    """Answers each request with as many bytes as it asks for."""

    def __init__(self) -> None:
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= HEAD:
            size, answer = np.frombuffer(bytes(self._received[:HEAD]), np.uint64).tolist()
            if len(self._received) < size:
                return
            del self._received[:size]
            self._transport.write(bytes(answer))


class BareClient(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._missing = 0

    async def trip(self, size: int, answer: int, count: int) -> None:
        """Send `count` requests at once, wait until all answers are here."""
        self._missing = answer * count
        self._done = asyncio.get_running_loop().create_future()
        head = np.array([size, answer], np.uint64).tobytes()
        for _ in range(count):
            self._transport.write(head + bytes(size - HEAD))
        await self._done

    def data_received(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing == 0:
            self._done.set_result(None)


async def serve() -> None:
    with LookupThreads() as threads:
        _, port = await ShardServer(NoTables(), threads).start()
        bare = await asyncio.get_running_loop().create_server(BareServer, "127.0.0.1", 0)
        print("ready", port, bare.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()


def main() -> None:
    report = Report("Data plane over loopback, two processes, frames each way a second")
    reuse_freed_memory()
    with (
        server("ringpull.loadtest.bench.wire", "serve") as (ports, _),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        port, bare_port = map(int, ports.split())
        connection = runner.run(Connection.connect("127.0.0.1", port))
        _, bare = runner.run(_connect_bare(bare_port))
        for case in CASES:
            request = case.request()
            asked = sum(map(len, map(bytes, encode_request(request, 1, 1))))
            answered = sum(map(len, map(bytes, encode_reply(NoTables().pull(request), 1))))

            async def ours(count: int, request: PullRequest = request) -> None:
                asks = (connection.request(request, deadline_s=time.monotonic() + 60) for _ in range(count))
                await asyncio.gather(*asks)

            async def plain(count: int, asked: int = asked, answered: int = answered) -> None:
                await bare.trip(asked, answered, count)

            samples = interleave(
                {"ours": _rate(runner, ours, case.in_flight), "bare": _rate(runner, plain, case.in_flight)},
                rounds=ROUNDS,
            )
            rate, ratio = samples.median("ours"), samples.ratio("ours", "bare")
            megabytes = rate * (asked + answered) / 1e6
            figure = f"{rate:,.0f}/s, {megabytes:,.0f} MB/s"
            what = f"{case.name}, {case.in_flight} in flight"
            report.row(what, figure, f"bare sockets {samples.median('bare'):,.0f}/s", ratio)
            report.key(
                f"wire_{case.lookups}x{case.bags}_in_flight_{case.in_flight}",
                {"trips_s": round(rate), "vs_bare": ratio},
            )
        runner.run(connection.close())
    report.finish()


async def _connect_bare(port: int) -> tuple[asyncio.BaseTransport, BareClient]:
    return await asyncio.get_running_loop().create_connection(BareClient, "127.0.0.1", port)


def _rate(runner: asyncio.Runner, trip: Callable[[int], Awaitable[None]], in_flight: int) -> Callable[[], float]:
    """Return a contender that gives trips per second, `in_flight` of them at a time."""

    async def measure() -> float:
        rounds = max(1, TRIPS // in_flight)
        begin = time.perf_counter()
        for _ in range(rounds):
            await trip(in_flight)
        return rounds * in_flight / (time.perf_counter() - begin)

    return lambda: runner.run(measure())


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        reuse_freed_memory()
        uvloop.run(serve())
    else:
        main()
