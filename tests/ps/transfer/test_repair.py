"""Damaged copies are quarantined, answered by nobody wrongly, and copied anew from wherever their rows are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import CorruptData, Unavailable
from ringpull.ps.ring import Ring
from ringpull.ps.spec import RowType
from ringpull.ps.store.base import Base
from ringpull.ps.transfer.job import Job
from tests.ps.damaging import byte_of_block, flip, keys_of_block
from tests.ps.tables import MODEL, WrittenTable, pulled, rows_request, write_table
from tests.ps.transfer.placements import NOWHERE, assert_holds, owned_slots, placement, slots_of
from tests.ps.transfer.shards import Crew, Member

pytestmark = pytest.mark.medium

PAIR = Ring.even([0, 1], 2)
"""Both shards have everything."""


def write_users(folder: Path, row_type: RowType) -> WrittenTable:
    """Write a table of a few blocks."""
    if row_type is RowType.BYTES:
        return write_table(folder / "users", rows=400, dim=2048, row_type=row_type)
    dim = {RowType.FLOAT32: 2048, RowType.INT8: 8192}.get(row_type, 4096)
    return write_table(folder / "users", rows=400, dim=dim, row_type=row_type)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    return write_users(tmp_path_factory.mktemp("tables"), RowType.FLOAT32)


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    with Crew(tmp_path) as made:
        yield made


def answered(member: Member, table: WrittenTable) -> np.ndarray:
    """Return which of the keys that it owns a member answers, and that it answers those right: bool (N,)."""
    mask = member.shard.owned(MODEL, "users")
    assert mask is not None
    out = np.zeros(len(table.keys), bool)
    for i in np.flatnonzero(mask[slots_of(table.keys)] == 1):
        try:
            reply = member.shard.pull(rows_request("users", table.keys[i : i + 1]))
        except Unavailable:
            continue
        assert pulled(reply) == table.row_bytes(i)
        out[i] = True
    return out


def damage(member: Member, table: WrittenTable, name: str = "rows", block: int = 1) -> np.ndarray:
    """Damage a block of a member's copy, and have it found; return which keys are in its slots: bool (N,)."""
    base = member.base()
    at = byte_of_block(base, block) if name == "rows" else 8 * (int(base.sections.blocks[block, 0]) + 1)
    flip(base.folder / name, at)
    member.scrub.round(Job())
    return keys_of_block(base, block, table.keys)


@pytest.mark.parametrize(
    ("row_type", "name"),
    [*((row_type, name) for row_type in RowType for name in ("rows", "positions")), (RowType.BYTES, "starts")],
)
def test_a_damaged_copy_is_repaired_by_its_peer(crew: Crew, tmp_path: Path, name: str, row_type: RowType) -> None:
    users = write_users(tmp_path, row_type)
    made = crew.bring_up(2, PAIR, users)
    bad = damage(made[0], users, name)
    assert not answered(made[0], users)[bad].any() if name != "positions" else not answered(made[0], users).all()
    assert answered(made[1], users).all()
    assert made[0].damage.wants_repair(made[0].shard)
    made[0].prepare_streamed(PAIR, PAIR)
    assert answered(made[0], users).all()
    assert_holds(made[0].base(), users, PAIR.owned_mask(0, 2))
    assert 0 < made[0].peers.rows < len(users.keys) if name != "positions" else made[0].peers.rows == len(users.keys)
    made[0].scrub.round(Job())
    assert (made[0].damage.counts.damaged, made[0].damage.counts.repaired, made[0].damage.blocks) == (1, 1, 0)
    assert not made[0].damage.wants_repair(made[0].shard)
    assert made[0].damage.warnings(made[0].shard) == ()


def test_it_is_repaired_from_the_versions_folder(crew: Crew, users: WrittenTable) -> None:
    [member] = crew.bring_up(1, Ring.even([0]), users)
    damage(member, users)
    member.prepare(placement([users.folder], owned_slots(Ring.even([0]), 0)))
    assert answered(member, users).all()


def test_without_anybody_to_ask_the_rest_is_served_and_nothing_fails(crew: Crew, users: WrittenTable) -> None:
    [member] = crew.bring_up(1, Ring.even([0]), users)
    bad = damage(member, users)
    for _ in range(2):
        member.prepare(placement([NOWHERE / "users"], owned_slots(Ring.even([0]), 0)))
        assert answered(member, users).tolist() == (~bad).tolist()
    member.damage.repair_tried()
    assert not member.damage.wants_repair(member.shard), "a while passes before it is tried again"


def test_over_the_limit_it_is_not_repaired_and_other_work_goes_on(crew: Crew, users: WrittenTable) -> None:
    [member] = crew.bring_up(1, Ring.even([0]), users)
    bad = damage(member, users)
    member.copies._limit_bytes = member.size() + 4096
    member.prepare(placement([users.folder], owned_slots(Ring.even([0]), 0)))
    assert answered(member, users).tolist() == (~bad).tolist()


def test_a_restart_answers_nothing_that_was_known_to_be_bad(crew: Crew, users: WrittenTable) -> None:
    """Whether it finds somebody to copy it anew from, or not."""
    [member] = crew.bring_up(1, Ring.even([0]), users)
    bad = damage(member, users)
    member.restart()
    member.prepare(placement([NOWHERE / "users"], owned_slots(Ring.even([0]), 0)))
    member.assign(1, Ring.even([0]))
    assert answered(member, users).tolist() == (~bad).tolist()
    member.restart()
    member.prepare(placement([users.folder], owned_slots(Ring.even([0]), 0)))
    member.assign(1, Ring.even([0]))
    assert answered(member, users).all()


def test_a_damaged_copy_is_not_made_smaller_nor_streamed(crew: Crew, users: WrittenTable) -> None:
    made = crew.bring_up(2, PAIR, users)
    damage(made[0], users)
    folder = made[0].base().folder
    bad = answered(made[0], users)
    single = Ring.even([0, 1])
    made[0].assign(2, single)
    made[0].tidy()
    assert made[0].base().folder == folder
    assert answered(made[0], users).tolist() == (bad & (single.owned_mask(0, 1)[slots_of(users.keys)] == 1)).tolist()


def test_damage_that_a_merge_meets_is_quarantined_at_once(crew: Crew, users: WrittenTable) -> None:
    """It is found before the scrub comes by, while the copy is written anew for other ranges."""
    made = crew.bring_up(2, Ring.even([0, 1]), users)
    base = made[0].base()
    flip(base.folder / "rows", byte_of_block(base, 0))
    bad = keys_of_block(base, 0, users.keys)
    with pytest.raises(Unavailable, match="prepare again"):
        made[0].prepare(placement([users.folder], owned_slots(PAIR, 0, 2)))
    assert not answered(made[0], users)[bad].any()
    made[0].prepare(placement([users.folder], owned_slots(PAIR, 0, 2)))
    made[0].assign(2, PAIR)
    assert answered(made[0], users).all()


def test_copies_that_a_publish_finds_are_checked_and_copied_anew(crew: Crew, users: WrittenTable) -> None:
    [member] = crew.bring_up(1, Ring.even([0]), users)
    slots = owned_slots(Ring.even([0]), 0)
    publish = replace(placement([users.folder], slots), check_rows=True)
    base = member.base()
    member.restart()
    member.prepare(publish)
    assert member.job.checked_bytes == member.job.bytes_to_check == base.rows * base.spec.row_bytes
    member.prepare(publish)
    assert member.job.bytes_to_check == 0
    member.restart()
    flip(base.folder / "rows", byte_of_block(base, 0))
    with pytest.raises(Unavailable, match=r"block 0, rows 0 to .* prepare again"):
        member.prepare(publish)
    member.prepare(publish)
    member.assign(1, Ring.even([0]))
    assert answered(member, users).all()
    assert Base.open(member.base().folder, verify_rows=True)


def test_a_table_with_damaged_keys_is_not_cut_into_ranges(crew: Crew, users: WrittenTable) -> None:
    made = crew.bring_up(3, PAIR, users)
    for member in made[:2]:
        damage(member, users, "positions")
    with pytest.raises(CorruptData, match="keys are damaged"):
        made[2].prepare_streamed(PAIR.with_shards([0, 1, 2]), PAIR)
