"""Growth: more shards and larger tables, in CPU time and wire bytes per sample, beside what `growth_model` predicts.

Two views. The data plane alone: a router in this process and 1, 2, 4 or 8 bare shards, pulls of the end-to-end bench's
shape; here costs can be told apart and bytes counted. Then the whole service with 1 and with 8 shards under the same
load: head + shards. Large tables are removed at the end: the largest takes 4 GB, and twice that while it is made.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import uvloop

from ringpull.loadtest.bench.bare_shards import MODEL, VERSION, bare_shards
from ringpull.loadtest.bench.dlrm_requests import BAG, CANDIDATES, payloads_of
from ringpull.loadtest.bench.growth_model import CpuModel, PullShape, wire_bytes_per_sample
from ringpull.loadtest.bench.harness import QUICK, Report
from ringpull.loadtest.bench.load import Server
from ringpull.loadtest.bench.pulls import BAGS, LOOKUPS, dlrm_lookups, moved_bytes, router_of, tiny_lookups
from ringpull.loadtest.bench.tables import generated_table
from ringpull.loadtest.deployment import deployed
from ringpull.loadtest.dlrm import dlrm_folder
from ringpull.loadtest.process import cpu_seconds
from ringpull.ps.memory import reuse_freed_memory
from ringpull.router.client import Router
from ringpull.router.lookup import Lookup

DIM = 8
SHARDS = (1, 2, 4, 8)
ROWS = (100_000, 1_000_000) if QUICK else (1_000_000, 10_000_000, 100_000_000)
KEPT_ROWS = 1_000_000
"""Rows beyond which a table is removed when it was measured."""
REQUESTS = 4
PULLS = 60 if QUICK else 400
SERVICE_ROWS = 10_000 if QUICK else 50_000
SERVICE_SECONDS = 3.0
IN_FLIGHT = 8
WARM_UP_S = 300.0

FULL = PullShape(BAG, REQUESTS * BAGS, LOOKUPS, REQUESTS * CANDIDATES)
TINY = PullShape(1, LOOKUPS, LOOKUPS, 1)


@dataclass(frozen=True, slots=True)
class Measured:
    """Costs of pulls, on average."""

    router_s: float
    """CPU time of the router, per pull."""
    shards_s: float
    """CPU time of all shards together, per pull."""
    bytes: float
    """Bytes of a pull, there and back."""

    @property
    def cpu_s(self) -> float:
        """CPU time of router and shards, per pull."""
        return self.router_s + self.shards_s


def main() -> None:
    reuse_freed_memory()
    report = Report(
        f"Growth: {LOOKUPS} look-ups of dim {DIM}, {REQUESTS} requests of 128 candidates a pull; us of CPU per sample"
    )
    _more_shards(report)
    _more_rows(report)
    _service(report)
    report.finish()


def _more_shards(report: Report) -> None:
    rows = ROWS[0]
    full = {shards: measure(rows, shards, dlrm_lookups) for shards in SHARDS}
    tiny = {shards: measure(rows, shards, lambda rng, rows, _: tiny_lookups(rng, rows)) for shards in (1, 2)}
    model = CpuModel.solve([(TINY, n, tiny[n].cpu_s) for n in (1, 2)] + [(FULL, n, full[n].cpu_s) for n in (1, 2)])
    for shards in SHARDS:
        cpu_us, predicted_us = (s / FULL.samples * 1e6 for s in (full[shards].cpu_s, model.pull(FULL, shards)))
        role = "predicted" if shards > 2 else "solved for"
        what = f"{shards} shard{'s' * (shards > 1)}, {rows:,} rows"
        report.row(f"{what}: CPU", f"{cpu_us:.2f} us", f"{role} {predicted_us:.2f} us", cpu_us / predicted_us)
        sent, due = full[shards].bytes / FULL.samples, wire_bytes_per_sample(FULL, shards, DIM)
        report.row(f"{what}: wire", f"{sent:,.0f} bytes", f"predicted {due:,.0f} bytes", sent / due)
        report.key(f"pull_cpu_us_per_sample_{shards}_shards", cpu_us)
        report.key(f"wire_bytes_per_sample_{shards}_shards", sent)
    report.key("pull_cpu_measured_vs_predicted_8_shards", full[8].cpu_s / model.pull(FULL, 8))
    report.key(
        "wire_measured_vs_predicted_8_shards", full[8].bytes / FULL.samples / wire_bytes_per_sample(FULL, 8, DIM)
    )
    report.key("pull_cpu_per_sample_8_vs_1_shards", full[8].cpu_s / full[1].cpu_s)


def _more_rows(report: Report) -> None:
    first = 0.0
    for rows in ROWS:
        cpu_us = measure(rows, 2, dlrm_lookups).cpu_s / FULL.samples * 1e6
        first = first or cpu_us
        report.row(
            f"2 shards, {rows:,} rows: CPU", f"{cpu_us:.2f} us", f"{ROWS[0]:,} rows {first:.2f} us", cpu_us / first
        )
        report.key(f"pull_cpu_us_per_sample_{rows}_rows", cpu_us)
        if rows > KEPT_ROWS:
            shutil.rmtree(generated_table(rows, DIM).folder)


def _service(report: Report) -> None:
    cpu_us = {shards: service_cpu_us(shards) for shards in (SHARDS[0], SHARDS[-1])}
    few, many = cpu_us.values()
    key = "cpu_per_sample_8_vs_1_shards"
    report.row("the service, 8 shards: CPU", f"{many:.1f} us", f"1 shard {few:.1f} us", many / few, key=key)


def measure(
    rows: int, shards: int, make: Callable[[np.random.Generator, int, int], list[Lookup]], *, dim: int = DIM
) -> Measured:
    """Return what pulls of `make(rng, rows, requests)` cost on this many shards over a generated table."""
    rng = np.random.default_rng(0)
    batches = [make(rng, rows, REQUESTS) for _ in range(8)]
    table = generated_table(rows, dim)
    with bare_shards(table.folder, shards) as up:
        me = [psutil.Process()]

        async def run() -> Measured:
            async with router_of(up, table.spec) as router:
                await _pulls(router, batches, len(batches))
                before, router_s, shards_s = router.counters(), cpu_seconds(me), cpu_seconds(up.processes)
                await _pulls(router, batches, PULLS)
                router_s, shards_s = cpu_seconds(me) - router_s, cpu_seconds(up.processes) - shards_s
                sent = moved_bytes(before, router.counters())
            return Measured(router_s / PULLS, shards_s / PULLS, sent / PULLS)

        return uvloop.run(run())


async def _pulls(router: Router, batches: Sequence[Sequence[Lookup]], count: int) -> None:
    """Pull `count` times, two at a time: one is routed and merged while the other is with the shards, as in a head."""

    async def every_second(first: int) -> None:
        for number in range(first, count, 2):
            await router.pull(MODEL, VERSION, batches[number % len(batches)], deadline_s=time.monotonic() + WARM_UP_S)

    await asyncio.gather(every_second(0), every_second(1))


def service_cpu_us(shards: int, *, heads_only: bool = False) -> float:
    """Return microseconds of CPU time per sample of head and shards, serving the DLRM at full load."""
    payloads = payloads_of(32, SERVICE_ROWS)
    with deployed(dlrm_folder(SERVICE_ROWS), shards) as ours:
        asked = Server(ours.target, processes=ours.running(*(["head"] if heads_only else [])))
        asked.closed_loop(payloads, in_flight=IN_FLIGHT, seconds=1.0)
        run = asked.closed_loop(payloads, in_flight=IN_FLIGHT, seconds=SERVICE_SECONDS)
        return run.server_cpu_per_call_s / CANDIDATES * 1e6


if __name__ == "__main__":
    main()
