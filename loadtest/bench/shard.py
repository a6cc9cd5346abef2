"""One shard over TCP against Redis: pooled rows per second, and per second of CPU time of both sides together.

The same rows, keys and bags. Ours: hash the keys, one frame there, look-up and pooling in the shard, pooled bags back.
Redis: MGET of every key of a request, then numpy sums the bags: the fastest of its commands, and what people write
first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import uvloop
from numpy.typing import NDArray

from ringpull.loadtest.bench import redis_server
from ringpull.loadtest.bench.bare_shards import EPOCH, MODEL, TABLE, VERSION, bare_shards
from ringpull.loadtest.bench.harness import QUICK, Report, Samples, interleave
from ringpull.loadtest.bench.tables import bench_rows, generated_table, keys_of
from ringpull.loadtest.process import cpu_seconds
from ringpull.ps.hashing import positions_of
from ringpull.ps.memory import reuse_freed_memory
from ringpull.ps.pull_messages import Op, PullReply, PullRequest, SubLookup
from ringpull.ps.wire.connection import Connection

ROWS = 100_000 if QUICK else 1_000_000
DIM = 64
BAG = 10
BAGS = 2_048
IN_FLIGHT = 4
"""Requests of ours at a time: it is pipelined. redis-py waits for its answer, as a thread of a server would."""
ROUNDS = 3 if QUICK else 7
OURS_REQUESTS = 100 if QUICK else 400
REDIS_REQUESTS = 4 if QUICK else 20
WARM_UP_S = 300.0
"""Deadline of a pull: the first one may have to compile its kernel."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cost:
    """Time that some rows took."""

    rows: int
    wall_s: float
    cpu_s: float


def main() -> None:
    reuse_freed_memory()
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, ROWS, BAGS * BAG) for _ in range(8)]
    report = Report(f"One shard over TCP: {ROWS:,} rows x {DIM} float32, bags of {BAG}, M pooled rows/s")
    with (
        bare_shards(generated_table(ROWS, DIM).folder, 1) as up,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        address = up.shard_map.shards[0]
        connection = runner.run(Connection.connect(address.host, address.port))
        ours = _metered(up.processes[0], OURS_REQUESTS, lambda: runner.run(_run_ours(connection, batches)))
        pooled = runner.run(_pull(connection, batches[0]))
        np.testing.assert_allclose(pooled, _expected(batches[0]), rtol=1e-4, atol=1e-4)
        if (why := redis_server.missing()) is None:
            with redis_server.private_redis() as (port, process):
                _beside_redis(report, ours, port, process, batches)
        else:
            _report_ours(report, [ours() for _ in range(ROUNDS + 1)][1:])
            report.absent("Redis MGET + numpy", why, "shard_vs_redis", "shard_vs_redis_per_core_s")
        runner.run(connection.close())
    report.finish()


def _beside_redis(
    report: Report, ours: Callable[[], Cost], port: int, process: psutil.Process, batches: list[Rows]
) -> None:
    import redis

    client = redis.Redis(port=port)
    redis_server.fill(client, TABLE, bench_rows(0, ROWS, DIM))
    np.testing.assert_allclose(_mget(client, batches[0]), _expected(batches[0]), rtol=1e-4, atol=1e-4)

    def run_redis() -> None:
        for number in range(REDIS_REQUESTS):
            _mget(client, batches[number % len(batches)])

    costs: dict[str, list[Cost]] = {"ours": [], "redis": []}
    theirs = _metered(process, REDIS_REQUESTS, run_redis)

    def rate(name: str, run: Callable[[], Cost]) -> float:
        costs[name].append(run())
        return costs[name][-1].rows / costs[name][-1].wall_s

    samples = interleave({"ours": lambda: rate("ours", ours), "redis": lambda: rate("redis", theirs)}, rounds=ROUNDS)
    _report_ours(report, costs["ours"][1:])
    report.compare("pooled rows/s", samples, ("ours", "redis"), key="shard_vs_redis", show=".2f", unit=1e6)
    per_core_s = Samples({name: [cost.rows / cost.cpu_s for cost in found[1:]] for name, found in costs.items()})
    key = "shard_vs_redis_per_core_s"
    report.compare("per core-second", per_core_s, ("ours", "redis"), key=key, show=".2f", unit=1e6)


def _report_ours(report: Report, costs: list[Cost]) -> None:
    report.key("shard_rows_per_s", float(np.median([cost.rows / cost.wall_s for cost in costs])))
    report.key("shard_rows_per_core_s", float(np.median([cost.rows / cost.cpu_s for cost in costs])))


def _metered(server: psutil.Process, requests: int, run: Callable[[], None]) -> Callable[[], Cost]:
    """Return a contender that says what `requests` requests took: CPU time is the server's and this process's."""

    def measure() -> Cost:
        processes = [server, psutil.Process()]
        before, begin = cpu_seconds(processes), time.perf_counter()
        run()
        return Cost(requests * BAGS * BAG, time.perf_counter() - begin, cpu_seconds(processes) - before)

    return measure


async def _run_ours(connection: Connection, batches: list[Rows]) -> None:
    async def worker(first: int) -> None:
        for number in range(first, OURS_REQUESTS, IN_FLIGHT):
            await _pull(connection, batches[number % len(batches)])

    await asyncio.gather(*(worker(i) for i in range(IN_FLIGHT)))


async def _pull(connection: Connection, rows: Rows) -> NDArray[np.float32]:
    lookup = SubLookup(TABLE, Op.SUM, BAGS * BAG, BAGS, False)
    lengths, no_weights = np.full(BAGS, BAG, np.uint32), np.empty(0, np.float32)
    request = PullRequest(MODEL, VERSION, EPOCH, (lookup,), positions_of(keys_of(rows)), lengths, no_weights)
    reply = await connection.request(request, deadline_s=time.monotonic() + WARM_UP_S)
    assert isinstance(reply, PullReply)
    return reply.values.reshape(BAGS, DIM)


def _mget(client: Any, rows: Rows) -> NDArray[np.float32]:
    found = client.mget([f"{TABLE}:{row}" for row in rows.tolist()])
    return _pool(np.frombuffer(b"".join(found), np.float32))


def _expected(rows: Rows) -> NDArray[np.float32]:
    return _pool(bench_rows(0, ROWS, DIM)[rows])


def _pool(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    pooled: NDArray[np.float32] = rows.reshape(BAGS, BAG, DIM).sum(axis=1)
    return pooled


if __name__ == "__main__":
    main()
