"""Calls that are begun in time or not at all, by the called process's own clock."""

from __future__ import annotations

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
