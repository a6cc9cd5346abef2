"""Pulls from a base and newer rows, bit for bit those from one base of the rows that both make."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.hashing import keys_of
from ringpull.ps.pull_messages import Op, PullReply
from ringpull.ps.spec import VECTOR_TYPES, RowType, TableSpec
from ringpull.ps.store.pull import SlotNotAnswered, pull
from ringpull.ps.store.table import Table
from tests.ps.newer_tables import LiveTable, random_positions, small_base, stored_rows, write_rows
from tests.ps.tables import pull_request

DIMS = (1, 3, 16, 64, 150)
OPS = ((Op.ROWS, False), (Op.SUM, False), (Op.SUM, True), (Op.MAX, False))


def pulled(table: Table, keys: np.ndarray, lengths: list[int], op: Op, weights: np.ndarray | None) -> PullReply:
    request = pull_request([("table", op, keys, [] if op is Op.ROWS else lengths, weights)])
    return pull([table], [None], replace(request, tell_absent=True))


def same(one: PullReply, other: PullReply) -> bool:
    return all(
        np.array_equal(getattr(one, name).view(np.uint8), getattr(other, name).view(np.uint8))
        for name in ("values", "missing", "found", "absent", "lengths", "data")
    )


def some_keys(rng: np.random.Generator, live: LiveTable, count: int) -> np.ndarray:
    """Return keys of the base, of newer rows, of rows that are gone and of none; some twice."""
    touched = np.array(sorted(live.touched), np.uint64)
    sources = [live.base.sections.positions, touched, rng.integers(0, 2**64, 200, np.uint64), np.zeros(1, np.uint64)]
    return keys_of(rng.permutation(np.concatenate([rng.choice(each, count // 4) for each in sources if len(each)])))


@pytest.mark.medium
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("row_type", [*VECTOR_TYPES, RowType.BYTES])
def test_pulls_are_those_from_one_base_of_the_merged_rows(tmp_path: Path, row_type: RowType, dim: int) -> None:
    rng = np.random.default_rng(dim)
    live = LiveTable.of(small_base(tmp_path / "base", row_type, dim=dim))
    for step in range(4):
        positions = random_positions(rng, live.base, 150)
        live.push(positions, stored_rows(rng, live.base.spec, len(positions)))
        live.remove(random_positions(rng, live.base, 30))
        merged = Table(write_rows(tmp_path / f"merged{step}", live.base.spec, live.rows))
        keys = some_keys(rng, live, 400)
        lengths = [1, 2, 3, 40, len(keys) - 46]
        for op, weighted in OPS[:1] if row_type is RowType.BYTES else OPS:
            weights = rng.normal(size=len(keys)).astype(np.float32) if weighted else None
            ours = pulled(live.table, keys, lengths, op, weights)
            assert same(ours, pulled(merged, keys, lengths, op, weights)), (op, weighted)
    assert same(
        pulled(live.table.with_newer(None), keys, lengths, Op.ROWS, None),
        pulled(Table(live.base), keys, lengths, Op.ROWS, None),
    )


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(12))
def test_any_order_of_what_a_writer_does_leaves_what_a_dict_has(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    row_type = [RowType.INT8, RowType.BYTES, RowType.FLOAT32][seed % 3]
    live = LiveTable.of(small_base(tmp_path / "table", row_type))
    for _ in range(30):
        positions = random_positions(rng, live.base, int(rng.integers(1, 120)))
        match int(rng.integers(0, 6)):
            case 0 | 1 | 2:
                live.push(positions, stored_rows(rng, live.base.spec, len(positions)))
            case 3:
                live.remove(positions)
            case 4:
                for number in live.segments.tidied([live.directory]):
                    live.segments.drop(number)
            case 5:
                live.segments.seal()
                live.directory = live.directory.copied(int(rng.integers(0, 1000)))
    live.check()
    merged = Table(write_rows(tmp_path / "merged", live.base.spec, live.rows))
    keys = some_keys(rng, live, 300)
    assert same(pulled(live.table, keys, [], Op.ROWS, None), pulled(merged, keys, [], Op.ROWS, None))


def test_quarantine_and_masks_hold_for_newer_rows_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    live = LiveTable.of(small_base(tmp_path / "table"))
    position = np.array([77 << 48 | 5], np.uint64)
    live.push(position, stored_rows(rng, live.base.spec, 1))
    table = live.table.with_quarantine([77])
    assert table.newer_rows == 1
    with pytest.raises(SlotNotAnswered, match="slot 77"):
        pulled(table, keys_of(position), [1], Op.SUM, None)
    assert pulled(live.table, keys_of(position), [1], Op.SUM, None).missing.tolist() == [0]


def test_keys_beyond_their_bucket_and_with_a_strangers_tag_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    live = LiveTable.of(small_base(tmp_path / "table"))
    crowd = np.arange(2**15 * 200, step=2**15, dtype=np.uint64) + np.uint64(9)  # one bucket, one tag
    live.push(crowd[::2], stored_rows(rng, live.base.spec, 100))
    assert live.directory.shift > 50
    merged = Table(write_rows(tmp_path / "merged", live.base.spec, live.rows))
    mixed, hits = np.concatenate([crowd, live.base.sections.positions]), np.tile(crowd[::2], 3)
    for keys in (keys_of(mixed), keys_of(hits)):
        for op in (Op.ROWS, Op.SUM):
            assert same(pulled(live.table, keys, [len(keys)], op, None), pulled(merged, keys, [len(keys)], op, None))


def test_no_row_is_missed_whose_put_has_returned(tmp_path: Path) -> None:
    """A writer puts new keys, through several growths, beside readers of all that it has put."""
    rng = np.random.default_rng(1)
    live = LiveTable.of(small_base(tmp_path / "table"))
    positions = rng.integers(0, 2**64, 20_000, np.uint64)
    data = stored_rows(rng, live.base.spec, len(positions))
    current, missed = [(live.table, 0)], list[int]()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            table, count = current[0]
            missed.append(int(pulled(table, keys_of(positions[:count]), [], Op.ROWS, None).missing[0]))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        table = live.table
        for first in range(0, len(positions), 40):
            before = live.directory
            live.push(positions[first : first + 40], data[first : first + 40])
            table = table if live.directory is before else live.table
            current[0] = table, first + 40
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert missed
    assert not any(missed)


@pytest.mark.parametrize("row_type", [RowType.FLOAT32, RowType.BYTES])
def test_readers_find_each_row_whole_while_a_writer_runs(tmp_path: Path, row_type: RowType) -> None:
    """All numbers of a row are those of its push, so that a torn one, or an older one than before, is seen."""
    spec = TableSpec(name="table", dim=0 if row_type is RowType.BYTES else 64, row_type=row_type)
    size, rng = 256, np.random.default_rng(1)
    positions = np.unique(rng.integers(0, 2**64, 3000, np.uint64))
    live = LiveTable.of(write_rows(tmp_path / "table", spec, {int(each): b"\1" * size for each in positions[::2]}))
    current, done, wrong = [live.table], threading.Event(), list[str]()
    everywhere = positions[::2]  # the base has them, so they are never missing
    lowest = np.ones(len(everywhere), np.uint8)

    def read() -> None:
        seen = lowest.copy()
        while not done.is_set():
            reply = pulled(current[0], keys_of(everywhere), [], Op.ROWS, None)
            if reply.missing.any() or not reply.found.all():
                wrong.append("a row is missing")
            flat = reply.data if spec.is_bytes else reply.values.view(np.uint8)
            rows = flat.reshape(len(everywhere), size)
            if (rows != rows[:, :1]).any():
                wrong.append("a row is torn")
            if (rows[:, 0] < seen).any():
                wrong.append("a row is older than one that was seen before")
            seen = rows[:, 0].copy()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for number in range(2, 120):
            some = rng.choice(positions, 300, replace=False)
            data = np.full((len(some), size), number, np.uint8)
            rows = (
                type(live.base.raw_rows(0, 1))(data.reshape(-1), np.arange(len(some) + 1) * size)
                if spec.is_bytes
                else data
            )
            before = live.directory
            live.push(some, rows)
            if number % 40 == 0:
                for old in live.segments.tidied([live.directory]):
                    live.segments.drop(old)
            if live.directory is not before or number % 40 == 0:
                current[0] = live.table
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not wrong, wrong[:3]
    live.check()
