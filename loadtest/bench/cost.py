"""The cost of a deployment: nodes and memory for 100 million to 10 billion rows, from costs measured here and now.

    python -m ringpull.loadtest.bench.cost                                     10,000 requests/s of 128 candidates
    python -m ringpull.loadtest.bench.cost --requests-per-s 500 --dim 32

Pulls of the end-to-end bench's shape give what routing, looking up and merging cost (as in `growth`, but with rows of
the dimension asked for); the whole service at full load gives what else a head does. The rest is arithmetic:
`cost_model`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import typer

from ringpull.loadtest.bench.cost_model import FILL, FILL_MEMORY, CpuCosts, Demand, Layout, Machine, cheapest
from ringpull.loadtest.bench.dlrm_requests import BAG, CANDIDATES
from ringpull.loadtest.bench.growth import FULL, REQUESTS, ROWS, TINY, Measured, measure, service_cpu_us
from ringpull.loadtest.bench.growth_model import CpuModel
from ringpull.loadtest.bench.harness import Report
from ringpull.loadtest.bench.pulls import dlrm_lookups, tiny_lookups
from ringpull.loadtest.dlrm import CANDIDATE_TABLES, CONTEXT_TABLES, DIM
from ringpull.ps.spec import ALL, Replicas

GIB: Final = 1 << 30
GBIT: Final = 1e9 / 8
MACHINES: Final = (
    Machine("16 cores", 16, 128 * GIB, 12.5 * GBIT),
    Machine("64 cores", 64, 512 * GIB, 25 * GBIT),
)
"""Memory-optimised ones of 8 GiB a core, as all clouds rent them; a core is one of those that were measured on."""

TABLE_ROWS: Final = (100_000_000, 1_000_000_000, 10_000_000_000)
COPIES: Final[tuple[Replicas, ...]] = (2, ALL)
SERVICE_SHARDS: Final = 2


def main(
    requests_per_s: Annotated[float, typer.Option(help="Requests per second in all.")] = 10_000.0,
    candidates: Annotated[int, typer.Option(help="Candidates of a request.")] = CANDIDATES,
    dim: Annotated[int, typer.Option(help="Numbers of a row, float32.")] = DIM,
) -> None:
    demand = Demand(requests_per_s, candidates, CONTEXT_TABLES, CANDIDATE_TABLES, BAG, dim, REQUESTS)
    costs = measured(dim)
    report = Report(
        f"{requests_per_s:,.0f} requests/s of {candidates} candidates; 26 tables of dim {dim}, bags of {BAG};"
        f" processors and network filled to {FILL:.0%}, memory to {FILL_MEMORY:.0%}"
    )
    for rows in TABLE_ROWS:
        for replicas in COPIES:
            for machine in MACHINES:
                _tell(report, rows, cheapest(rows, replicas, machine, demand, costs), machine, replicas)
    report.key("router_us", {each: round(s * 1e6, 3) for each, s in _named(costs.router)})
    report.key("shards_us", {each: round(s * 1e6, 3) for each, s in _named(costs.shards)})
    report.key("head_us_per_sample", costs.head_s * 1e6)
    report.finish()


def measured(dim: int) -> CpuCosts:
    """Return what pulls and heads cost on this machine."""
    rows = ROWS[0]
    full = {shards: measure(rows, shards, dlrm_lookups, dim=dim) for shards in (1, 2)}
    tiny = {shards: measure(rows, shards, lambda rng, rows, _: tiny_lookups(rng, rows), dim=dim) for shards in (1, 2)}

    def solved(part: Callable[[Measured], float]) -> CpuModel:
        return CpuModel.solve([(TINY, n, part(tiny[n])) for n in (1, 2)] + [(FULL, n, part(full[n])) for n in (1, 2)])

    router, shards = solved(lambda each: each.router_s), solved(lambda each: each.shards_s)
    head_s = service_cpu_us(SERVICE_SHARDS, heads_only=True) / 1e6
    return CpuCosts(router, shards, head_s - full[SERVICE_SHARDS].router_s / FULL.samples)


def _tell(report: Report, rows: int, found: Layout | None, machine: Machine, replicas: Replicas) -> None:
    what = f"{rows / 1e6:,.0f} M rows, {replicas} copies, {machine.name}"
    if found is None:
        report.row(what, "-", "a node cannot hold it")
        return
    report.row(
        what,
        f"{found.nodes} nodes",
        f"{found.deployments} x ({found.shards} shards + {found.heads} for heads), limit: {found.limit};"
        f" {found.shard_memory_bytes / GIB:,.0f} GiB a shard, {found.wire_bytes_per_sample / 1e3:.1f} kB a sample",
    )
    report.key(f"nodes_{rows}_rows_{replicas}_copies_{machine.cores}_cores", found.nodes)


def _named(model: CpuModel) -> list[tuple[str, float]]:
    return [
        ("pull", model.pull_s),
        ("message", model.message_s),
        ("key", model.key_s),
        ("sub_bag", model.sub_bag_s),
    ]


if __name__ == "__main__":
    typer.run(main)
