"""What a change moves, held against counting slot by slot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.control.coordinator_state import VALUES
from ringpull.router.control.deployment_spec import (
    DeploymentSpec,
    PlacedTable,
    PlacedVersion,
    initial_spec,
    max_replicas,
)
from ringpull.router.control.moves import MovePlan, TableMove, evenly, move_plan
from ringpull.router.control.operations import VERBS

ROWS, ROW_BYTES = SLOTS * 10, 56


def spec(shards: int, replicas: Replicas) -> DeploymentSpec:
    table = PlacedTable("/m/1/t", replicas, ROWS, ROW_BYTES)
    return initial_spec(range(shards), [PlacedVersion("m", 1, "/m/1", {"t": table})])


def moved(before: DeploymentSpec, shards: list[int], replicas: Replicas) -> DeploymentSpec:
    wanted = {("m", "t"): replicas}
    return replace(before, ring=before.ring.with_shards(shards).with_ranks(max_replicas(wanted)), replicas=wanted)


def owns(spec: DeploymentSpec, shard: int, slot: int) -> bool:
    wanted = spec.replicas["m", "t"]
    if wanted == ALL:
        return shard in spec.shards
    return shard in next(each for each in spec.ring.ranges if slot in each.slots).owners[:wanted]


@pytest.mark.medium
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6),
    st.sampled_from([1, 2, 3, ALL]),
    st.sets(st.integers(0, 8), min_size=1),
    st.sampled_from([1, 2, ALL]),
)
def test_every_slot_that_gets_an_owner_is_in_the_plan_and_no_other(
    shards: int, replicas: Replicas, after: set[int], wanted: Replicas
) -> None:
    old = spec(shards, replicas)
    new = moved(old, sorted(after), wanted)
    plan = move_plan(old, new, streamed=True)
    gained = {(move.shard, slots) for move in plan.moves for slots in move.ranges}
    rng = np.random.default_rng(0)
    bounds = [slot for each in (*old.ring.ranges, *new.ring.ranges) for slot in (each.slots.begin, each.slots.end - 1)]
    for slot in {*bounds, *rng.integers(0, SLOTS, 20).tolist()}:
        for shard in new.shards:
            planned = any(target == shard and slot in slots for target, slots in gained)
            assert planned == (owns(new, shard, slot) and not owns(old, shard, slot))
    assert plan.assigned_bytes == sum(len(slots) * 10 for _, slots in gained) * (8 + ROW_BYTES)
    assert plan.copied_bytes == plan.assigned_bytes


@pytest.mark.parametrize(
    ("shards", "replicas", "after", "wanted", "tables"),
    [
        (2, 1, 4, 1, 0.5),
        (4, 1, 2, 1, 0.5),
        (2, 1, 2, 2, 1.0),
        (2, 1, 4, ALL, 3.0),
        (3, 2, 4, 2, 0.5),
        (4, 2, 4, 1, 0.0),
    ],
)
def test_it_is_held_against_the_least_possible(
    shards: int, replicas: Replicas, after: int, wanted: Replicas, tables: float
) -> None:
    old = spec(shards, replicas)
    plan = move_plan(old, moved(old, list(range(after)), wanted), streamed=True)
    assert plan.min_bytes == pytest.approx(tables * ROWS * (8 + ROW_BYTES))
    assert plan.min_bytes * 0.95 <= plan.assigned_bytes <= plan.min_bytes * 1.1


def test_files_that_can_be_opened_cross_no_wire() -> None:
    old = spec(2, 1)
    plan = move_plan(old, moved(old, [0, 1, 2], 1), streamed=False)
    assert plan.copied_bytes == 0
    assert plan.assigned_bytes > 0
    assert plan.ranges == sum(len(move.ranges) for move in plan.moves)


def test_rows_are_counted_exactly_where_the_positions_can_be_read() -> None:
    old = spec(2, 1)
    plan = move_plan(old, moved(old, [0, 1, 2], 1), streamed=True, rows_below=lambda table, slots: 2 * slots)
    assert plan.assigned_bytes == 2 * sum(len(slots) for move in plan.moves for slots in move.ranges) * (8 + ROW_BYTES)
    slots = np.array([0, SLOTS // 2, SLOTS])
    assert evenly(PlacedTable("", 1, 1000, 4), slots).tolist() == [0, 500, 1000]


@pytest.mark.parametrize("shards", [2, 5])
def test_a_table_is_counted_once_however_many_shards_there_are(shards: int) -> None:
    """Counting for each shard by itself took most of `rebalance --auto`."""
    tables = {f"t{i}": PlacedTable(f"/m/t{i}", 1, 100 + i, 4) for i in range(7)}
    old = initial_spec(range(shards), [PlacedVersion("m", 1, "/m", tables)])
    counted: list[str] = []

    def below(table: PlacedTable, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        counted.append(table.folder)
        return evenly(table, slots)

    after = replace(moved(old, list(range(shards + 1)), 2), replicas={("m", "t3"): ALL, ("m", "t5"): 2})
    plan = move_plan(old, after, streamed=True, rows_below=below)
    assert counted == [table.folder for table in tables.values()]
    assert {move.table for move in plan.moves} == set(tables)
    assert plan.shard_bytes_after.keys() == set(range(shards + 1))


def test_bytes_by_shard_add_up_to_the_copies() -> None:
    old = spec(4, 2)
    plan = move_plan(old, moved(old, [0, 1], ALL), streamed=True)
    whole = ROWS * (8 + ROW_BYTES)
    assert sum(plan.shard_bytes_before.values()) == pytest.approx(2 * whole, rel=1e-3)
    assert plan.shard_bytes_after == {0: whole, 1: whole}


@pytest.mark.medium
def test_what_is_told_of_a_thousand_shards_and_a_hundred_tables_is_small() -> None:
    shards, ranges = range(1024), tuple(SlotRange(slot, slot + 1) for slot in range(0, 200, 2))
    moves = tuple(
        TableMove(shard, "m", 1, f"table_{table}", ranges, 100, 6400) for shard in shards for table in range(100)
    )
    held = dict.fromkeys(shards, 1 << 40)
    summary = MovePlan(moves, True, 1 << 50, held, held).summary()
    assert (summary.ranges, summary.assigned_bytes) == (1024 * 100 * 100, 1024 * 100 * 6400)
    assert len(VALUES.to_json(VERBS.named("plan").reply, summary)) < 1 << 20
