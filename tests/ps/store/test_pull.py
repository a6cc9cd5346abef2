"""`pull`: every look-up of a frame equals the slow reference, and no frame leads outside its arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import InvalidInput, LimitExceeded, Unavailable
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, keys_of, positions_of
from ringpull.ps.pull_messages import Op, PullRequest, SubLookup
from ringpull.ps.spec import VECTOR_TYPES, Pooling, RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.base_writer import BaseWriter
from ringpull.ps.store.pull import SlotNotAnswered, SlotNotOwned, pull
from ringpull.ps.store.table import Table
from ringpull.ps.store.writer import TableWriter
from tests.ps.tables import WrittenTable, pull_request, rows_request, write_table
from tests.reference import assert_close

DIMS = (1, 3, 16, 17, 64, 150)
"""Below, at and beyond the 16 and 64 columns that the kernel takes at a time, and rows longer than is prefetched."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[int, WrittenTable]:
    folder = tmp_path_factory.mktemp("pull")
    return {dim: write_table(folder / f"table{dim}", rows=700, dim=dim, seed=dim) for dim in DIMS}


@pytest.fixture(scope="module")
def tables(written: dict[int, WrittenTable]) -> dict[int, Table]:
    return {dim: Table(Base.open(table.folder)) for dim, table in written.items()}


class Tables(NamedTuple):
    """Tables of every dim and row type."""

    written: dict[tuple[int, RowType], WrittenTable]
    opened: dict[tuple[int, RowType], Table]


@pytest.fixture(scope="module")
def typed(
    tmp_path_factory: pytest.TempPathFactory, written: dict[int, WrittenTable], tables: dict[int, Table]
) -> Tables:
    folder = tmp_path_factory.mktemp("typed")
    made = {(dim, RowType.FLOAT32): table for dim, table in written.items()}
    opened = {(dim, RowType.FLOAT32): table for dim, table in tables.items()}
    for dim in DIMS:
        for row_type in set(VECTOR_TYPES) - {RowType.FLOAT32}:
            table = write_table(folder / f"{row_type}{dim}", rows=700, dim=dim, seed=dim, row_type=row_type)
            made[dim, row_type], opened[dim, row_type] = table, Table(Base.open(table.folder))
    return Tables(made, opened)


def slots_of(keys: np.ndarray) -> np.ndarray:
    return (positions_of(keys) >> np.uint64(SLOT_SHIFT)).astype(np.int64)


class Drawn(NamedTuple):
    """One look-up of a frame: which table, and what of it."""

    dim: int
    row_type: RowType
    op: Op
    keys: np.ndarray
    lengths: list[int]
    weights: np.ndarray | None


@st.composite
def drawn_lookups(draw: st.DrawFn) -> Drawn:
    """Known and unknown keys, with duplicates; bag lengths that add up; weights for some sums."""
    dim = draw(st.sampled_from(DIMS))
    row_type = draw(st.sampled_from(VECTOR_TYPES))
    op = draw(st.sampled_from(Op))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lengths = draw(st.lists(st.integers(1, 60), max_size=12))
    keys = rng.integers(0, 10**6, sum(lengths), np.uint64)  # an index into the table's keys, or a stranger
    weights = rng.normal(size=len(keys)).astype(np.float32) if op is Op.SUM and draw(st.booleans()) else None
    return Drawn(dim, row_type, op, keys, [] if op is Op.ROWS else lengths, weights)


def real_keys(drawn: Drawn, table: WrittenTable) -> np.ndarray:
    """Turn two of three drawn numbers into keys of the table."""
    return np.where(drawn.keys % 3 < 2, table.keys[drawn.keys % len(table.keys)], drawn.keys)


@pytest.mark.medium
@settings(deadline=None, max_examples=250)
@given(frame=st.lists(drawn_lookups(), max_size=6))
def test_every_look_up_of_a_frame_equals_the_reference(typed: Tables, frame: list[Drawn]) -> None:
    written = [typed.written[drawn.dim, drawn.row_type] for drawn in frame]
    keys = [real_keys(drawn, table) for drawn, table in zip(frame, written, strict=True)]
    request = pull_request(
        [
            (table.folder.name, drawn.op, each, drawn.lengths, drawn.weights)
            for drawn, table, each in zip(frame, written, keys, strict=True)
        ]
    )
    owned = np.ones(SLOTS, np.uint8)
    opened = [typed.opened[drawn.dim, drawn.row_type] for drawn in frame]
    masks = [owned if i % 2 else None for i in range(len(frame))]
    reply = pull(opened, masks, request)
    assert reply.absent.size == 0, "nobody asked"
    telling = pull(opened, masks, replace(request, tell_absent=True))
    assert all(np.array_equal(getattr(telling, each), getattr(reply, each)) for each in ("values", "missing", "found"))
    known_keys = [table.reference.pull(each)[1] for table, each in zip(written, keys, strict=True)]
    noted = [~known & (drawn.op is not Op.ROWS) for drawn, known in zip(frame, known_keys, strict=True)]
    assert telling.absent.tolist() == np.flatnonzero(np.concatenate([np.zeros(0, bool), *noted])).tolist()
    values, found = reply.values, reply.found
    for drawn, table, each, missing in zip(frame, written, keys, reply.missing, strict=True):
        reference = table.reference
        rows, known = reference.pull(each)
        assert missing == (~known).sum()
        if drawn.op is Op.ROWS:
            assert np.array_equal(values[: rows.size].reshape(rows.shape), rows)
            assert np.array_equal(found[: len(each)].astype(bool), known)
            values, found = values[rows.size :], found[len(each) :]
        else:
            offsets = np.concatenate([[0], np.cumsum(drawn.lengths, dtype=np.int64)])
            pooling = Pooling.MAX if drawn.op is Op.MAX else Pooling.SUM
            expected = reference.pull_bags(each, offsets, pooling, drawn.weights)
            assert_close(values[: expected.size].reshape(expected.shape), expected, largest=60 * 5)
            values = values[expected.size :]
    assert values.size == 0
    assert found.size == 0


def test_a_frame_of_nothing(tables: dict[int, Table]) -> None:
    reply = pull([], [], pull_request([]))
    assert (reply.values.size, reply.missing.size, reply.found.size) == (0, 0, 0)


def test_read_only_and_unaligned_arrays(written: dict[int, WrittenTable], tables: dict[int, Table]) -> None:
    """What a frame is decoded into need not be writable, nor aligned."""
    keys = written[16].keys[:40]
    request = pull_request([("table16", Op.SUM, keys, [40], None)])
    shifted = np.frombuffer(b"x" + request.positions.tobytes(), np.uint8)[1:].view(np.uint64)
    assert not shifted.flags.aligned
    expected = pull([tables[16]], [None], request).values
    assert np.array_equal(pull([tables[16]], [None], replace(request, positions=shifted)).values, expected)


def test_a_nan_in_a_row_stays_in_a_maximum(tmp_path: Path) -> None:
    rows = np.array([[1, 5], [np.nan, 2], [3, 9]], np.float32)
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=2)) as writer:
        writer.add([1, 2, 3], rows)
        writer.finish()
    reply = pull(
        [Table(Base.open(tmp_path / "t"))],
        [None],
        pull_request([("t", Op.MAX, np.array([1, 2, 3], np.uint64), [3], None)]),
    )
    assert np.array_equal(reply.values, [np.nan, 9], equal_nan=True)


@pytest.mark.parametrize("rows", [0, 1, 5, 8, 9])
def test_what_follows_the_last_position_is_no_key(tmp_path: Path, rows: int) -> None:
    """The map is padded with zeros; position 0 is key 0's, and must not be found there."""
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=1)) as writer:
        writer.add(np.arange(1, rows + 1), np.ones((rows, 1), np.float32))
        writer.finish()
    keys = np.concatenate([np.zeros(50, np.uint64), keys_of(np.array([2**64 - 1], np.uint64))])
    reply = pull([Table(Base.open(tmp_path / "t"))], [None], rows_request("t", keys))
    assert reply.missing.tolist() == [51]
    assert not reply.found.any()


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 16, 17, 511, 512, 513])
def test_every_key_up_to_the_first_and_the_last_is_found_and_none_beside_it(tmp_path: Path, rows: int) -> None:
    """Eight positions are compared at once: they begin within the table, and end within the map, at pages' ends."""
    table = write_table(tmp_path / "t", rows=rows, dim=1)
    there = positions_of(table.keys)
    wanted = np.unique(np.concatenate([there - np.uint64(1), there, there + np.uint64(1)]))
    reply = pull([Table(Base.open(table.folder))], [None], rows_request("t", keys_of(wanted)))
    assert np.array_equal(wanted[reply.found.astype(bool)], np.sort(there))
    assert reply.values[reply.found.astype(bool)].tolist() == table.rows[np.argsort(there), 0].tolist()


# -- slots -------------------------------------------------------------------------------------------------------------


@pytest.mark.medium
@settings(deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_a_key_outside_the_mask_is_refused_and_named(
    written: dict[int, WrittenTable], tables: dict[int, Table], seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    owned = (rng.random(SLOTS) < share).astype(np.uint8)
    keys = rng.choice(written[3].keys, 30)
    slots = slots_of(keys)
    others = pull_request([("table16", Op.ROWS, written[16].keys[:5], (), None), ("table3", Op.SUM, keys, [30], None)])
    if owned[slots].all():
        pull([tables[16], tables[3]], [None, owned], others)
        return
    with pytest.raises(SlotNotOwned) as error:
        pull([tables[16], tables[3]], [None, owned], others)
    assert error.value.slot == slots[owned[slots] == 0][0]
    assert error.value.table == "table3"


def test_a_mask_of_another_shape_is_refused(tables: dict[int, Table]) -> None:
    for mask in (np.ones(SLOTS, bool), np.ones(SLOTS - 1, np.uint8), np.ones(2 * SLOTS, np.uint8)[::2]):
        with pytest.raises(InvalidInput, match="mask"):
            pull([tables[3]], [mask], rows_request("table3", np.array([1], np.uint64)))


def test_a_damaged_block_quarantines_its_slots_only(tmp_path: Path) -> None:
    written = write_table(tmp_path / "t", rows=2000, dim=1024)
    with (written.folder / "rows").open("r+b") as file:
        file.seek(1000 * 4096)
        file.write(b"damage")
    base = Base.open(written.folder)
    begin, end = base.verify()[0].slots
    table = Table(base).with_quarantine(range(begin, end))
    slots = slots_of(written.keys)
    healthy = written.keys[(slots < begin) | (slots >= end)]
    assert 0 < len(healthy) < len(written.keys)
    reply = pull([table], [None], rows_request("t", healthy))
    assert np.array_equal(reply.values.reshape(-1, 1024), written.reference.pull(healthy)[0])
    for key in written.keys[(slots >= begin) & (slots < end)][:3]:
        with pytest.raises(SlotNotAnswered, match=r"table t: slot .* damaged"):
            pull([table], [None], rows_request("t", np.array([key])))
    assert issubclass(SlotNotAnswered, Unavailable)
    assert not table.answers(begin)
    assert table.answers(end)


def test_a_slot_that_a_partial_copy_lacks_is_not_answered_with_a_default(tmp_path: Path) -> None:
    written = write_table(tmp_path / "t", rows=300, dim=4)
    whole = Base.open(written.folder)
    first, last = whole.row_range(0, 30000)
    with BaseWriter(tmp_path / "part", whole.spec, last - first, held=((0, 30000),)) as writer:
        writer.append(whole.positions_slice(first, last), whole.raw_rows(first, last))
        writer.finish()
    table = Table(Base.open(tmp_path / "part"))
    held = slots_of(written.keys) < 30000
    reply = pull([table], [None], rows_request("t", written.keys[held]))
    assert np.array_equal(reply.values.reshape(-1, 4), written.reference.pull(written.keys[held])[0])
    with pytest.raises(SlotNotAnswered, match="not held here"):
        pull([table], [None], rows_request("t", written.keys[~held][:1]))


# -- hostile frames ----------------------------------------------------------------------------------------------------


def sum_of(keys: int, bags: int, **arrays: Any) -> PullRequest:
    """A sum over table3 that announces `keys` and `bags`; arrays of 4 keys in 2 bags unless given."""
    request = PullRequest(
        model="model",
        version=3,
        epoch=1,
        lookups=(SubLookup("table3", Op.SUM, keys, bags, False),),
        positions=np.arange(4, dtype=np.uint64),
        lengths=np.array([1, 3], np.uint32),
        weights=np.empty(0, np.float32),
    )
    return replace(request, **arrays)


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (sum_of(5, 2), "4 positions, but the look-ups announce 5"),
        (sum_of(2**62, 2), "4 positions, but"),
        (sum_of(-4, 2), "neither can be negative"),
        (sum_of(4, -2), "neither can be negative"),
        (sum_of(4, 3), "2 lengths, but the look-ups announce 3"),
        (sum_of(4, 2, weights=np.ones(4, np.float32)), "4 weights, but the look-ups announce 0"),
        (sum_of(4, 2, lengths=np.array([2, 3], np.uint32)), "lengths must be at least 1 each and add up"),
        (sum_of(4, 2, lengths=np.array([0, 4], np.uint32)), "lengths must be at least 1 each and add up"),
        (sum_of(4, 2, lengths=np.array([5, 2**32 - 1], np.uint32)), "lengths must be at least 1 each and add up"),
        (sum_of(4, 2, positions=np.arange(4, dtype=np.int64)), "positions are int64"),
        (sum_of(4, 2, positions=np.zeros((2, 2), np.uint64)), r"positions are uint64 \(2, 2\)"),
        (sum_of(4, 2, lengths=np.array([1, 3], np.int32)), "lengths are int32"),
        (sum_of(4, 2, lookups=(SubLookup("table3", Op.ROWS, 4, 2, False),)), "2 bags for unpooled rows"),
        (sum_of(4, 2, lookups=(SubLookup("table3", Op.SUM, 4, 2, True),)), "0 weights, but the look-ups announce 4"),
    ],
)
def test_counts_that_do_not_fit_are_refused(tables: dict[int, Table], request_: PullRequest, what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        pull([tables[3]], [None], request_)


def test_weights_without_a_sum_were_refused_on_the_wire(tables: dict[int, Table]) -> None:
    request = sum_of(4, 2, lookups=(SubLookup("table3", Op.MAX, 4, 2, True),))
    with pytest.raises(AssertionError, match="table3 is weighted with MAX"):
        pull([tables[3]], [None], request)


def test_a_reply_over_the_limit_is_refused_before_it_is_allocated(tables: dict[int, Table]) -> None:
    request = rows_request("table150", np.arange(100, dtype=np.uint64))
    assert pull([tables[150]], [None], request, max_reply_bytes=100 * 150 * 4).values.size == 15000
    with pytest.raises(LimitExceeded, match="60000 bytes; the limit is 59999"):
        pull([tables[150]], [None], request, max_reply_bytes=59999)
