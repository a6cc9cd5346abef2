"""Arithmetic of a deployment of a given size: nodes for shards and for heads, and what limits first. Pure.

Costs of processor time are measured (`cost`), bytes follow from the formulas of `growth_model`, memory from the
planner's. A node of shards is one shard here, whatever its cores: the threads of a shard share its tables. Heads have
nodes of their own, as many processes on each as it has cores for.

A bag of ids meets more shards the more there are, and brings a vector back from each. So beyond what memory asks for,
more shards make every request dearer, and more requests are better served by several deployments side by side, each
with a load balancer's share of them: `Layout.deployments`.

A node is filled up to `FILL` of its processors and of its network, so that queues stay short, and up to `FILL_MEMORY`
of its memory. Bytes both ways count as if they went one way. Copies cost memory and no time: a key is pulled once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ringpull.deploy.planned_tables import PROCESS_BYTES
from ringpull.loadtest.bench.growth_model import CpuModel, PullShape, wire_bytes_per_sample
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.control.planner import table_bytes

FILL: Final = 0.5
FILL_MEMORY: Final = 0.8
MAX_SHARDS: Final = 256
"""Shards of one deployment at most."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of node."""

    name: str
    cores: int
    memory_bytes: int
    network_bytes_per_s: float
    """Bytes per second in each direction."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Load of a deployment."""

    requests_per_s: float
    candidates: int
    context_bags: int
    candidate_bags: int
    """Bags of each candidate."""
    keys_per_bag: int
    dim: int
    requests_per_pull: int
    """Requests of a micro-batch."""

    @property
    def samples_per_s(self) -> float:
        return self.requests_per_s * self.candidates

    @property
    def shape(self) -> PullShape:
        """The pull of a micro-batch."""
        bags = self.requests_per_pull * (self.context_bags + self.candidate_bags * self.candidates)
        lookups = self.context_bags + self.candidate_bags
        return PullShape(self.keys_per_bag, bags, lookups, self.requests_per_pull * self.candidates)


@dataclass(frozen=True, slots=True)
class CpuCosts:
    """Seconds of processor time, as measured."""

    router: CpuModel
    shards: CpuModel
    """Costs of all shards together."""
    head_s: float
    """Cost of a sample at a head, besides routing and merging."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Deployments that do what is asked, all alike."""

    machine: Machine
    replicas: Replicas
    deployments: int
    shards: int
    """Nodes for shards, of each deployment."""
    heads: int
    """Nodes for heads, of each deployment."""
    limit: str
    """Limit that asks for more than one deployment; with one, for as many shards: memory, processors or network."""
    shard_memory_bytes: int
    wire_bytes_per_sample: float

    @property
    def nodes(self) -> int:
        """Number of machines in all."""
        return self.deployments * (self.shards + self.heads)


def cheapest(rows: int, replicas: Replicas, machine: Machine, demand: Demand, costs: CpuCosts) -> Layout | None:
    """Return the layout of the fewest nodes that holds `rows` rows and keeps up; None when none holds them.

    Args:
        rows: Rows of all tables together, each with `replicas` copies.
    """
    fits = [
        count
        for count in range(1 if replicas == ALL else int(replicas), MAX_SHARDS + 1)
        if _memory_bytes(rows, replicas, count, demand) <= FILL_MEMORY * machine.memory_bytes
    ]
    layouts = [_layout(rows, replicas, count, fits[0], machine, demand, costs) for count in fits]
    return min(layouts, key=lambda each: (each.nodes, each.deployments), default=None)


def _layout(
    rows: int, replicas: Replicas, shards: int, min_shards: int, machine: Machine, demand: Demand, costs: CpuCosts
) -> Layout:
    met = 1 if replicas == ALL else shards  # tables that every shard has are asked of one
    processors, network = FILL * machine.cores, FILL * machine.network_bytes_per_s
    pulled_s = demand.samples_per_s / demand.shape.samples
    sent = demand.samples_per_s * wire_bytes_per_sample(demand.shape, met, demand.dim)
    needs = {
        "processors": pulled_s * costs.shards.pull(demand.shape, met) / (shards * processors),
        "network": sent / (shards * network),
    }
    limit = max(needs, key=needs.__getitem__)
    deployments = max(1, math.ceil(needs[limit]))
    head_cpu = demand.samples_per_s * costs.head_s + pulled_s * costs.router.pull(demand.shape, met)
    return Layout(
        machine,
        replicas,
        deployments,
        shards,
        math.ceil(max(head_cpu / processors, sent / network) / deployments),
        limit if deployments > 1 or shards > min_shards else "memory",
        _memory_bytes(rows, replicas, shards, demand),
        sent / demand.samples_per_s,
    )


def _memory_bytes(rows: int, replicas: Replicas, shards: int, demand: Demand) -> int:
    """Return the memory of one shard."""
    here = rows if replicas == ALL else math.ceil(rows * int(replicas) / shards)
    return PROCESS_BYTES + table_bytes(here, 4 * demand.dim)
