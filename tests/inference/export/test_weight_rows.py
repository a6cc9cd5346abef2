"""What changed in a weight, found where it lies, is what comparing dicts of rows finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ringpull.inference.export.delta import placed_keys, weight_rows
from ringpull.inference.export.delta.weight_rows import add_changed
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.export.tables import TablePlan, write_table
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import DuplicateKey, HashCollision
from ringpull.ps.hashing import keys_of
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.base_writer import BaseWriter
from ringpull.ps.store.compose import compose
from ringpull.ps.store.raw_rows import flat
from ringpull.ps.store.table import Table


class Noted:
    """Takes what a `DeltaWriter` takes."""

    def __init__(self) -> None:
        self.rows: dict[int, bytes] = {}
        self.gone: set[int] = set()
        self.changed = 0

    def add(self, positions: Any, rows: Any, *, changed: int) -> None:
        assert list(self.rows) + positions.tolist() == sorted({*self.rows, *positions.tolist()}), "in ring order"
        self.rows |= dict(zip(positions.tolist(), map(bytes, rows), strict=True))
        self.changed += changed

    def add_gone(self, positions: Any) -> None:
        self.gone |= set(positions.tolist())


def plan_of(weight: Any, keys: Any, row_type: str = "float32") -> TablePlan:
    return TablePlan.make("t", torch.from_numpy(weight), keys, TableOptions(row_type=row_type))  # type: ignore[arg-type]


def rows_of(table: Base) -> dict[int, bytes]:
    rows = table.raw_rows(0, table.rows)
    size = table.spec.row_bytes
    data = flat(rows).tobytes()
    positions = table.positions_slice(0, table.rows).tolist()
    return {position: data[at * size : (at + 1) * size] for at, position in enumerate(positions)}


def written(folder: Path, plan: TablePlan) -> Base:
    folder.mkdir(parents=True)
    write_table(folder, plan, None)
    return Base.open(folder / "tables" / "t")


@pytest.mark.parametrize("keyed", ["number", "integers", "strings", "vocabulary"])
@pytest.mark.parametrize("row_type", ["float32", "int8", "bfloat16"])
@pytest.mark.parametrize("chained", [False, True])
def test_it_is_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyed: str, row_type: str, chained: bool
) -> None:
    monkeypatch.setattr(weight_rows, "BLOCK_BYTES", 900)
    random = np.random.default_rng(1)

    def made(ids: Any, seed: int) -> TablePlan:
        every = np.random.default_rng(seed).normal(size=(400, 6)).astype(np.float32)
        keys: Any = {
            "number": None,
            "integers": ids * 7 - 500,
            "strings": np.array([f"id {each}" for each in ids], object),
            "vocabulary": Vocabulary([f"id {each}" for each in ids[1:]]),
        }[keyed]
        return plan_of(every[ids], keys, row_type)

    ids = np.arange(300)
    old = written(tmp_path / "old", made(ids, 0))
    later = np.arange(320) if keyed == "number" else random.permutation(400)[:320]
    after = made(later, 0)
    touched = random.choice(320, 30, replace=False)
    after.weight[torch.from_numpy(touched)] += 1
    before = Table(old)
    if chained:
        changed, gone = written(tmp_path / "changed", made(np.arange(20), 5)), tmp_path / "gone"
        went = old.positions_slice(50, 60).copy()
        went = went[~np.isin(went, changed.positions_slice(0, changed.rows))]
        with BaseWriter(gone, TableSpec(name="t", dim=0, row_type=RowType.BYTES), len(went)) as writer:
            writer.append(went, BytesRows(np.empty(0, np.uint8), np.zeros(len(went) + 1, np.int64)))
            writer.finish()
        before = compose(old, [(changed, Base.open(gone))])
        was = rows_of(old) | rows_of(changed)
        was = {position: row for position, row in was.items() if position not in set(went.tolist())}
    else:
        was = rows_of(old)
    noted, told = Noted(), []
    add_changed(before, after, noted, told.append)  # type: ignore[arg-type]
    now = rows_of(written(tmp_path / "new", after))
    assert noted.rows == {position: row for position, row in now.items() if was.get(position) != row}
    assert noted.gone == was.keys() - now.keys()
    assert noted.changed == len(noted.rows.keys() & was.keys())
    assert sum(told) == len(now) * after.spec.row_bytes


def test_two_rows_of_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.ones((3, 2), np.float32)
    before = Table(written(tmp_path / "old", plan_of(weight, [1, 2, 3])))
    with pytest.raises(DuplicateKey, match="table t: key -5 was given more than once"):
        add_changed(before, plan_of(weight, [-5, 2, -5]), Noted(), lambda size: None)  # type: ignore[arg-type]
    texts = Table(written(tmp_path / "texts", plan_of(weight, ["a", "b", "c"])))
    with pytest.raises(DuplicateKey, match="table t: key 'a' was given more than once"):
        add_changed(texts, plan_of(weight, ["a", "b", "a"]), Noted(), lambda size: None)  # type: ignore[arg-type]
    monkeypatch.setattr(placed_keys, "keys_of_values", lambda ids: np.full(len(ids), 9, np.int64))
    with pytest.raises(HashCollision, match="the keys 'a' and 'b' have one hash, 0x0000000000000009; rename one"):
        add_changed(texts, plan_of(weight[:2], ["a", "b"]), Noted(), lambda size: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 8, 16, 33])
def test_rows_are_the_same_when_their_bits_are(tmp_path: Path, dim: int) -> None:
    """0.0 is not -0.0, and a NaN is itself; whichever bit of a row it is that changed."""
    weight = np.random.default_rng(dim).normal(size=(32 * dim + 4, dim)).astype(np.float32)
    weight[:4, -1] = [0.0, -0.0, np.nan, np.inf]
    old = written(tmp_path / "old", plan_of(weight, None))
    bits = weight.view(np.uint32)
    for row in range(32 * dim):
        bits[row + 4, row // 32] ^= np.uint32(1 << row % 32)
    bits[:3, -1] = [1 << 31, 1 << 31, bits[2, -1] + 1]  # 0.0 becomes -0.0, -0.0 stays, and a NaN has other bits
    noted = Noted()
    add_changed(Table(old), plan_of(weight, None), noted, lambda size: None)  # type: ignore[arg-type]
    numbers = sorted(keys_of(np.array(list(noted.rows), np.uint64)).tolist())
    assert numbers == [0, 2, *range(4, len(weight))]
    assert noted.changed == len(numbers)
    assert not noted.gone


@pytest.mark.parametrize("lies", ["sliced", "transposed"])
def test_a_weight_that_lies_apart_is_read_as_it_is(tmp_path: Path, lies: str) -> None:
    weight = np.random.default_rng(1).normal(size=(200, 9)).astype(np.float32)
    apart = weight[::2, 1:6] if lies == "sliced" else weight.T.copy().T[:, 2:7]
    plan = replace(plan_of(apart.copy(), None), weight=torch.from_numpy(apart))
    old = written(tmp_path / "old", plan_of(apart.copy(), None))
    noted = Noted()
    add_changed(Table(old), plan, noted, lambda size: None)  # type: ignore[arg-type]
    assert (noted.rows, noted.gone) == ({}, set())
    plan.weight[7, 4] += 1
    after = rows_of(written(tmp_path / "after", plan_of(plan.weight.numpy().copy(), None)))
    add_changed(Table(old), plan, noted, lambda size: None)  # type: ignore[arg-type]
    was = rows_of(old)
    assert noted.rows == {position: row for position, row in after.items() if was[position] != row}
    assert len(noted.rows) == 1


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (np.arange(0), np.arange(50)),
        (np.arange(50), np.arange(0)),
        (np.arange(0), np.arange(0)),
        (np.arange(50), np.arange(50, 120)),
        (np.array([2**64 - 1, 2**63, 0, 5], np.uint64), np.array([2**63, 2**64 - 1, 2**63 + 1], np.uint64)),
        (np.array([-(2**63), -1, 0, 2**63 - 1]), np.array([2**63 - 1, -2, -(2**63)])),
        (np.array([-(2**63), -1, 3, 2**63 - 1]), None),
        (None, np.array([5, -1, 0, 99, 2**63 - 1])),
    ],
    ids=["all new", "all gone", "nothing", "others", "uint64", "int64", "to numbers", "from numbers"],
)
@pytest.mark.parametrize("row_type", ["float32", "float16"])
def test_keys_of_any_size_come_and_go(tmp_path: Path, was: Any, now: Any, row_type: str) -> None:
    random = np.random.default_rng(4)
    weight = random.normal(size=(130, 3)).astype(np.float32)
    old = written(tmp_path / "old", plan_of(weight[: 6 if was is None else len(was)], was, row_type))
    plan = plan_of(weight[: 6 if now is None else len(now)].copy(), now, row_type)
    noted = Noted()
    add_changed(Table(old), plan, noted, lambda size: None)  # type: ignore[arg-type]
    before, after = rows_of(old), rows_of(written(tmp_path / "new", plan))
    assert noted.rows == {position: row for position, row in after.items() if before.get(position) != row}
    assert noted.gone == before.keys() - after.keys()
    assert noted.changed == len(noted.rows.keys() & before.keys())
