"""Copies are of one content: rows of two never make one base, and what a shard has already it asks nobody for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.ps.errors import OtherContent, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import RangeSource, VersionPlacement
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.slot_mask import mask_of
from ringpull.ps.store.base import Base
from ringpull.ps.transfer import copies as copies_module
from tests.ps.tables import WrittenTable, write_table
from tests.ps.transfer.placements import NOWHERE, assert_holds, placement
from tests.ps.transfer.shards import Crew, Member

LOW, HIGH = SlotRange(0, SLOTS // 2), SlotRange(SLOTS // 2, SLOTS)
EVERYTHING = SlotRange(0, SLOTS)


@pytest.fixture
def users(tmp_path: Path) -> WrittenTable:
    return write_table(tmp_path / "tables" / "users", rows=1500, dim=5)


@pytest.fixture
def other(tmp_path: Path) -> WrittenTable:
    return write_table(tmp_path / "other" / "users", rows=1500, dim=5, seed=9)


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    with Crew(tmp_path) as made:
        yield made


def identity(table: WrittenTable) -> int:
    return Base.open(table.folder).identity


def of(content: WrittenTable | None, wanted: VersionPlacement) -> VersionPlacement:
    """The same placement, of this content; None: it is not known which."""
    told = 0 if content is None else identity(content)
    return replace(wanted, tables={name: replace(table, identity=told) for name, table in wanted.tables.items()})


def having(crew: Crew, shard: int, table: WrittenTable) -> RangeSource:
    """Start a shard that has a whole table; return it as a source."""
    member = crew.add(shard)
    member.prepare(placement([table.folder], [EVERYTHING]))
    member.assign(1, Ring.even([shard]))
    return RangeSource(EVERYTHING, "peer", shard)


def nothing_of(member: Member) -> bool:
    return not list(member.folder.glob("*/*/users/base-*"))


def test_ranges_of_two_contents_never_make_one_base(crew: Crew, users: WrittenTable, other: WrittenTable) -> None:
    """Half of the ring from a shard that has the old content, the rest only from files that are new: no base at all."""
    old = having(crew, 0, users)
    member = crew.add(1)
    wanted = placement([other.folder], [EVERYTHING], [replace(old, slots=LOW)])
    with pytest.raises(OtherContent, match=r"slots 32768 to 65536 cannot be copied: files in .*other content now"):
        member.prepare(of(users, wanted))
    assert nothing_of(member)
    # Where nobody knows which it should be, that of the files is as good as any, and all of it.
    member.prepare(of(None, wanted))
    assert_holds(member.base(), other, mask_of([EVERYTHING]))


def test_two_shards_of_two_contents_are_no_sources_of_one_base(
    crew: Crew, users: WrittenTable, other: WrittenTable
) -> None:
    """The first that is asked says what it is to be, where nobody else knows."""
    low, high = having(crew, 0, users), having(crew, 1, other)
    member = crew.add(2)
    with pytest.raises(OtherContent, match=r"slots 32768 to 65536 cannot be copied: shard at .*other content now"):
        member.prepare(
            placement([NOWHERE / "users"], [EVERYTHING], [replace(low, slots=LOW), replace(high, slots=HIGH)])
        )
    assert nothing_of(member)


def test_a_source_of_another_content_is_none(crew: Crew, users: WrittenTable, other: WrittenTable) -> None:
    """It is passed over for one that has the right one, wherever that comes in the order."""
    sources = [having(crew, 0, other), having(crew, 1, users)]
    member = crew.add(2)
    member.prepare(of(users, placement([other.folder], [EVERYTHING], sources)))
    assert_holds(member.base(), users, mask_of([EVERYTHING]))


def test_why_each_source_is_none_is_said(crew: Crew, users: WrittenTable, other: WrittenTable) -> None:
    sources = [having(crew, 0, other), RangeSource(EVERYTHING, "peer", 7)]
    member = crew.add(1)
    with pytest.raises(
        Unavailable, match=r"shard at peer:0: .*other content now.*; shard at peer:7: no shard 7"
    ) as exc:
        member.prepare(of(users, placement([NOWHERE / "users"], [EVERYTHING], sources)))
    assert "export under a new number" in str(exc.value)


def test_a_restarted_shard_has_its_own_copy_and_asks_nobody(
    crew: Crew, users: WrittenTable, other: WrittenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies in the version's folder by now: nobody even looks there."""
    member = crew.add(0)
    wanted = of(users, placement([users.folder], [EVERYTHING]))
    member.prepare(wanted)
    shutil.rmtree(users.folder)
    shutil.copytree(other.folder, users.folder)
    looked: list[str] = []
    look = copies_module._stored_here

    def noting(folder: str, within: str) -> object:
        looked.append(folder)
        return look(folder, within)

    monkeypatch.setattr(copies_module, "_stored_here", noting)
    before = member.base().folder
    member.restart()
    member.prepare(wanted)
    assert (member.base().folder, looked, member.peers.rows) == (before, [], 0)
    assert member.base().identity == wanted.tables["users"].identity


def test_a_copy_of_another_content_is_dropped_and_copied_anew(
    crew: Crew, users: WrittenTable, other: WrittenTable
) -> None:
    member = crew.add(0)
    member.prepare(of(other, placement([other.folder], [EVERYTHING])))
    member.restart()
    member.prepare(of(users, placement([users.folder], [EVERYTHING])))
    assert_holds(member.base(), users, mask_of([EVERYTHING]))


def test_a_copy_of_another_content_is_no_part_of_the_next_one(
    crew: Crew, users: WrittenTable, other: WrittenTable
) -> None:
    """Half of it was copied when the number got another content: none of that half is in the base."""
    member = crew.add(0)
    member.prepare(of(other, placement([other.folder], [LOW])))
    member.restart()
    member.prepare(of(users, placement([users.folder], [HIGH])))
    assert_holds(member.base(), users, mask_of([HIGH]))
