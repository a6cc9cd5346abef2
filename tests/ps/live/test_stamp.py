"""Stamps that a shard gave: they rise, are told from those of another deployment, and are known again from a log."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ringpull.ps.live.stamp import EPOCH_SHIFT, LOST_TAIL, MIN_DRAWN, NO_STAMP, GivenStamps


def given_over(epochs: list[int], last: int = NO_STAMP) -> tuple[GivenStamps, list[int]]:
    given, stamps = GivenStamps(), list[int]()
    given.of_earlier_build(last)
    for epoch in epochs:
        stamps.append(last := given.next(last, epoch))
        given.took(last)
    return given, stamps


@pytest.mark.parametrize("last", [NO_STAMP, 3 << EPOCH_SHIFT | 9])
def test_stamps_rise_and_are_known_as_given(last: int) -> None:
    epochs = sorted(random.Random(1).choices(range(1, 9), k=200))
    given, stamps = given_over(epochs, last)
    assert stamps == sorted(set(stamps))
    assert stamps[0] > last
    assert [given.bound(each) for each in stamps] == stamps
    assert max(stamps) < 9 << EPOCH_SHIFT


def test_an_epoch_that_goes_back_goes_on_as_it_was() -> None:
    _, stamps = given_over([7, 7, 2, 7])
    assert [each - stamps[0] for each in stamps] == [0, 1, 2, 3]


def test_those_of_another_deployment_are_not_its_own() -> None:
    given, stamps = given_over([1, 1, 4])
    _, others = given_over([1, 1, 3, 4, 5])
    plain = [epoch << EPOCH_SHIFT | count for epoch in range(6) for count in (0, 1, 1000)]
    for foreign in [*others, *plain, 2**64 - 1, stamps[0] - 1]:
        assert given.bound(foreign) == NO_STAMP, foreign


def test_a_stamp_of_a_push_that_failed_at_the_end_of_a_run_is_its_own() -> None:
    given, stamps = given_over([1, 1])
    assert given.bound(stamps[-1] + LOST_TAIL) == stamps[-1] + LOST_TAIL
    assert given.bound(stamps[-1] + LOST_TAIL + 1) == NO_STAMP


def test_a_start_that_no_push_used_is_used_by_the_next_one() -> None:
    given = GivenStamps()
    first = given.next(NO_STAMP, 1)
    assert given.next(NO_STAMP, 1) == first
    assert len(given.runs) == 2


def test_all_stamps_of_an_earlier_build_are_its_own_up_to_the_last_and_none_after_it() -> None:
    last = 5 << EPOCH_SHIFT | 12
    given, (stamp,) = given_over([5], last)
    assert stamp >> EPOCH_SHIFT == 5
    assert stamp & MIN_DRAWN
    assert [given.bound(each) for each in (1, 3 << EPOCH_SHIFT, last)] == [1, 3 << EPOCH_SHIFT, last]
    assert given.bound(last + 1) == NO_STAMP, "it was none, and none that is given now can be at or below it"


def test_what_a_log_says_and_the_pushes_since_are_what_was_given() -> None:
    given, stamps = given_over([1, 2, 2, 5])
    again = GivenStamps()
    again.restore(np.asarray(given.runs))
    for epoch in (5, 6):
        last = given.next(stamps[-1], epoch)
        given.took(last)
        again.took(last)
        stamps.append(last)
    assert again.runs.tolist() == given.runs.tolist()
    assert again.next(stamps[-1], 6) == stamps[-1] + 1
