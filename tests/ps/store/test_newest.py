"""Newest rows and composed tables against a dict."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, keys_of
from ringpull.ps.pull_messages import Op
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.compose import compose
from ringpull.ps.store.pull import SlotNotAnswered
from ringpull.ps.store.table import Table
from tests.ps.newer_tables import LiveTable, random_positions, row_at, small_base, stored_rows, write_rows
from tests.ps.store.newer.test_pulls import pulled, same, some_keys

EVERYTHING = SlotRange(0, SLOTS)


def streamed(table: Table, slots: SlotRange, max_bytes: int) -> dict[int, bytes]:
    rows: dict[int, bytes] = {}
    after = None
    while True:
        positions, block = table.newest_block(slots, after, max_bytes)
        assert len(positions) == len(block)
        if not len(positions):
            return rows
        assert positions.tolist() == sorted(set(positions.tolist()))
        assert after is None or int(positions[0]) > after
        size = sum(8 + len(row_at(block, i)) for i in range(len(positions)))
        assert size <= max_bytes or len(positions) == 1
        rows.update((position, row_at(block, i)) for i, position in enumerate(positions.tolist()))
        after = int(positions[-1])


@pytest.mark.parametrize("row_type", [RowType.FLOAT32, RowType.INT8, RowType.BYTES])
def test_blocks_in_ring_order_are_the_rows_as_they_are_now(tmp_path: Path, row_type: RowType) -> None:
    rng = np.random.default_rng(2)
    live = LiveTable.of(small_base(tmp_path / "table", row_type))
    assert streamed(Table(live.base), EVERYTHING, 1000) == live.rows
    positions = np.append(random_positions(rng, live.base, 300), [np.uint64(2**64 - 1)])
    live.push(positions, stored_rows(rng, live.base.spec, len(positions)))
    live.remove(random_positions(rng, live.base, 60))
    for max_bytes in (1, 500, 1 << 20):
        assert streamed(live.table, EVERYTHING, max_bytes) == live.rows
    for begin, end in ((0, 1), (300, 40_000), (SLOTS - 1, SLOTS)):
        due = {each: row for each, row in live.rows.items() if begin <= each >> SLOT_SHIFT < end}
        assert streamed(live.table, SlotRange(begin, end), 300) == due
    live.remove(np.array(sorted(live.rows), np.uint64))
    assert streamed(live.table, EVERYTHING, 100) == {}


def test_an_empty_base_has_newer_rows_too(tmp_path: Path) -> None:
    spec = TableSpec(name="table", dim=2)
    live = LiveTable.of(write_rows(tmp_path / "table", spec, {}))
    assert streamed(live.table, EVERYTHING, 100) == {}
    positions = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    live.push(positions, stored_rows(np.random.default_rng(1), spec, 4))
    assert streamed(live.table, EVERYTHING, 1) == live.rows
    assert pulled(live.table, keys_of(positions), [4], Op.SUM, None).missing.tolist() == [0]


GONE_SPEC = TableSpec(name="gone", dim=0, row_type=RowType.BYTES)


class Chain:
    """A base, deltas of it, and what they make."""

    def __init__(self, folder: Path, row_type: RowType, deltas: int) -> None:
        rng = np.random.default_rng(4)
        self.live = LiveTable.of(small_base(folder / "base", row_type))
        self.deltas: list[tuple[Base, Base | None]] = []
        for number in range(deltas):
            before = set(self.live.rows)
            positions = random_positions(rng, self.live.base, 80)
            self.live.push(positions, stored_rows(rng, self.live.base.spec, len(positions)))
            gone: Base | None = None
            if number % 2 == 0:
                removed = rng.choice(np.array(sorted(before - set(positions.tolist())), np.uint64), 30)
                self.live.remove(removed)
                gone = write_rows(folder / f"gone{number}", GONE_SPEC, dict.fromkeys(removed.tolist(), b""))
            changed = {int(each): self.live.rows[int(each)] for each in positions}
            self.deltas.append((write_rows(folder / f"changed{number}", self.live.base.spec, changed), gone))


@pytest.mark.parametrize("row_type", [RowType.FLOAT32, RowType.INT8, RowType.BYTES])
def test_a_chain_of_deltas_is_the_table_that_it_makes(tmp_path: Path, row_type: RowType) -> None:
    chain = Chain(tmp_path, row_type, 3)
    merged = Table(write_rows(tmp_path / "merged", chain.live.base.spec, chain.live.rows))
    table = compose(chain.live.base, chain.deltas)
    assert streamed(table, EVERYTHING, 1000) == chain.live.rows
    keys = some_keys(np.random.default_rng(1), chain.live, 400)
    for op in (Op.ROWS,) if row_type is RowType.BYTES else (Op.ROWS, Op.SUM, Op.MAX):
        assert same(pulled(table, keys, [len(keys)], op, None), pulled(merged, keys, [len(keys)], op, None))
    assert compose(chain.live.base, []).newer is None


def test_rows_of_deltas_lie_where_pushed_ones_do_and_have_no_stamp(tmp_path: Path) -> None:
    chain = Chain(tmp_path, RowType.FLOAT32, 3)
    table = compose(chain.live.base, chain.deltas)
    assert table.newer is not None
    positions, words = table.newer.directory.walk(EVERYTHING)
    parts = [part for delta in chain.deltas for part in delta if part is not None]
    assert set(positions.tolist()) == {each for part in parts for each in part.sections.positions.tolist()}
    assert not table.newer.segments.stamps(words).any()


def test_slots_that_a_delta_does_not_hold_are_not_answered(tmp_path: Path) -> None:
    spec = TableSpec(name="table", dim=1)
    base = write_rows(tmp_path / "base", spec, {5 << 48: b"1111", 9 << 48: b"2222"})
    part = write_rows(tmp_path / "part", spec, {9 << 48: b"3333"}, held=((8, 20),))
    table = compose(base, [(part, None)])
    assert [table.answers(slot) for slot in (5, 8, 9, 20)] == [False, True, True, False]
    table = table.with_quarantine([9])
    assert [table.answers(slot) for slot in (8, 9)] == [True, False]
    with pytest.raises(SlotNotAnswered, match="slot 9"):
        pulled(table, keys_of(np.array([9 << 48], np.uint64)), [1], Op.SUM, None)
    bad = [BadBlock(0, 0, 1, (9, 10))]
    assert not Table.without(base, bad).with_newer(table.newer).answers(9)


def test_the_default_vector_is_the_last_deltas_and_other_rows_are_refused(tmp_path: Path) -> None:
    base = write_rows(tmp_path / "base", TableSpec(name="table", dim=1, default=(1.0,)), {})
    newer = write_rows(tmp_path / "newer", TableSpec(name="table", dim=1, default=(2.0,)), {})
    table = compose(base, [(newer, None)])
    assert pulled(table, np.array([3], np.uint64), [1], Op.SUM, None).values.tolist() == [2.0]
    assert table.spec.default == (2.0,)
    for spec in (TableSpec(name="table", dim=2), TableSpec(name="table", dim=2, row_type=RowType.FLOAT16)):
        other = write_rows(tmp_path / f"other{spec.row_type}", spec, {})
        with pytest.raises(InvalidInput, match=r"rows of|dim is 1"):
            compose(base, [(other, None)])


def test_damaged_starts_of_a_delta_lead_nowhere(tmp_path: Path) -> None:
    """Their file is written over while it is mapped."""
    spec = TableSpec(name="table", dim=0, row_type=RowType.BYTES)
    base = write_rows(tmp_path / "base", spec, {5 << 48: b"old", 9 << 48: b"old"})
    changed = write_rows(tmp_path / "changed", spec, {9 << 48: b"new"})
    table = compose(base, [(changed, None)])
    with (tmp_path / "changed" / fmt.STARTS).open("r+b") as file:
        file.write(np.array([0, 1 << 40], np.uint64).tobytes())
    assert pulled(table, keys_of(np.array([5 << 48], np.uint64)), [], Op.ROWS, None).data.tobytes() == b"old"
    with pytest.raises(SlotNotAnswered, match="slot 9 begin is damaged"):
        pulled(table, keys_of(np.array([9 << 48], np.uint64)), [], Op.ROWS, None)
    with pytest.raises(CorruptData, match="start is damaged"):
        table.newest_block(EVERYTHING, None, 1000)


@pytest.mark.parametrize("row_type", [RowType.FLOAT32, RowType.BYTES])
def test_blocks_beside_a_writer_have_each_row_whole_old_or_new(tmp_path: Path, row_type: RowType) -> None:
    spec = TableSpec(name="table", dim=0 if row_type is RowType.BYTES else 16, row_type=row_type)
    size, rng = 64, np.random.default_rng(1)
    positions = np.unique(rng.integers(0, 2**64, 2000, np.uint64))
    live = LiveTable.of(write_rows(tmp_path / "table", spec, {int(each): b"\1" * size for each in positions[::2]}))
    kept = positions[::2]
    current, done = [live.table], threading.Event()

    def write() -> None:
        for number in range(2, 200):
            if done.is_set():
                return
            some = rng.choice(positions, 100, replace=False)
            data = np.full((len(some), size), number, np.uint8)
            live.push(some, BytesRows(data.reshape(-1), np.arange(len(some) + 1) * size) if spec.is_bytes else data)
            current[0] = live.table

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while writer.is_alive():
            rows = streamed(current[0], EVERYTHING, 5000)
            assert set(kept.tolist()) <= set(rows) <= set(positions.tolist())
            assert all(row == row[:1] * size for row in rows.values())
    finally:
        done.set()
        writer.join()
    assert streamed(current[0], EVERYTHING, 5000) == live.rows
