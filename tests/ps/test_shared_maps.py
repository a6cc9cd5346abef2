"""Tables of the same files: one map, and yet two tables, each with damage, counts and ranges of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import CorruptData, Unavailable
from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.ps.spec import RowType
from ringpull.ps.store.base import Base
from ringpull.ps.store.block_check import as_bad
from tests.ps.damaging import flip
from tests.ps.opened import ONE_SHARD
from tests.ps.scrubbed import Scrubbed
from tests.ps.tables import MODEL, VERSION, WrittenTable, pulled, rows_request, write_table

OTHER = "other"


@pytest.fixture(params=[RowType.FLOAT32, RowType.BYTES])
def scrubbed(tmp_path: Path, request: pytest.FixtureRequest) -> Scrubbed:
    return Scrubbed(write_table(tmp_path / "users", rows=100, row_type=request.param), tmp_path / "checked")


def open_too(shard: Shard, folder: Path, model: str = OTHER) -> Base:
    shard.open(model, 1, {"users": folder})
    shard.assign(1, [ServedRanges(ONE_SHARD, {})], [(MODEL, VERSION), (OTHER, 1)])
    base = shard.base((model, 1, "users"))
    assert base is not None
    return base


def same_map(one: Base, other: Base) -> bool:
    return all(
        np.shares_memory(getattr(one.sections, name), getattr(other.sections, name))
        for name in ("rows", "positions", "index")
    )


def test_a_table_of_the_same_files_takes_no_memory_more(scrubbed: Scrubbed, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.symlink_to(scrubbed.table.folder)
    for folder in (scrubbed.table.folder, linked):
        base = open_too(scrubbed.shard, folder)
        assert base is not scrubbed.base
        assert same_map(base, scrubbed.base)
        assert base.folder == folder
        scrubbed.shard.retire(OTHER, 1)
    copied = shutil.copytree(scrubbed.table.folder, tmp_path / "copied" / "users")
    other = open_too(scrubbed.shard, copied)
    assert other.identity == scrubbed.base.identity
    assert not same_map(other, scrubbed.base)


def test_each_goes_on_when_the_other_is_retired(scrubbed: Scrubbed) -> None:
    open_too(scrubbed.shard, scrubbed.table.folder)
    scrubbed.shard.retire(MODEL, VERSION)
    del scrubbed.base
    assert ask(scrubbed.shard, scrubbed.table, OTHER) == scrubbed.table.row_bytes()


def ask(shard: Shard, table: WrittenTable, model: str) -> bytes:
    version = VERSION if model == MODEL else 1
    return pulled(shard.pull(rows_request("users", table.keys, model=model, version=version)))


def test_counts_and_quarantine_are_each_tables_own(scrubbed: Scrubbed) -> None:
    open_too(scrubbed.shard, scrubbed.table.folder)
    assert ask(scrubbed.shard, scrubbed.table, OTHER) == scrubbed.table.row_bytes()
    keys = {(each.model, each.table): each.keys for each in scrubbed.shard.statistics().tables}
    assert keys == {(MODEL, "users"): 0, (OTHER, "users"): 100}
    assert scrubbed.shard.quarantine((MODEL, VERSION, "users"), scrubbed.base, [as_bad(scrubbed.base, 0)])
    with pytest.raises(Unavailable):
        ask(scrubbed.shard, scrubbed.table, MODEL)
    assert ask(scrubbed.shard, scrubbed.table, OTHER) == scrubbed.table.row_bytes()


def test_damage_is_found_in_both_and_mended_in_both(scrubbed: Scrubbed) -> None:
    open_too(scrubbed.shard, scrubbed.table.folder)
    flip(scrubbed.table.folder / "rows", 5)
    scrubbed.round()
    for model in (MODEL, OTHER):
        with pytest.raises(Unavailable):
            ask(scrubbed.shard, scrubbed.table, model)
    assert scrubbed.damage.blocks == 2
    flip(scrubbed.table.folder / "rows", 5)
    scrubbed.round()
    for model in (MODEL, OTHER):
        assert ask(scrubbed.shard, scrubbed.table, model) == scrubbed.table.row_bytes()


@pytest.mark.parametrize("name", ["positions", "index", "blocks"])
def test_files_that_were_written_to_since_are_read_again(scrubbed: Scrubbed, name: str) -> None:
    """Damage anywhere but in rows keeps a table from being opened, whoever has it open from before."""
    flip(scrubbed.table.folder / name, -1)
    with pytest.raises(CorruptData, match=name):
        open_too(scrubbed.shard, scrubbed.table.folder)


def test_a_base_with_known_damage_is_no_model_for_another(scrubbed: Scrubbed) -> None:
    flip(scrubbed.table.folder / "rows", 5)
    scrubbed.round()
    base = open_too(scrubbed.shard, scrubbed.table.folder)
    assert not same_map(base, scrubbed.base)
    with pytest.raises(Unavailable):
        ask(scrubbed.shard, scrubbed.table, OTHER)


def test_equal_masks_are_one_mask(tmp_path: Path) -> None:
    """One mask of many tables and versions, in any order of opening; another number of copies has another."""
    ring, count = Ring.even(range(3), 2), 10
    table = write_table(tmp_path / "users", rows=20)
    shard, versions = Shard(0), [(MODEL, version) for version in range(1, count + 1)]
    for epoch, (model, version) in enumerate(versions, 1):
        shard.open(model, version, {"users": table.folder})
        shard.assign(epoch, [ServedRanges(ring, {})], versions[:epoch])
    shard.open(OTHER, 1, {"users": table.folder})
    shard.assign(count + 1, [ServedRanges(ring, {(OTHER, "users"): 2})], [*versions, (OTHER, 1)])
    opened = shard._state.versions
    masks = {id(opened[version].tables["users"].mask) for version in versions}
    assert len(masks) == 1
    other = opened[OTHER, 1].tables["users"].mask
    assert other is not None
    assert id(other) not in masks
    assert np.array_equal(other, ring.owned_mask(0, 2))
    shard.retire(OTHER, 1)
    assert all(np.array_equal(opened[version].tables["users"].mask, ring.owned_mask(0, 1)) for version in versions)
