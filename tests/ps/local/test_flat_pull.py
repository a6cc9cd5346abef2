"""Flat pulls: all look-ups of a layout in one call, against the pull that takes them one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, positions_of
from ringpull.ps.local.flat_pull import FlatSubLookups, FlatTables
from ringpull.ps.local.open_files import LayerTable
from ringpull.ps.pull_messages import Op, PullRequest, SubLookup
from ringpull.ps.spec import RowType
from ringpull.ps.store.base import Base
from ringpull.ps.store.pull import MAX_REPLY_BYTES, pull
from ringpull.ps.store.table import Table
from tests.ps.tables import WrittenTable, pull_request, write_table

TYPES = {
    "floats": RowType.FLOAT32,
    "eights": RowType.INT8,
    "halves": RowType.FLOAT16,
    "brains": RowType.BFLOAT16,
    "lists": RowType.BYTES,
}
VECTORS = tuple(name for name, row_type in TYPES.items() if row_type is not RowType.BYTES)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, WrittenTable]:
    folder = tmp_path_factory.mktemp("tables")
    return {
        name: write_table(folder / name, dim=3 + at, row_type=each) for at, (name, each) in enumerate(TYPES.items())
    }


@pytest.fixture(scope="module")
def layer(written: dict[str, WrittenTable]) -> dict[str, LayerTable]:
    return {name: LayerTable(Table(Base.open(each.folder)), None) for name, each in written.items()}


def flat_of(request: PullRequest, layout: tuple[str, ...], places: list[int]) -> FlatSubLookups:
    numbers = [(each.op, each.keys, each.bags, each.weighted) for each in request.lookups]
    return FlatSubLookups(layout, np.array(places, np.int64), np.array(numbers, np.int64).reshape(-1, 4))


@pytest.mark.medium
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_answers_as_one_by_one(
    written: dict[str, WrittenTable], layer: dict[str, LayerTable], data: st.DataObject
) -> None:
    layout = tuple(data.draw(st.lists(st.sampled_from(VECTORS), min_size=1, max_size=6)))
    places = sorted(data.draw(st.sets(st.sampled_from(range(len(layout))))))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    lookups = []
    for place in places:
        name, op = layout[place], data.draw(st.sampled_from(Op))
        lengths = random.integers(1, 5, data.draw(st.integers(1, 4))).tolist()
        known = written[name].keys
        keys = np.where(random.random(sum(lengths)) < 0.7, random.choice(known, sum(lengths)), 7).astype(np.uint64)
        weighted = op is Op.SUM and data.draw(st.booleans())
        weights = random.standard_normal(len(keys)).astype(np.float32) if weighted else None
        lookups.append((name, op, keys, () if op is Op.ROWS else lengths, weights))
    request = replace(pull_request(lookups), tell_absent=data.draw(st.booleans()))
    flat = flat_of(request, layout, places)
    assert list(flat) == list(request.lookups)
    assert flat[:2] == list(request.lookups[:2])
    found = FlatTables(layout, layer).pull(replace(request, lookups=flat), flat)
    asked = FlatTables(VECTORS, layer).asked(request, MAX_REPLY_BYTES)
    expected = pull([layer[each.table].table for each in request.lookups], [None] * len(places), request)
    assert found is not None
    if not lookups:
        assert asked is None
        asked = found
    assert asked is not None
    for name in ("values", "missing", "found", "lengths", "data", "absent"):
        for answer in (found, asked):
            one, other = getattr(answer, name), getattr(expected, name)
            assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes()), name


@pytest.mark.parametrize(
    "counts",
    [
        [(Op.SUM, -1, 1), (Op.SUM, 5, 1)],
        [(Op.SUM, 2, -1), (Op.SUM, 2, 3)],
        [(Op.SUM, 2, 2**64), (Op.SUM, 2, 2 - 2**64)],
        [(Op.SUM, 2**63 - 1, 1), (Op.SUM, 2**63 - 1, 1), (Op.SUM, 6, 0)],
        [(Op.ROWS, 0, 2), (Op.SUM, 4, 0)],
        [(Op.SUM, 3, 2)],
    ],
)
def test_counts_that_no_router_sends_never_reach_the_kernel(
    written: dict[str, WrittenTable], layer: dict[str, LayerTable], counts: list[tuple[Op, int, int]]
) -> None:
    request = pull_request([("floats", Op.SUM, written["floats"].keys[:4], [1, 3], None)])
    tables = FlatTables(("floats",), layer)
    assert tables.asked(request, MAX_REPLY_BYTES) is not None
    lookups = [SubLookup("floats", op, keys, bags, weighted=False) for op, keys, bags in counts]
    assert tables.asked(replace(request, lookups=lookups), MAX_REPLY_BYTES) is None
    unknown = [SubLookup("strange", Op.SUM, 4, 2, weighted=False)]
    assert tables.asked(replace(request, lookups=unknown), MAX_REPLY_BYTES) is None
    assert tables.asked(request, 1) is None


def test_what_it_cannot_answer_is_left(written: dict[str, WrittenTable], layer: dict[str, LayerTable]) -> None:
    keys = written["floats"].keys[:4]
    request = pull_request([("floats", Op.SUM, keys, [1, 3], None)])
    flat, layout = flat_of(request, ("floats",), [0]), ("floats",)
    own = FlatTables(layout, layer)
    assert own.pull(request, flat) is not None
    assert own.pull(replace(request, lengths=np.array([1, 2], np.uint32)), flat) is None  # do not add up
    assert own.pull(replace(request, lengths=np.array([4], np.uint32)), flat) is None  # too few
    assert own.pull(replace(request, positions=request.positions[:3]), flat) is None
    assert own.pull(replace(request, max_reply_bytes=1), flat) is None
    assert FlatTables(layout, {}).pull(request, flat) is None  # not here
    mask = np.ones(SLOTS, np.uint8)
    masked = FlatTables(layout, {"floats": LayerTable(layer["floats"].table, mask)})
    assert masked.pull(request, flat) is not None
    mask[int(request.positions[2]) >> SLOT_SHIFT] = 0
    assert masked.pull(request, flat) is None  # of another layer
    bad = layer["floats"].table.with_quarantine([int(request.positions[2]) >> SLOT_SHIFT])
    damaged = FlatTables(layout, {"floats": LayerTable(bad, None)})
    assert damaged.pull(request, flat) is None
    other = next(each for each in written["floats"].keys if not bad.quarantined & slots_of([each]))
    sound = pull_request([("floats", Op.ROWS, np.array([other]), (), None)])
    found = damaged.pull(sound, flat_of(sound, layout, [0]))
    assert found is not None
    assert found.values.tobytes() == written["floats"].row_bytes(written["floats"].keys == other)


def slots_of(keys: list[np.uint64]) -> frozenset[int]:
    return frozenset((positions_of(np.array(keys, np.uint64)) >> np.uint64(SLOT_SHIFT)).tolist())


@pytest.mark.parametrize("weights", [3, 5, 0])
def test_a_wrong_number_of_weights_is_left(
    written: dict[str, WrittenTable], layer: dict[str, LayerTable], weights: int
) -> None:
    keys = written["floats"].keys[:4]
    request = pull_request([("floats", Op.SUM, keys, [1, 3], np.ones(4, np.float32))])
    flat, own = flat_of(request, ("floats",), [0]), FlatTables(("floats",), layer)
    assert own.pull(request, flat) is not None
    assert own.pull(replace(request, weights=np.ones(weights, np.float32)), flat) is None


def test_rows_of_bytes_leave_only_the_pulls_that_ask_for_them(
    written: dict[str, WrittenTable], layer: dict[str, LayerTable]
) -> None:
    layout = ("floats", "lists", "eights")
    own = FlatTables(layout, layer)
    for places in ([0], [0, 2], [2], [1], [0, 1], [1, 2], [0, 1, 2]):
        request = pull_request([(layout[at], Op.ROWS, written[layout[at]].keys[:2], (), None) for at in places])
        found = own.pull(request, flat_of(request, layout, places))
        if 1 in places:
            assert found is None
        else:
            assert found is not None
            expected = b"".join(written[layout[at]].row_bytes(slice(2)) for at in places)
            assert found.values.tobytes() == expected


def test_files_stay_mapped_while_they_may_be_read(tmp_path: Path) -> None:
    made = write_table(tmp_path / "floats")
    request = pull_request([("floats", Op.ROWS, made.keys[:9], (), None)])
    flat = FlatTables(("floats",), {"floats": LayerTable(Table(Base.open(made.folder)), None)})
    found = flat.pull(request, flat_of(request, ("floats",), [0]))
    assert found is not None
    assert found.values.tobytes() == made.row_bytes(slice(9))
