"""What a deployment would take: it holds the rows, keeps up, and says what limits it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.loadtest.bench.cost_model import FILL, FILL_MEMORY, CpuCosts, Demand, Layout, Machine, cheapest
from ringpull.loadtest.bench.growth_model import CpuModel, wire_bytes_per_sample
from ringpull.ps.spec import ALL, Replicas

GIB = 1 << 30
MACHINE = Machine("a node", 16, 128 * GIB, 1.5e9)
COSTS = CpuCosts(CpuModel(2e-4, 1e-4, 1e-8, 1e-7), CpuModel(2e-4, 2e-4, 2e-8, 2e-7), 2e-5)


def demand_of(requests_per_s: float, dim: int = 64) -> Demand:
    return Demand(
        requests_per_s,
        candidates=128,
        context_bags=13,
        candidate_bags=13,
        keys_per_bag=10,
        dim=dim,
        requests_per_pull=4,
    )


def planned(
    rows: int,
    replicas: Replicas = 2,
    *,
    requests_per_s: float = 10_000,
    machine: Machine = MACHINE,
    costs: CpuCosts = COSTS,
) -> Layout:
    found = cheapest(rows, replicas, machine, demand_of(requests_per_s), costs)
    assert found is not None
    return found


@pytest.mark.medium
@given(
    rows=st.integers(1, 10_000_000_000),
    replicas=st.sampled_from([1, 2, 3]),
    requests_per_s=st.floats(1, 1e5),
)
def test_it_holds_the_rows_and_keeps_up(rows: int, replicas: int, requests_per_s: float) -> None:
    found = planned(rows, replicas, requests_per_s=requests_per_s)
    demand = demand_of(requests_per_s)
    assert found.shards >= replicas
    assert found.shards * found.shard_memory_bytes >= rows * replicas * 4 * demand.dim
    assert found.shard_memory_bytes <= FILL_MEMORY * MACHINE.memory_bytes
    share = demand.samples_per_s / found.deployments
    sent = share * wire_bytes_per_sample(demand.shape, found.shards, demand.dim)
    busy = share * COSTS.shards.pull(demand.shape, found.shards) / demand.shape.samples
    for nodes in (found.shards, found.heads):
        assert sent <= nodes * FILL * MACHINE.network_bytes_per_s * (1 + 1e-9)
    assert busy <= found.shards * FILL * MACHINE.cores * (1 + 1e-9)


@pytest.mark.medium
@given(rows=st.integers(1, 3_000_000_000), requests_per_s=st.floats(1, 5e4), times=st.floats(1, 10))
def test_more_never_takes_fewer_nodes(rows: int, requests_per_s: float, times: float) -> None:
    nodes = planned(rows, requests_per_s=requests_per_s).nodes
    assert planned(rows, requests_per_s=requests_per_s * times).nodes >= nodes
    assert planned(math.ceil(rows * times), requests_per_s=requests_per_s).nodes >= nodes


def test_a_table_on_every_shard_saves_bytes_and_takes_memory() -> None:
    cut, everywhere = planned(100_000_000), planned(100_000_000, ALL)
    assert everywhere.wire_bytes_per_sample < cut.wire_bytes_per_sample
    assert everywhere.shard_memory_bytes * everywhere.shards > cut.shard_memory_bytes * cut.shards


def test_what_no_node_can_hold() -> None:
    assert cheapest(1_000_000_000, ALL, MACHINE, demand_of(1), COSTS) is None


def test_it_says_what_limits() -> None:
    assert planned(1_000_000_000, requests_per_s=1).limit == "memory"
    assert planned(1_000_000, requests_per_s=100_000).limit == "network"
    wide = Machine("a node", 16, 128 * GIB, 1e13)
    assert planned(1_000_000, requests_per_s=100_000, machine=wide).limit == "processors"
