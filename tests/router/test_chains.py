"""Versions that follow others: what may go live, what shards are told to store, what is counted and saved of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ringpull.ps.errors import InvalidInput, OtherContent
from ringpull.ps.parts import PartName, table_of, tables_of
from ringpull.router.control.chains import LONG_CHAIN, chain_length, due
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.changes import published, rolled_back
from ringpull.router.control.coordinator_state import state_from_dict, state_to_dict
from ringpull.router.control.deployment_spec import ChainLink, PlacedPart, PlacedTable, PlacedVersion, initial_spec
from ringpull.router.control.moves import move_plan
from ringpull.router.control.operations import Rollback
from ringpull.router.control.placements import placements_of


def identity(number: int) -> str:
    return f"{number + 160:016x}"


def full(number: int, rows: int = 65_536) -> PlacedVersion:
    tables = {"user": PlacedTable(f"/m/{number}/user", 1, rows, 92, identity=number)}
    return PlacedVersion("m", number, f"/m/{number}", tables, identity(number))


def delta(number: int, before: PlacedVersion, rows: int = 6_554) -> PlacedVersion:
    """Return a version that has a delta of the table, and keys that went."""
    folder = f"/m/{number}"
    there = before.tables["user"]
    parts = (
        PlacedPart(number, f"{folder}/tables/user", folder, rows, 92, number * 100),
        PlacedPart(number, f"{folder}/gone/user", folder, 10, 0, number * 100 + 1, gone=True),
    )
    table = replace(
        there,
        origin=there.origin or before.version,
        within=there.within or before.folder,
        parts=(*there.parts, *parts),
    )
    return PlacedVersion(
        "m",
        number,
        folder,
        {"user": table},
        identity(number),
        chain=(*before.chain, ChainLink(before.version, before.identity)),
        ancestors=before.ancestors,
        lineage_of=before.lineage,
        live_tables=("user",),
        includes={number: {0: 7}},
    )


def program(number: int, before: PlacedVersion) -> PlacedVersion:
    """Return a version that has another program, and all rows of the one before."""
    placed = delta(number, before)
    there = before.tables["user"]
    return replace(placed, tables={"user": replace(placed.tables["user"], parts=there.parts)}, includes=before.includes)


def compacted(number: int, before: PlacedVersion, *, known: bool = True) -> PlacedVersion:
    """Return a compacted version, with what the one that it is made of followed where that is known."""
    chain = (ChainLink(before.version, before.identity),)
    ancestors = (*before.ancestors, *before.chain) if known else ()
    return replace(full(number), chain=chain, ancestors=ancestors, lineage_of=before.lineage)


ONE = full(1)
TWO = delta(2, ONE)
THREE = delta(3, TWO)


def test_names_of_parts_are_taken_apart_and_ordered() -> None:
    names = ["user+10", "user", "user+9+gone", "a.b-c", "user+9"]
    assert [str(PartName.of(each)) for each in names] == names
    assert {table_of(each) for each in names} == {"user", "a.b-c"}
    assert list(map(str, tables_of(names)["user"])) == ["user", "user+9", "user+9+gone", "user+10"]


def test_shards_are_told_every_part_with_the_slots_of_its_table() -> None:
    spec = initial_spec(range(2), [THREE])
    [placement] = placements_of(1, [spec], None)
    assert list(placement.tables) == ["user", "user+2", "user+2+gone", "user+3", "user+3+gone"]
    assert {part.slots for part in placement.tables.values()} == {placement.tables["user"].slots}
    assert [(part.origin, part.within) for part in placement.tables.values()] == [
        (1, "/m/1"),
        (2, "/m/2"),
        (2, "/m/2"),
        (3, "/m/3"),
        (3, "/m/3"),
    ]
    assert (placement.lineage, placement.live) == (int(ONE.identity, 16), {"user"})
    assert placement.includes == {"user+3": {0: 7}}
    assert placements_of(0, [initial_spec(range(2), [ONE])], None)[0].tables["user"].origin == 0


def test_a_delta_goes_live_and_rolls_back_like_any_version() -> None:
    spec = published(published(initial_spec(range(2), [ONE]), TWO, keep=1), THREE, keep=1)
    assert [each.name for each in spec.versions] == ["m/2", "m/3"]
    assert rolled_back(spec, Rollback(model="m")).live == {"m": 2}
    assert published(spec, ONE, keep=1).live == {"m": 1}


def test_across_a_compaction_versions_go_back_and_forth() -> None:
    """It names the version that it was made of alone; those before that one are known from when it was placed."""
    chain = [ONE]
    for number in range(2, 9):
        chain.append(delta(number, chain[-1]))
    nine = compacted(9, chain[-1])
    ten = delta(10, nine)
    for live in (nine, ten):
        for back in chain:
            spec = published(initial_spec(range(2), [live]), back, keep=2)
            assert spec.live == {"m": back.version}
            assert published(spec, live, keep=2).live == {"m": live.version}
    again = compacted(12, delta(11, ten))
    for back in (*chain, nine, ten):
        assert published(published(initial_spec(range(2), [again]), back, keep=2), again, keep=2).live == {"m": 12}


def test_a_branch_is_refused_across_a_compaction_too() -> None:
    """What followed the same version as the compacted one is not in it."""
    nine, branch = compacted(9, THREE), delta(5, THREE)
    for live, other in ((nine, branch), (branch, nine), (delta(10, nine), branch), (branch, delta(10, nine))):
        with pytest.raises(InvalidInput, match="what that brought would be gone"):
            published(initial_spec(range(2), [live]), other, keep=1)
    advice = r"Export it again, under a number above 9, with follows=9; or make m/3 live first"
    with pytest.raises(InvalidInput, match=advice):
        published(initial_spec(range(2), [nine]), branch, keep=1)
    assert published(published(initial_spec(range(2), [nine]), THREE, keep=1), branch, keep=1).live == {"m": 5}


@pytest.mark.parametrize("known", [True, False])
def test_a_branch_is_refused_across_two_compactions(known: bool) -> None:
    """It is older than all that the second one names, as if it were in it."""
    nine = compacted(9, THREE, known=known)
    twelve = compacted(12, delta(11, delta(10, nine)), known=known)
    branch = delta(5, THREE)
    for offered in (twelve, delta(13, twelve), compacted(15, delta(13, twelve), known=known)):
        with pytest.raises(InvalidInput, match="what that brought would be gone") as refused:
            published(initial_spec(range(2), [branch]), offered, keep=1)
        first = "or make m/3 live first" if known else f"or put what m/{offered.chain[0].version} follows beside it, "
        assert first in str(refused.value)
        back = published(initial_spec(range(2), [offered]), branch, keep=1)
        assert back.live == {"m": 5}, "to go back nothing has to be known"
        if known:
            three = published(initial_spec(range(2), [branch]), THREE, keep=1)
            assert published(three, offered, keep=1).live == {"m": offered.version}, "which is what it advises"
    other = replace(twelve, ancestors=(ChainLink(5, identity(77)), *twelve.ancestors))
    with pytest.raises(InvalidInput, match="what that brought would be gone"):
        published(initial_spec(range(2), [branch]), other, keep=1)


def test_what_takes_pushes_goes_on_doing_so() -> None:
    spec = published(initial_spec(range(2), [replace(ONE, live_tables=("user",))]), full(5), keep=1)
    live = spec.version("m", 5)
    assert live is not None
    assert live.live_tables == ("user",)


@pytest.mark.parametrize(
    ("open_", "next_", "error", "message"),
    [
        (
            THREE,
            delta(4, ONE),
            InvalidInput,
            "m/4 follows m/1, and m/3, which is live, is not among what it is made of: what that brought",
        ),
        (full(9), delta(10, THREE), InvalidInput, "m/10 follows m/3, of the lineage .*; m/9, which is live, is of"),
        (THREE, replace(ONE, identity=identity(77)), OtherContent, "m/1 is made of m/1 with the identity"),
        (THREE, delta(4, replace(TWO, identity=identity(77))), OtherContent, "m/4 is made of m/2 with the identity"),
    ],
)
def test_what_does_not_follow_is_refused(
    open_: PlacedVersion, next_: PlacedVersion, error: type[Exception], message: str
) -> None:
    spec = initial_spec(range(2), [open_])
    with pytest.raises(error, match=message):
        published(spec, next_, keep=1)
    assert published(spec, full(11), keep=1).live == {"m": 11}, "a full version that follows nothing may go live"


def test_deltas_of_programs_alone_are_counted() -> None:
    """All of a chain is read to bring its last version up, so it ends somewhere, and is told before that."""
    version, lengths = ONE, [chain_length(ONE)]
    for number in range(2, LONG_CHAIN + 3):
        version = program(number, version)
        lengths.append(chain_length(version))
    assert lengths == list(range(LONG_CHAIN + 2))
    assert due(initial_spec(range(2), [version])) == (
        f"m/{LONG_CHAIN + 2}: its chain has {LONG_CHAIN + 1} deltas; `ringpull compact m`, or publish a full version",
    )
    again = compacted(20, version)
    assert (chain_length(again), due(initial_spec(range(2), [again]))) == (0, ())
    assert chain_length(program(22, delta(21, again))) == 2, "what it was compacted of is none of them"


def test_what_versions_share_is_counted_once() -> None:
    one, two = (initial_spec(range(shards), [THREE]) for shards in (1, 2))
    both = replace(one, versions=(TWO, THREE))
    plan = move_plan(both, replace(two, versions=(TWO, THREE)), streamed=True)
    assert plan.shard_bytes_before == {0: 65_536 * 100 + 2 * (6_554 * 100 + 10 * 8)}
    assert sum(plan.shard_bytes_after.values()) == plan.shard_bytes_before[0]
    moved = {(move.table, move.version) for move in plan.moves}
    assert moved == {("user", 1), ("user+2", 2), ("user+2+gone", 2), ("user+3", 3), ("user+3+gone", 3)}


def test_a_chain_is_saved_and_what_has_none_is_saved_as_ever() -> None:
    for version in (THREE, compacted(9, THREE)):
        state = CoordinatorState(spec=initial_spec(range(2), [version]))
        assert state_from_dict(json.loads(json.dumps(state_to_dict(state)))) == state
    plain = state_to_dict(CoordinatorState(spec=initial_spec(range(2), [ONE])))["world"]["versions"][0]
    assert plain["tables"] == {"user": ["/m/1/user", 1, 65_536, 92, "error", 1]}
    assert not {"chain", "ancestors", "lineage_of", "live_tables", "includes"} & plain.keys()
