"""The planner: its memory is what files take, its cost is what routing does, and its choice is the best there is."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.model.manifest import TableEntry
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput
from ringpull.ps.ring import Ring
from ringpull.ps.spec import ALL, Pooling, Replicas, RowType, TableSpec
from ringpull.ps.store.writer import TableWriter
from ringpull.router.batch import Batch
from ringpull.router.control import plan_search, planner
from ringpull.router.control.observed import TableTraffic
from ringpull.router.control.planner import (
    Layout,
    PlannedTable,
    fewest_shards,
    min_memory,
    partials,
    plan,
    predicted_cost,
    shard_bytes,
    table_bytes,
)
from ringpull.router.control.traffic import TableLoad, load_of, traffic_from_json
from ringpull.router.lookup import Lookup
from ringpull.router.partition import partition

GIB = 1 << 30


def table(
    name: str,
    rows: int,
    *,
    dim: int = 16,
    keys: float = 10,
    bags: float = 1,
    hot: float = 0.0,
    min_copies: int = 1,
    read_here: float = 0.0,
    asked_only: bool = False,
) -> PlannedTable:
    return PlannedTable(
        name=name,
        rows=rows,
        row_bytes=4 * dim,
        vector_bytes=4 * dim,
        load=TableLoad(keys, bags, hot),
        min_copies=min_copies,
        read_here=read_here,
        asked_only=asked_only,
    )


loads = st.builds(
    lambda bags, length, hot: TableLoad(bags * length, bags, hot),
    st.sampled_from([0.0, 0.3, 1.0, 128.0]),
    st.sampled_from([1.0, 2.5, 10.0]),
    st.sampled_from([0.0, 0.0, 0.2]),
)
tables_strategy = st.lists(
    st.builds(
        lambda rows, dim, load, min_copies, read: PlannedTable(
            name="t",
            rows=rows,
            row_bytes=4 * dim,
            vector_bytes=4 * dim,
            load=load,
            min_copies=min_copies,
            read_here=read or 0.0,
            asked_only=read is None,
        ),
        st.integers(0, 100_000),
        st.sampled_from([1, 8, 64]),
        loads,
        st.integers(1, 2),
        st.sampled_from([0.0, 0.0, 0.3, 1.0, None]),
    ),
    min_size=1,
    max_size=4,
).map(lambda found: [replace(each, name=f"t{i}") for i, each in enumerate(found)])


def every_choice(tables: list[PlannedTable], shards: int) -> list[dict[str, Replicas]]:
    options = [[*range(min(each.min_copies, shards), shards + 1), ALL] for each in tables]
    return [dict(zip((each.name for each in tables), chosen, strict=True)) for chosen in itertools.product(*options)]


def taken(tables: list[PlannedTable], replicas: dict[str, Replicas], shards: int, shared: bool) -> int:
    return sum(shard_bytes(each, replicas[each.name], shards, shared=shared) for each in tables)


# -- the choice --------------------------------------------------------------------------------------------------------


@given(tables_strategy, st.integers(1, 4), st.floats(1, 4), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_choice_that_fits_is_cheaper(
    tables: list[PlannedTable], shards: int, room: float, shared: bool, beside: bool
) -> None:
    memory = max(1, int(min_memory(tables, shards, shared=shared) * room))
    found = plan(tables, Layout(shards, memory, shared, beside_heads=beside))
    assert found.memory_bytes <= memory
    assert all(each.replicas == ALL or each.replicas <= shards for each in found.choices)
    cheapest = min(
        predicted_cost(tables, replicas, shards, beside_heads=beside).total
        for replicas in every_choice(tables, shards)
        if taken(tables, replicas, shards, shared) <= memory
    )
    assert found.factor == 1
    assert found.cost.total == pytest.approx(cheapest)


@given(tables_strategy, st.integers(1, 6), st.lists(st.floats(1, 8), min_size=2, max_size=4))
@settings(max_examples=60, deadline=None)
def test_more_memory_is_never_dearer(tables: list[PlannedTable], shards: int, rooms: list[float]) -> None:
    min_copies = min_memory(tables, shards)
    costs = [plan(tables, Layout(shards, max(1, int(min_copies * room)))).cost.total for room in sorted(rooms)]
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(costs))


@pytest.mark.medium
@given(
    tables_strategy, st.integers(2, 4), st.lists(st.floats(1, 4), min_size=2, max_size=2), st.booleans(), st.booleans()
)
@settings(max_examples=30, deadline=None)
def test_the_search_by_efficiency_errs_by_no_more_than_it_says(
    tables: list[PlannedTable], shards: int, rooms: list[float], shared: bool, beside: bool
) -> None:
    """Held against the exact search, of tables few enough for both."""
    least, before = min_memory(tables, shards, shared=shared), math.inf
    for room in sorted(rooms):
        layout = Layout(shards, max(1, int(least * room)), shared, beside_heads=beside)
        exact = plan(tables, layout)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan_search, "MAX_COMPARED", 0)
            patch.setattr(plan_search, "SLOPES", 4)
            found = plan(tables, layout)
        assert found.memory_bytes <= layout.memory_bytes
        total, cheapest = found.cost.total, exact.cost.total
        assert total / found.factor * (1 - 1e-9) <= cheapest <= total * (1 + 1e-9) <= before * (1 + 2e-9)
        before = total


def wide_model(tables: int) -> list[PlannedTable]:
    """Tables of different sizes and loads: far more choices than are kept beside each other."""
    rng = np.random.default_rng(7)
    return [
        table(f"t{i}", int(rng.integers(10, 10**7)), keys=float(keys), bags=float(keys / rng.uniform(1, 20)))
        for i, keys in enumerate(rng.uniform(1, 500, tables))
    ]


@pytest.mark.medium
def test_plans_of_many_tables_are_close_to_the_best_and_fit() -> None:
    tables = wide_model(80)
    min_copies = min_memory(tables, 8)
    plans = [plan(tables, Layout(8, int(min_copies * room))) for room in (1.0, 1.5, 8.1)]
    assert [set(plans[0].replicas.values()), set(plans[-1].replicas.values())] == [{1}, {ALL}]
    for found in plans:
        assert found.memory_bytes <= found.layout.memory_bytes
        assert 1 <= found.factor < 1.01
    totals = [found.cost.total for found in plans]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.medium
def test_the_work_of_a_plan_is_linear_in_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number of copies of a table is looked at once, and all tables are put in order as often as few are."""
    counted: Counter[str] = Counter()
    sizes, orders = planner.shard_bytes, plan_search._order

    def counted_bytes(*args: Any, **named: Any) -> int:
        counted["sizes"] += 1
        return sizes(*args, **named)

    def counted_order(*args: Any) -> Any:
        counted["orders"] += 1
        return orders(*args)

    monkeypatch.setattr(planner, "shard_bytes", counted_bytes)
    monkeypatch.setattr(plan_search, "_order", counted_order)
    work = []
    for count in (100, 400):
        tables = wide_model(count)
        layout = Layout(8, int(1.5 * min_memory(tables, 8)))
        counted.clear()
        plan(tables, layout)
        work.append(counted.copy())
    few, many = work
    assert many["sizes"] <= 1.2 * 4 * few["sizes"] <= 1.2 * 400 * 12
    assert many["orders"] <= 2 * few["orders"] <= 2 * plan_search.SLOPES * 16


def test_small_hot_tables_go_everywhere_and_giant_ones_do_not() -> None:
    found = plan(
        [table("m/genre", 19, keys=310, bags=128), table("m/item", 36_000_000, dim=62, keys=690, bags=128)],
        Layout(8, 16 * GIB // 8),
    )
    genre, item = found.choices
    assert found.replicas == {"m/genre": ALL, "m/item": 1}
    assert genre.reason.startswith("m/genre: 19 rows, 1.4 KiB, 31% of look-ups -> all: saves ")
    assert item.reason.startswith("m/item: 36,000,000 rows, 8.6 GiB, 69% of look-ups -> 1: `all` would take 7.5 GiB")
    assert found.cost.total < found.fewest_copies_cost.total


def test_a_hot_key_gets_copies_where_all_does_not_fit() -> None:
    hot = table("t", 1_000_000, keys=1000, bags=1000, hot=0.3)
    room = shard_bytes(hot, 3, 8)
    found = plan([hot], Layout(8, room))
    assert found.replicas == {"t": 3}
    assert "30% of its look-ups are of one key" in found.choices[0].reason


def test_least_copies_are_kept() -> None:
    found = plan([table("t", 10_000, min_copies=2)], Layout(4, min_memory([table("t", 10_000, min_copies=2)], 4)))
    assert found.replicas == {"t": 2}
    assert plan([table("t", 10_000, min_copies=2)], Layout(1, GIB)).replicas == {"t": 1}


def test_what_does_not_fit_says_what_would() -> None:
    tables = [table("t", 1_000_000)]
    with pytest.raises(InvalidInput, match=r"does not fit 2 shards of 19.1 MiB each: 4 shards of 19.1 MiB would do"):
        plan(tables, Layout(2, 20_000_000))
    assert fewest_shards(tables, 20_000_000) == 4
    with pytest.raises(InvalidInput, match="do not fit 1024 shards of 100 B each"):
        fewest_shards(tables, 100)
    with pytest.raises(InvalidInput, match="no number of shards up to 1024 does"):
        plan(tables, Layout(2, 100))


def test_a_process_takes_its_share() -> None:
    tables = [table("t", 1_000_000)]
    alone, beside = fewest_shards(tables, 20_000_000), fewest_shards(tables, 20_000_000, process_bytes=10_000_000)
    assert (alone, beside) == (4, 8)
    found = plan(tables, Layout(8, 20_000_000, process_bytes=10_000_000))
    assert found.memory_bytes == found.table_bytes + 10_000_000 <= 20_000_000


def test_impossible_inputs_are_named() -> None:
    with pytest.raises(InvalidInput, match="no tables"):
        plan([], Layout(1, GIB))
    with pytest.raises(InvalidInput, match="t is named twice"):
        plan([table("t", 1), table("t", 1)], Layout(1, GIB))
    with pytest.raises(InvalidInput, match="0 shards"):
        Layout(0, GIB)
    with pytest.raises(InvalidInput, match="0 bytes of memory"):
        Layout(1, 0)
    with pytest.raises(InvalidInput, match=r"1\.0 KiB a shard hold no table: 2\.0 KiB are taken before"):
        Layout(1, 1024, process_bytes=2048)
    with pytest.raises(InvalidInput, match="at least 0 copies of 1 versions"):
        table("t", 1, min_copies=0)
    with pytest.raises(InvalidInput, match="at most as many bags"):
        TableLoad(1, 2)


# -- what is predicted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "shards"), [(1, 8), (10, 2), (10, 8), (3, 5)])
def test_partials_are_those_of_the_partition(length: int, shards: int) -> None:
    """Bags of random keys, cut by the router's own kernel, within what chance allows."""
    bags = 4000
    keys = np.random.default_rng(1).integers(0, 1 << 63, bags * length, np.int64).view(np.uint64)
    ring = Ring.even(range(shards))
    offsets = np.arange(0, bags * length + 1, length)
    batch = Batch.of([Lookup("t", Pooling.SUM, keys=keys, offsets=offsets)])
    waiting = np.zeros(shards + 1, np.int64)
    waiting[-1] = 1 << 60

    def measured(replicas: int) -> int:
        return sum(
            int(part.bags.sum())
            for part in partition(batch, np.array([replicas]), 0, ring.owner_table(1), waiting.copy())
        )

    load = TableLoad(bags * length, bags)
    assert measured(1) == pytest.approx(partials(load, shards, 1), rel=0.02)
    assert measured(0) == partials(load, shards, ALL) == bags


def test_messages_are_shards_asked() -> None:
    """One look-up asks one shard; many ask all; what is everywhere rides along."""
    one = table("a", 10, keys=1, bags=1)
    many = table("b", 10, keys=1000, bags=1000)
    assert predicted_cost([one], {"a": 1}, 8).messages == pytest.approx(1)
    assert predicted_cost([many], {"b": 1}, 8).messages == pytest.approx(8)
    assert predicted_cost([many], {"b": ALL}, 8).messages == pytest.approx(1)
    assert predicted_cost([one, many], {"a": ALL, "b": 1}, 8).messages == pytest.approx(8)
    # One cut key, and one shard for the rest: the same one in one of eight.
    assert predicted_cost([one, many], {"a": 1, "b": ALL}, 8).messages == pytest.approx(2 - 1 / 8)


def test_what_heads_read_themselves_costs_no_message() -> None:
    big, small = table("a", 1_000_000, keys=1000, bags=1000), table("b", 10, keys=100, bags=100)
    half = replace(big, read_here=0.5)
    assert predicted_cost([half], {"a": 1}, 8).bytes == pytest.approx(predicted_cost([big], {"a": 1}, 8).bytes / 2)
    here = predicted_cost([small], {"b": ALL}, 8, beside_heads=True)
    assert (here.messages, here.bytes, here.waiting_keys) == (0, 0, 0)
    pushed = predicted_cost([replace(small, asked_only=True)], {"b": ALL}, 8, beside_heads=True)
    assert pushed == predicted_cost([small], {"b": ALL}, 8)
    assert predicted_cost([big, small], {"a": 1, "b": ALL}, 8, beside_heads=True).messages == pytest.approx(8)


def test_on_one_machine_copies_save_nothing_that_heads_read_themselves() -> None:
    """Only what takes pushes, which heads ask for, is worth a copy on every shard."""
    tables = [table(name, 10_000, read_here=float(name == "a"), asked_only=name == "b") for name in "ab"]
    found = plan(tables, Layout(4, GIB, True, beside_heads=True))
    assert found.replicas == {"a": 1, "b": ALL}
    assert found.choices[0].reason.endswith("-> 1: heads read it themselves")
    found = plan([replace(tables[0], read_here=0.25)], Layout(4, GIB, beside_heads=True))
    assert found.replicas == {"a": ALL}
    assert "heads read it themselves, from the shard beside them" in found.choices[0].reason
    assert found.cost.messages == 0 < found.fewest_copies_cost.messages


@pytest.mark.parametrize("rows", [1, 7, 1000, 50_000])
@pytest.mark.parametrize("row_type", [RowType.FLOAT32, RowType.INT8])
def test_a_tables_memory_is_what_its_files_take(tmp_path: Path, rows: int, row_type: RowType) -> None:
    """All files but the header, of less than a page."""
    spec = TableSpec(name="t", dim=16, row_type=row_type)
    with TableWriter(tmp_path / "t", spec) as writer:
        writer.add(np.arange(rows), np.ones((rows, 16), np.float32))
        writer.finish()
    files = sum(path.stat().st_size for path in (tmp_path / "t").iterdir() if path.name != "header")
    assert table_bytes(rows, spec.row_bytes) == pytest.approx(files, rel=0.001, abs=64)


@pytest.mark.parametrize("rows", [1, 7, 1000, 50_000])
def test_the_memory_of_a_table_of_bytes_is_about_what_its_files_take(tmp_path: Path, rows: int) -> None:
    """Memory by the mean of its rows, to which what the index and the checksums take is added once more."""
    spec = TableSpec(name="t", dim=0, row_type=RowType.BYTES)
    with TableWriter(tmp_path / "t", spec) as writer:
        writer.add_bytes(np.arange(rows), BytesRows.of([bytes(row % 150) for row in range(rows)]))
        summary = writer.finish()
    files = sum(path.stat().st_size for path in (tmp_path / "t").iterdir())
    entry = TableEntry(spec=spec, path="t", rows=rows, bytes=summary.bytes)
    assert files <= table_bytes(rows, entry.row_bytes) <= 1.1 * files + 64


def test_pages_of_one_machine_count_once() -> None:
    big = table("t", 1_000_000)
    whole = table_bytes(big.rows, big.row_bytes)
    for copies in (1, 2, ALL):
        assert 4 * shard_bytes(big, copies, 4, shared=True) == pytest.approx(whole, abs=4)
    assert [shard_bytes(big, copies, 4) / whole for copies in (1, 2, 4, ALL)] == pytest.approx([0.25, 0.5, 1, 1], 0.01)


# -- traffic -----------------------------------------------------------------------------------------------------------


def test_loads_are_counts_per_request() -> None:
    counted = {"m/item": TableTraffic(keys=5000, bags=500, missing=3)}
    assert load_of(counted, 100) == {"m/item": TableLoad(50, 5)}
    assert load_of(counted, 100)["m/item"].bag_length == 10
    assert load_of(counted, 0) == {}


def test_traffic_from_a_file() -> None:
    text = '{"requests": 10, "tables": {"item": {"keys": 100, "bags": 20, "hottest_share": 0.5}, "user": {"keys": 10}}}'
    assert traffic_from_json(text) == {"item": TableLoad(10, 2, 0.5), "user": TableLoad(1, 1)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "must be"),
        ('{"requests": 0, "tables": {}}', "requests is 0"),
        ('{"tables": {}}', "requests is None"),
        ('{"requests": 1, "tables": {"a": 3}}', "tables.a must be"),
        ('{"requests": 1, "tables": {"a": {"keys": "3"}}}', "tables.a.keys is '3'"),
        ('{"requests": 1, "tables": {"a": {"keys": 1, "bags": 2}}}', "tables.a: 1.0 keys in 2.0 bags"),
        ('{"requests": 1, "tables": {"a": {"keys": 1, "rows": 2}}}', "tables.a has no field rows"),
    ],
)
def test_traffic_that_is_none(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        traffic_from_json(text)
