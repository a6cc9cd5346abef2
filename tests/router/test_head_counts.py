"""Counts of heads: reports in any order and over any way give the same sums; nothing grows without end."""

from __future__ import annotations

from random import Random

import pytest

from ringpull.router.control.head_counts import (
    LET_GO_KEPT,
    MAX_LIVES,
    OVERALL,
    STEPS,
    CountsOfHeads,
    HeadCounts,
    KnownTotals,
    summed,
)

RANKER = ("ranker", 7)


def test_of_reports_in_any_order_the_newest_holds() -> None:
    reports = [HeadCounts({RANKER: (calls, 2 * calls)}, {("ranker", 100): (calls,)}) for calls in range(20)]
    Random(1).shuffle(reports)
    counts = CountsOfHeads()
    for report in (*reports, *reports[:5]):
        counts.take("life-1", report)
    gathered = counts.gathered("another")
    assert gathered.totals == {"life-1": {RANKER: (19, 38)}}
    assert gathered.recent == {("ranker", 100): (19,)}


def test_steps_are_summed_over_all_lives_but_that_which_asks() -> None:
    counts = CountsOfHeads()
    for life in (1, 2, 3):
        counts.take(f"life-{life}", HeadCounts({}, {("ranker", 100): (10**life, 1)}))
    assert counts.gathered("life-1").recent == {("ranker", 100): (1100, 2)}
    assert counts.gathered("nobody").recent == {("ranker", 100): (1110, 3)}


def test_steps_grow_old() -> None:
    counts = CountsOfHeads()
    counts.take("life-1", HeadCounts({}, {("ranker", step): (1,) for step in range(100, 100 + STEPS)}))
    counts.take("life-2", HeadCounts({}, {("ranker", 100 + STEPS): (1,)}))
    assert sorted(step for _, step in counts.gathered("nobody").recent) == list(range(101, 101 + STEPS))


def test_what_a_life_has_counted_stays_when_it_has_ended() -> None:
    counts = CountsOfHeads()
    counts.take("before", HeadCounts({RANKER: (5,), OVERALL: (6, 1)}))
    counts.take("after", HeadCounts({RANKER: (1,), OVERALL: (1, 0)}))
    assert summed(counts.gathered("after").totals.values()) == {RANKER: (6,), OVERALL: (7, 1)}


def test_a_new_coordinator_hears_of_ended_lives_from_heads_that_were_told() -> None:
    before, told, after = CountsOfHeads(), KnownTotals(), CountsOfHeads()
    before.take("ended", HeadCounts({RANKER: (5,)}))
    for life, totals in before.gathered("asker").totals.items():
        told.take(life, totals)
    after.take_known(told.by_life())
    assert after.gathered("asker").totals == {"ended": {RANKER: (5,)}}


def test_of_versions_that_are_let_go_of_the_last_ones_are_kept() -> None:
    counts = CountsOfHeads()
    for version in range(1, LET_GO_KEPT + 10):
        counts.take("life-1", HeadCounts({RANKER: (5,), ("passing", version): (1,), OVERALL: (version, 0)}))
        counts.keep_only({RANKER})
    kept = {("passing", version): (1,) for version in range(10, LET_GO_KEPT + 10)}
    assert counts.gathered("").totals == {"life-1": {RANKER: (5,), **kept, OVERALL: (LET_GO_KEPT + 9, 0)}}


def test_what_goes_round_between_those_who_keep_it_does_not_grow() -> None:
    coordinator, head = CountsOfHeads(), KnownTotals()
    for version in range(1, 500):
        coordinator.take("life-1", HeadCounts({("passing", version): (1,)}))
        coordinator.take_known(head.by_life())
        coordinator.keep_only({("passing", version)})
        for life, totals in coordinator.gathered("").totals.items():
            head.take(life, totals)
        assert ("passing", version) in head.by_life()["life-1"]
        head.keep_only({("passing", version)})
    assert len(head.by_life()["life-1"]) == LET_GO_KEPT + 1


def test_a_head_that_ends_again_and_again_does_not_fill_the_memory() -> None:
    known = KnownTotals()
    for life in range(MAX_LIVES + 10):
        known.take(f"life-{life}", {RANKER: (1,)})
    assert list(known.by_life()) == [f"life-{life}" for life in range(10, MAX_LIVES + 10)]


@pytest.mark.parametrize("longer", [(1, 2, 3), (1, 2)])
def test_a_report_of_a_build_that_counts_more_is_taken(longer: tuple[int, ...]) -> None:
    known = KnownTotals()
    known.take("life-1", {RANKER: (4, 1)})
    known.take("life-1", {RANKER: longer})
    assert known.by_life() == {"life-1": {RANKER: (4, 2, 3)[: max(2, len(longer))]}}
