"""Calls that are begun in time or not at all, by the called process's own clock."""

from __future__ import annotations

import time

import pytest

from ringpull.deploy.cluster.in_time import Clock
from ringpull.ps.errors import Unavailable


def test_a_call_has_what_is_left_of_its_time() -> None:
    now_s = 100.0
    clock = Clock(lambda: now_s)
    ticket = clock.ticket()
    now_s = 104.0
    assert clock.left_s(ticket, 10.0) == 6.0


def test_one_that_lay_in_a_queue_for_too_long_is_not_begun() -> None:
    now_s = 100.0
    clock = Clock(lambda: now_s)
    ticket = clock.ticket()
    now_s = 112.5
    with pytest.raises(Unavailable, match=r"2\.5 s too late; nothing was begun"):
        clock.left_s(ticket, 10.0)


def test_one_for_an_earlier_process_is_not_begun_whatever_the_clocks_say() -> None:
    before, after = Clock(lambda: 100.0), Clock(lambda: 0.0)
    with pytest.raises(Unavailable, match="restarted meanwhile; nothing was begun"):
        after.left_s(before.ticket(), 10.0)


def test_time_in_which_the_machine_was_suspended_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """`time.monotonic` stands still meanwhile."""
    asleep_s = 0.0
    gettime = time.clock_gettime

    def with_sleep(clock: int) -> float:
        return gettime(clock) + (asleep_s if clock == time.CLOCK_BOOTTIME else 0.0)

    monkeypatch.setattr("time.clock_gettime", with_sleep)
    clock = Clock()
    ticket = clock.ticket()
    asleep_s = 60.0
    with pytest.raises(Unavailable, match="too late; nothing was begun"):
        clock.left_s(ticket, 10.0)
