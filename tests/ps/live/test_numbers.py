"""Numbers, against a dict: retries, repetitions and what comes too late, in any order."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ringpull.ps.errors import LimitExceeded, StaleNumber
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS
from ringpull.ps.live import numbers
from ringpull.ps.live.numbers import NAMELESS, Numbers, slots_of
from ringpull.ps.live.record import LiveName

NAME = LiveName("ranker", 1, "user")


def slots(*which: int) -> np.ndarray:
    return np.array(which, np.uint16)


@pytest.mark.parametrize("seed", range(20))
def test_as_a_dict_has_them(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:  # slots of a push that are looked at in several goes
        monkeypatch.setattr(numbers, "AT_ONCE", 3)
    drawn, kept, truth = random.Random(seed), Numbers(), dict[tuple[str, int, int], int]()
    for _ in range(200):
        name = LiveName("ranker", 1, drawn.choice("ab"))
        writer, number = drawn.randint(1, 3), drawn.randint(1, 12)
        few = sorted(drawn.sample(range(40), drawn.randint(1, 8)))
        which = np.array([slot * drawn.choice([1, 1600]) for slot in few], np.uint16)
        which = np.unique(which)
        last = [truth.get((name.table, writer, slot), 0) for slot in which.tolist()]
        if max(last) > number:
            with pytest.raises(StaleNumber, match=f"number {number} after {max(last)}"):
                kept.check(name, writer, number, which, 0.0)
            continue
        found = kept.check(name, writer, number, which, 0.0)
        assert (found.of_slots.tolist(), found.largest) == (last, max(last))
        kept.put(name, writer, which, number, 0.0)
        truth.update({(name.table, writer, slot): number for slot in which.tolist()})
    told = {
        (name.table, writer, slot): number
        for name, writer, used, last in kept.all()
        for slot, number in zip(used.tolist(), last.tolist(), strict=True)
    }
    assert told == truth


def test_a_writer_of_every_slot() -> None:
    kept = Numbers()
    every = np.arange(65536, dtype=np.uint16)
    kept.put(NAME, 7, slots(3, 9), 1, 0.0)
    kept.put(NAME, 7, every, 2, 0.0)
    kept.put(NAME, 7, slots(65535), 5, 0.0)
    assert kept.last(NAME, 7, slots(3, 4, 65535)).tolist() == [2, 2, 5]


@pytest.mark.parametrize("at_once", [numbers.AT_ONCE, 7])
def test_slots_and_numbers_of_many_positions(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(numbers, "AT_ONCE", at_once)
    kept, positions = Numbers(), np.random.default_rng(1).integers(0, 2**64, 70_000, np.uint64)
    kept.put(NAME, 7, np.arange(SLOTS, dtype=np.uint16), 3, 0.0)
    touched = slots_of(positions)
    assert touched.tolist() == (positions >> np.uint64(SLOT_SHIFT)).tolist()
    kept.put(NAME, 7, touched[-5:], 9, 0.0)
    found = kept.check(NAME, 7, 9, touched, 0.0)
    assert found.largest == 9
    assert found.of_slots.tolist() == np.where(np.isin(touched, touched[-5:]), 9, 3).tolist()
    with pytest.raises(StaleNumber, match="number 8 after 9"):
        kept.check(NAME, 7, 8, touched, 0.0)


def test_what_is_put_back_counts_as_none() -> None:
    kept = Numbers()
    before = kept.check(NAME, 7, 4, slots(1, 2), 0.0).of_slots
    kept.put(NAME, 7, slots(1, 2), 4, 0.0)
    kept.put(NAME, 7, slots(1, 2), before, 0.0)
    assert kept.check(NAME, 7, 1, slots(1, 2), 0.0).of_slots.tolist() == [0, 0]
    assert [used.size for _, _, used, _ in kept.all()] == [0]


def test_writers_are_bounded_and_only_nameless_ones_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "MAX_WRITERS", 2)
    kept = Numbers()
    kept.put(NAME, 7, slots(1), 4, 0.0)
    kept.put(NAME, 8 | NAMELESS, slots(1), 4, 0.0)
    with pytest.raises(LimitExceeded, match="MAX_WRITERS"):
        kept.check(NAME, 9, 1, slots(1), 0.0)
    assert kept.forget(numbers.FORGET_AFTER_S) == 0
    assert kept.forget(numbers.FORGET_AFTER_S + 1) == 1
    assert kept.check(NAME, 9, 1, slots(1), 0.0).of_slots.tolist() == [0]
    with pytest.raises(StaleNumber):
        kept.check(NAME, 7, 3, slots(1), 0.0)


def test_nameless_writers_leave_places_for_those_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "MAX_WRITERS", 10)
    monkeypatch.setattr(numbers, "KEPT_FOR_NAMES", 2)
    kept = Numbers()
    for writer in range(1, 9):
        kept.check(NAME, writer | NAMELESS, 1, slots(1), 0.0)
        kept.put(NAME, writer | NAMELESS, slots(1), 1, 0.0)
    with pytest.raises(LimitExceeded, match="of which 2 are for those with a name"):
        kept.check(NAME, 9 | NAMELESS, 1, slots(1), 0.0)
    kept.check(NAME, 1 | NAMELESS, 2, slots(1), 0.0)  # which is known
    for writer in (1, 2):
        kept.check(NAME, writer, 1, slots(1), 0.0)
        kept.put(NAME, writer, slots(1), 1, 0.0)
    with pytest.raises(LimitExceeded, match="MAX_WRITERS"):
        kept.check(NAME, 3, 1, slots(1), 0.0)
    kept.check(NAME, 9 | NAMELESS, 1, slots(1), numbers.FORGET_AFTER_S + 1)


def test_nameless_writers_that_went_long_ago_make_room_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "MAX_WRITERS", 2)
    kept = Numbers()
    for writer in (1, 2):
        kept.put(NAME, writer | NAMELESS, slots(1), 4, 0.0)
    assert kept.check(NAME, 9, 1, slots(1), numbers.FORGET_AFTER_S + 1).of_slots.tolist() == [0]


def test_slots_of_all_writers_are_bounded_by_the_log_also_as_they_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "MIN_SLOTS_KEPT", 0)
    kept = Numbers(numbers.LOG_BYTES_PER_SLOT * 4)
    kept.put(NAME, 7, slots(1, 2, 1), 4, 0.0)
    kept.put(NAME, 8, slots(3), 4, 0.0)
    assert kept.slots == 3
    with pytest.raises(LimitExceeded, match=r"--log-limit.* is one more"):
        kept.check(NAME, 9, 1, slots(1, 2), 0.0)
    with pytest.raises(LimitExceeded, match=r"--log-limit.* has 2 of them and would have 2 more"):
        kept.check(NAME, 7, 5, slots(1, 9, 9, 10), 0.0)
    assert kept.check(NAME, 7, 5, slots(1, 9, 9), 0.0).of_slots.tolist() == [4, 0, 0]
    kept.put(NAME, 7, slots(1, 9, 9), 5, 0.0)
    assert kept.slots == 4
    assert kept.check(NAME, 8, 5, slots(3), 0.0).of_slots.tolist() == [4]  # which needs no room
    with pytest.raises(LimitExceeded):
        kept.check(NAME, 8, 5, slots(4), 0.0)
    kept.drop(NAME)
    assert kept.slots == 0


def test_a_writer_that_comes_to_use_many_slots_takes_the_room_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "MIN_SLOTS_KEPT", SLOTS + 2)
    kept, many = Numbers(0), np.arange(0, SLOTS, 3, dtype=np.uint16)
    for writer in (7, 8):
        kept.put(NAME, writer, slots(5), 1, 0.0)
    kept.check(NAME, 7, 2, many, 0.0)
    kept.put(NAME, 7, many, 2, 0.0)
    assert kept.slots == SLOTS + 1
    with pytest.raises(LimitExceeded, match=f"would have {SLOTS - 1} more"):
        kept.check(NAME, 8, 2, many, 0.0)
    kept.check(NAME, 7, 3, slots(1), 0.0)


@pytest.mark.parametrize("what", ["writers", "slots"])
def test_writers_with_a_name_are_forgotten_where_others_need_their_place_the_oldest_first(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(numbers, "MAX_WRITERS", 3 if what == "writers" else 9)
    monkeypatch.setattr(numbers, "MIN_SLOTS_KEPT", 3 if what == "slots" else 9)
    kept, day_s = Numbers(0), numbers.NAMED_KEPT_S
    for writer, seen_s in ((3, 2.0), (1, 0.0), (2, 1.0)):
        kept.put(NAME, writer, slots(1), 4, seen_s)
    assert kept.forget(3 * day_s) == 0  # nobody needs theirs
    with pytest.raises(LimitExceeded, match="others 24 h"):
        kept.check(NAME, 9, 1, slots(5), day_s)
    kept.check(NAME, 9, 1, slots(5), day_s + 0.5)
    kept.put(NAME, 9, slots(5), 1, day_s + 0.5)
    assert {writer for _, writer, _, _ in kept.all()} == {2, 3, 9}
    if what == "slots":
        kept.check(NAME, 2, 5, slots(6), 3 * day_s)  # of another one: its own stay
        assert {writer for _, writer, _, _ in kept.all()} == {2, 9}


def test_a_restart_that_finds_more_than_there_may_be_comes_down_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "MIN_SLOTS_KEPT", 2)
    kept = Numbers(0)
    for writer in range(1, 6):
        kept.put(NAME, writer, slots(1), 4, 0.0)
    assert kept.forget(numbers.NAMED_KEPT_S) == 0
    assert kept.forget(numbers.NAMED_KEPT_S + 1) == 3
    assert kept.slots == 2


def test_a_writer_of_many_slots_has_a_place_for_each_and_keeps_what_it_had() -> None:
    kept, few = Numbers(), slots(7, 9)
    kept.put(NAME, 7, few, 4, 0.0)
    many = np.arange(0, 65_536, 3, dtype=np.uint16)
    kept.put(NAME, 7, many, 5, 0.0)
    assert kept.last(NAME, 7, slots(7, 8, 9, 3)).tolist() == [4, 0, 5, 5]
    assert kept.slots == 65_536


@pytest.mark.parametrize("writer", [7, 7 | NAMELESS])
def test_a_writer_that_needs_no_more_room_pushes_however_little_there_is(
    monkeypatch: pytest.MonkeyPatch, writer: int
) -> None:
    """As after a restart with a smaller log, which finds more than there may be."""
    monkeypatch.setattr(numbers, "MIN_SLOTS_KEPT", 2)
    kept = Numbers(0)
    for each in (writer, 8, 9):
        kept.put(NAME, each, slots(1, 2), 4, 0.0)
    for number in (4, 5):  # a repetition, and a new push
        assert kept.check(NAME, writer, number, slots(2, 1), 0.0).of_slots.tolist() == [4, 4]
    with pytest.raises(StaleNumber):
        kept.check(NAME, writer, 3, slots(1), 0.0)
    with pytest.raises(LimitExceeded, match="would have 1 more"):
        kept.check(NAME, writer, 5, slots(1, 3), 0.0)


def test_nameless_writers_are_taken_beside_many_names_and_take_no_place_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "MAX_WRITERS", 10)
    monkeypatch.setattr(numbers, "KEPT_FOR_NAMES", 2)
    kept, late_s = Numbers(), numbers.NAMED_KEPT_S + 1
    for writer in range(1, 10):
        kept.put(NAME, writer, slots(1), 1, 0.0)
    kept.check(NAME, 1 | NAMELESS, 1, slots(1), 0.0)
    kept.put(NAME, 1 | NAMELESS, slots(1), 1, late_s)
    with pytest.raises(LimitExceeded, match="MAX_WRITERS"):
        kept.check(NAME, 2 | NAMELESS, 1, slots(1), late_s)
    assert len(list(kept.all())) == 10
    kept.drop(NAME)
    for writer in range(8):
        kept.check(NAME, writer | NAMELESS, 1, slots(1), 0.0)
        kept.put(NAME, writer | NAMELESS, slots(1), 1, 0.0)
