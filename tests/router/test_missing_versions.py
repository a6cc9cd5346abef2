"""What members lack: what may pass in a moment is told again, and noted only where it lasts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringpull.ps.errors import CorruptData, NotChecked, RingpullError, Unavailable
from ringpull.ps.placement import VersionPlacement
from ringpull.ps.refusals import NotOpened
from ringpull.ps.ring import Ring
from ringpull.router.control.change import Change, CoordinatorState, Kind, Phase
from ringpull.router.control.deployment_spec import PlacedVersion, initial_spec
from ringpull.router.control.events import Load, Prepare
from ringpull.router.control.missing_versions import AWAY_TRIES, PATIENCE, note_loaded, note_missing, rows_stay_away
from ringpull.router.control.observed import ObservedHead, ObservedShard
from ringpull.router.shard_map import ShardAddress, ShardMap

ONE, TWO = PlacedVersion("m", 1, "/m/1", {}), PlacedVersion("n", 2, "/n/2", {})
STATE = CoordinatorState(spec=initial_spec([0], [ONE, TWO]), spec_id=3)
ADDRESS = ShardAddress(0, "127.0.0.1", 1)
LOAD = Load(0, "a", (ONE, TWO), ShardMap(1, (ADDRESS,), Ring.even([0]), {}))
PREPARE = Prepare(0, "a", frozenset({3}), tuple(VersionPlacement(each.model, each.version, {}) for each in (ONE, TWO)))
BUSY = NotOpened("m/1: busy", {("m", 1): Unavailable("no shard answers yet")})
LOST = NotOpened("m/1: damaged", {("m", 1): CorruptData("damaged")})


def head_after(head: ObservedHead, *errors: RingpullError) -> ObservedHead:
    for error in errors:
        note_missing(STATE, {}, {0: head}, LOAD, error)
    return head


def test_a_head_waits_for_what_may_pass() -> None:
    head = head_after(ObservedHead("a"), *[BUSY] * (PATIENCE - 1))
    assert (head.loaded, head.missing) == ({("n", 2)}, set()), "so it is told to load it again"
    note_loaded(head, frozenset({("m", 1)}))
    head_after(head, *[BUSY] * (PATIENCE - 1))
    assert head.missing == set(), "and after it was loaded is patient anew"


def test_what_lasts_holds_the_others_of_a_head_up_no_longer() -> None:
    head = head_after(ObservedHead("a"), *[BUSY] * PATIENCE)
    assert head.missing == {("m", 1)}
    assert head_after(head, BUSY, BUSY).missing == {("m", 1)}, "and stays noted when it is tried again"


def test_what_does_not_pass_is_noted_at_once() -> None:
    assert head_after(ObservedHead("a"), LOST).missing == {("m", 1)}


@pytest.mark.parametrize(("error", "times"), [(BUSY, PATIENCE), (LOST, 1)])
def test_a_shard_waits_too(error: RingpullError, times: int) -> None:
    shard = ObservedShard("a", ADDRESS, "node")
    for i in range(times):
        assert (shard.stored, shard.missing) == (set(), set()), i
        note_missing(STATE, {0: shard}, {}, PREPARE, error)
    assert (shard.stored, shard.missing) == ({3}, {("m", 1)})


NEXT = PlacedVersion("o", 1, "/o/1", {})
NO_ROWS = NotChecked("self-check of o/1: no live shard has 3 keys of table t")
COMING = replace(STATE, change=Change(4, Kind.LOAD, "o/1", initial_spec([0], [ONE, TWO, NEXT]), Phase.LOADING))


@pytest.mark.parametrize("error", [NO_ROWS, NotOpened("both", {("o", 1): NO_ROWS})], ids=["alone", "among others"])
def test_rows_that_every_shard_serves_and_nobody_answers_for_end_a_change(error: RingpullError) -> None:
    head = ObservedHead("a")
    load = replace(LOAD, versions=(NEXT,) if error is NO_ROWS else (NEXT, TWO))

    def stay_away(all_serve: bool = True, error: RingpullError = error) -> bool:
        return rows_stay_away(COMING, {0: head}, load, error, all_serve=all_serve)

    assert not any(stay_away() for _ in range(AWAY_TRIES - 1))
    assert not stay_away(all_serve=False), "a shard that is being started is waited for"
    assert not any(stay_away() for _ in range(AWAY_TRIES - 1)), "and counted anew"
    assert not stay_away(error=Unavailable("the disk is away"))
    assert [stay_away() for _ in range(AWAY_TRIES)] == [False] * (AWAY_TRIES - 1) + [True]


def test_rows_of_what_is_live_are_waited_for() -> None:
    head = ObservedHead("a")
    for _ in range(2 * AWAY_TRIES):
        assert not rows_stay_away(COMING, {0: head}, replace(LOAD, versions=(ONE,)), NO_ROWS, all_serve=True)
