"""The trade of copies: bytes, messages and p99 of a pull, and memory of all shards, as `replicas` goes 1, 2, 3, all.

Eight shards without Ray, each with copies of its own of just its ranges; pulls of one DLRM request, 26 look-ups of
bags of 10. Beside each figure stands what the planner (`ringpull.router.control.planner`) predicts. With fewer copies
than shards a key goes to its first owner while loads are about even, so copies save no message until every shard has
one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from ringpull.loadtest.bench.bare_shards import MODEL, TABLE, VERSION, bare_shards, pss_bytes
from ringpull.loadtest.bench.dlrm_requests import BAG
from ringpull.loadtest.bench.harness import QUICK, Report
from ringpull.loadtest.bench.pulls import BAGS, LOOKUPS, dlrm_lookups, moved_bytes, router_of
from ringpull.loadtest.bench.tables import generated_table
from ringpull.ps.memory import reuse_freed_memory
from ringpull.ps.spec import ALL, Replicas
from ringpull.ps.store.base import Base
from ringpull.router.client import Router
from ringpull.router.control.planner import PlannedTable, predicted_cost, shard_bytes
from ringpull.router.control.traffic import TableLoad
from ringpull.router.lookup import Lookup

SHARDS = 8
COPIES: Sequence[Replicas] = (1, 2, 3, ALL)
ROWS = 100_000 if QUICK else 1_000_000
EMPTY_ROWS = 8
DIM = 32
PULLS = 100 if QUICK else 1_000
WARM_UP = 50
DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of pulls, each on average, and memory of the shards."""

    bytes: float
    messages: float
    p50_ms: float
    p99_ms: float
    pss_bytes: int
    """Memory of all shards, every page touched; before the first pull, whose buffers stay."""


def main() -> None:
    reuse_freed_memory()
    report = Report(
        f"Copies: {SHARDS} shards, {ROWS:,} rows x {DIM}; pulls of {LOOKUPS} look-ups, {BAGS:,} bags of {BAG}"
    )
    empty = measure(generated_table(EMPTY_ROWS, DIM), 1, pulls=0).pss_bytes
    base = generated_table(ROWS, DIM)
    table = planned(base)
    for replicas in COPIES:
        found = measure(base, replicas, pulls=PULLS)
        due = predicted_cost([table], {table.name: replicas}, SHARDS)
        memory, memory_due = found.pss_bytes - empty, SHARDS * shard_bytes(table, replicas, SHARDS)
        what, key = f"replicas {replicas}", f"r{replicas}"
        predicted = f"predicted {due.bytes:,.0f}"
        report.row(f"{what}: bytes a pull", f"{found.bytes:,.0f}", predicted, found.bytes / due.bytes)
        report.row(f"{what}: messages", f"{found.messages:.2f}", f"predicted {due.messages:.2f}")
        report.row(f"{what}: p50 / p99", f"{found.p50_ms:.2f} / {found.p99_ms:.2f} ms")
        report.row(
            f"{what}: memory of all shards",
            f"{memory / 1e6:,.1f} MB",
            f"predicted {memory_due / 1e6:,.1f} MB",
            memory / memory_due,
            "0.95 to 1.05",
            key=f"replication_memory_vs_predicted_{key}",
        )
        report.key(f"replication_bytes_{key}", found.bytes)
        report.key(f"replication_messages_{key}", found.messages)
        report.key(f"replication_p99_ms_{key}", found.p99_ms)
        report.key(f"replication_memory_mb_{key}", memory / 1e6)
    report.finish()


def planned(base: Base) -> PlannedTable:
    """Return the table as the planner sees it, with the load of one pull."""
    return PlannedTable(
        name=f"{MODEL}/{TABLE}",
        rows=base.rows,
        row_bytes=base.spec.row_bytes,
        vector_bytes=4 * DIM,
        load=TableLoad(BAGS * BAG, BAGS),
    )


def measure(base: Base, replicas: Replicas, *, pulls: int) -> Measured:
    """Serve a table in so many copies, and pull."""
    with (
        tempfile.TemporaryDirectory(prefix="ringpull-bench-") as folder,
        bare_shards(base.folder, SHARDS, replicas=replicas, data_dir=Path(folder), touch=True) as up,
    ):
        held_bytes = sum(map(pss_bytes, up.processes))

        async def run() -> Measured:
            rng = np.random.default_rng(0)
            batches = [dlrm_lookups(rng, base.rows, 1) for _ in range(16)]
            async with router_of(up, base.spec) as router:
                await _pull(router, batches, WARM_UP)
                before = router.counters()
                took_ms = await _pull(router, batches, pulls)
                after = router.counters()
            return Measured(
                bytes=moved_bytes(before, after) / max(pulls, 1),
                messages=(after.messages - before.messages) / max(pulls, 1),
                p50_ms=float(np.percentile(took_ms, 50)) if took_ms else 0.0,
                p99_ms=float(np.percentile(took_ms, 99)) if took_ms else 0.0,
                pss_bytes=held_bytes,
            )

        return uvloop.run(run())


async def _pull(router: Router, batches: Sequence[Sequence[Lookup]], count: int) -> list[float]:
    """Pull `count` times, one after the other; return how long each took, in milliseconds."""
    took = []
    for number in range(count):
        begin_s = time.perf_counter()
        await router.pull(MODEL, VERSION, batches[number % len(batches)], deadline_s=time.monotonic() + DEADLINE_S)
        took.append((time.perf_counter() - begin_s) * 1e3)
    return took


if __name__ == "__main__":
    main()
