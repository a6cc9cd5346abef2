"""Exact top 10 of 1 M rows of 64 numbers, one thread: the shard's scan beside numpy, which has the rows in memory.

Numpy's way is a product of matrix and query, `argpartition`, and a sort of the ten; for int8 rows it holds them decoded
to float32, four times the memory, and another row of the table shows what decoding with each query costs. Then the
top 10 of 471,880 items over two shards of their own processes, one request each, and pulls beside such scans.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.deploy.cluster.kernels import warm_up
from ringpull.loadtest.bench.bare_shards import MODEL, TABLE, VERSION, bare_shards
from ringpull.loadtest.bench.harness import QUICK, Report, interleave, rate
from ringpull.loadtest.bench.tables import bench_keys, keys_of
from ringpull.loadtest.dlrm import cache_folder
from ringpull.ps.hashing import SLOTS
from ringpull.ps.hashing import keys_of as keys_at
from ringpull.ps.spec import Float32Array, Pooling, RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.row_codec import decode
from ringpull.ps.store.table import Table
from ringpull.ps.store.top_k import scan_table
from ringpull.ps.store.writer import TableWriter
from ringpull.ps.top_k_messages import TopKRequest
from ringpull.ps.wire.connection import Connection
from ringpull.router.client import Router
from ringpull.router.lookup import Lookup
from ringpull.router.shard_map import ShardAddress, ShardMap
from ringpull.router.top_k import TopKQuery

ROWS: Final = 1_000_000
ITEMS: Final = 471_880
DIM: Final = 64
K: Final = 10
MANY: Final = 16
ROUNDS: Final = 3 if QUICK else 5
TURNS: Final = 2 if QUICK else 4
REQUESTS: Final = 30 if QUICK else 300
PULLS: Final = 200 if QUICK else 3000
ONE_THREAD: Final = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")
DEADLINE_S: Final = 60.0


def main() -> None:
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):  # read when numpy is imported
        os.execve(sys.executable, [sys.executable, "-m", "ringpull.loadtest.bench.topk"], {**os.environ, **ONE_THREAD})
    warm_up()  # shards answer nothing while they compile
    report = Report(f"Top {K} of {ROWS:,} rows x {DIM}, exact, one thread, queries/s")
    queries = np.random.default_rng(0).normal(size=(MANY, DIM)).astype(np.float32)
    for row_type in (RowType.FLOAT32, RowType.INT8):
        measure(report, row_type, queries)
    with bare_shards(random_table(ITEMS).folder, 2, touch=True) as shards:
        asyncio.run(over_shards(report, shards.shard_map, queries))
    report.finish()


def measure(report: Report, row_type: RowType, queries: Float32Array) -> None:
    """Hold the scan of one row type against numpy, one query a call, and sixteen."""
    table = Table(random_table(ROWS, row_type))
    table.base.prefault()
    stored = table.base.sections.rows
    held = decode(stored, table.spec)
    keys = keys_at(table.base.sections.positions)
    for some in (queries[:1], queries):
        ours, theirs = partial(scanned, table, some), partial(ranked, held, keys, some)
        np.testing.assert_array_equal(ours(0), theirs(0))
        contenders: dict[str, Callable[[int], object]] = {"ours": ours, "numpy": theirs}
        if row_type is RowType.INT8 and len(some) == 1:
            contenders["numpy, decoding"] = lambda _: ranked(decode(stored, table.spec), keys, queries[:1])
        samples = interleave({name: rate(run, TURNS, len(some)) for name, run in contenders.items()}, rounds=ROUNDS)
        key = "topk_vs_numpy" + ("" if row_type is RowType.FLOAT32 else f"_{row_type.value}")
        key += "" if len(some) == 1 else f"_q{MANY}"
        what = f"{row_type.value}, {len(some)} {'query' if len(some) == 1 else 'queries'} a call"
        report.compare(what, samples, ("ours", "numpy"), key=key, show=",.1f")
        if "numpy, decoding" in contenders:
            report.compare(what, samples, ("ours", "numpy, decoding"), key=f"{key}_decoding", show=",.1f")


def random_table(rows: int, row_type: RowType = RowType.FLOAT32) -> Base:
    """Open a table of normal numbers, making it first if this machine has none: the rows of generated tables differ by
    less than scores are rounded."""
    folder = cache_folder() / f"normal-{row_type.value}-{rows}x{DIM}"
    if not folder.exists():
        with TableWriter(folder, TableSpec(name=TABLE, dim=DIM, row_type=row_type)) as writer:
            writer.add(bench_keys(rows), np.random.default_rng(2).standard_normal((rows, DIM), np.float32))
            writer.finish()
    return Base.open(folder)


def scanned(table: Table, queries: Float32Array, _turn: int) -> NDArray[np.uint64]:
    """Return keys (Q, K) as a shard finds them."""
    count = len(queries)
    request = TopKRequest(
        model=MODEL,
        version=VERSION,
        epoch=1,
        table=TABLE,
        k=K,
        cosine=False,
        count=count,
        among=False,
        vectors=queries.reshape(-1),
        ranges=np.array([0, SLOTS], np.uint32),
        lengths=np.zeros(2 * count, np.uint32),
        positions=np.empty(0, np.uint64),
    )
    return keys_at(scan_table(table, None, request, lambda: None).positions).reshape(count, K)


def ranked(rows: Float32Array, keys: NDArray[np.uint64], queries: Float32Array, _turn: int = 0) -> NDArray[np.uint64]:
    """Return keys (Q, K) as numpy finds them."""
    found = np.empty((len(queries), K), np.uint64)
    scores = (rows @ queries[0])[None] if len(queries) == 1 else queries @ rows.T
    for query, each in enumerate(scores):
        best = np.argpartition(each, len(each) - K)[-K:]
        found[query] = keys[best[np.argsort(-each[best])]]
    return found


async def over_shards(report: Report, shard_map: ShardMap, queries: Float32Array) -> None:
    """Measure one request over two shards, and pulls with and without scans beside them."""

    async def connect(address: ShardAddress) -> Connection:
        return await Connection.connect(address.host, address.port)

    router = Router(connect)
    router.update(shard_map)
    router.register(MODEL, VERSION, {TABLE: random_table(ITEMS).spec})
    query, keys = TopKQuery(TABLE, queries[:1], K), bench_keys(ITEMS)
    lookup = Lookup(TABLE, Pooling.NONE, keys_of(np.random.default_rng(1).integers(0, ITEMS, 100)))
    assert np.isin((await top_k(router, query)), keys).all()

    async def pulls() -> list[float]:
        took = []
        for _ in range(PULLS):
            begin_s = time.perf_counter()
            await router.pull(MODEL, VERSION, [lookup], deadline_s=time.monotonic() + DEADLINE_S)
            took.append(time.perf_counter() - begin_s)
            await asyncio.sleep(0.0005)
        return took

    async def scans() -> None:
        while True:
            await top_k(router, query)

    took = []
    for _ in range(REQUESTS):
        begin_s = time.perf_counter()
        await top_k(router, query)
        took.append(time.perf_counter() - begin_s)
    report.row(f"top {K} of {ITEMS:,} over 2 shards, ms", milliseconds(took, 50), f"p99 {milliseconds(took, 99)}")
    report.key("topk_e2e_ms", float(milliseconds(took, 50)))
    alone = await pulls()
    scanning = asyncio.create_task(scans())
    beside = await pulls()
    scanning.cancel()
    for percent in (50, 99):
        ratio = float(np.percentile(beside, percent) / np.percentile(alone, percent))
        report.row(
            f"pull of 100 keys beside scans, p{percent}, ms",
            milliseconds(beside, percent),
            f"alone {milliseconds(alone, percent)}",
            ratio,
            key=f"topk_pull_p{percent}_beside_scans",
        )
    await router.close()


async def top_k(router: Router, query: TopKQuery) -> NDArray[np.uint64]:
    """Return the keys of a top-k over the shards."""
    return (await router.top_k(MODEL, VERSION, query, deadline_s=time.monotonic() + DEADLINE_S)).keys


def milliseconds(took: list[float], percent: float) -> str:
    """Return a percentile as text."""
    return f"{np.percentile(took, percent) * 1e3:.2f}"


if __name__ == "__main__":
    main()
