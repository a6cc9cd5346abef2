"""Headroom: a round of folding begins the later the less was pushed in the time of the last ones, within bounds."""

from __future__ import annotations

import numpy as np
import pytest

from ringpull.ps.live.headroom import LEAST_SHARE, MARGIN, MOST_SHARE, ROUNDS, SAMPLE_S, Headroom

LIMIT = 1 << 30
LEAST, MOST = LIMIT // LEAST_SHARE, LIMIT // MOST_SHARE
BETWEEN = (LEAST + MOST) // 2
ROUND_S = 0.8
FAST = BETWEEN / ROUND_S
"""Bytes a second at which so many are pushed in the time of a round."""


class Pushed:
    """A log that grows as it is told, and what looks at it."""

    def __init__(self) -> None:
        self.now_s, self.bytes = 100.0, 0
        self.headroom = Headroom(lambda: self.now_s)

    def push(self, bytes_per_s: float, seconds: float) -> None:
        """Push at a rate, with a look every 20 ms."""
        begin_s, begin_bytes = self.now_s, self.bytes
        for since_s in np.arange(0.0, seconds + 0.001, 0.02):
            self.now_s, self.bytes = begin_s + since_s, begin_bytes + int(bytes_per_s * since_s)
            self.headroom.looked(self.bytes)

    def fold(self, seconds: float = ROUND_S, logged_bytes: int = 0) -> None:
        """End a round, after which the log has what was logged meanwhile."""
        self.now_s, self.bytes = self.now_s + seconds, logged_bytes
        self.headroom.ended(seconds, logged_bytes)

    @property
    def free(self) -> int:
        return self.headroom.of(LIMIT)


@pytest.fixture
def pushed() -> Pushed:
    return Pushed()


def test_before_the_first_round_half_is_free(pushed: Pushed) -> None:
    assert pushed.free == MOST
    pushed.push(1e6, 10)
    assert pushed.free == MOST


def test_short_rounds_and_few_pushes_leave_a_quarter(pushed: Pushed) -> None:
    pushed.push(1e6, 10)
    pushed.fold()
    assert pushed.free == LEAST


def test_twice_what_was_pushed_in_a_round_is_free(pushed: Pushed) -> None:
    pushed.fold(10.0, BETWEEN // MARGIN)
    assert pushed.free == pytest.approx(BETWEEN, rel=0.001)


def test_what_the_highest_rate_makes_in_the_longest_round_is_free(pushed: Pushed) -> None:
    pushed.push(FAST, 2)
    pushed.fold()
    assert pushed.free == pytest.approx(BETWEEN, rel=0.05)


def test_never_more_than_half_is(pushed: Pushed) -> None:
    pushed.fold(60.0, LIMIT)
    assert pushed.free == MOST


def test_a_rate_that_is_seen_since_the_last_round_counts_at_once(pushed: Pushed) -> None:
    pushed.fold()
    assert pushed.free == LEAST
    pushed.push(FAST, 2 * SAMPLE_S)
    assert pushed.free == pytest.approx(BETWEEN, rel=0.05)


def test_the_longest_round_and_the_highest_rate_of_the_last_ones_count(pushed: Pushed) -> None:
    pushed.fold()
    pushed.push(FAST, 1)
    for _ in range(ROUNDS - 1):
        pushed.fold(0.1)
        assert pushed.free == pytest.approx(BETWEEN, rel=0.05)
        pushed.push(1e6, 1)


def test_a_round_that_took_long_once_is_forgotten(pushed: Pushed) -> None:
    pushed.fold(60.0, LIMIT)
    for _ in range(ROUNDS - 1):
        pushed.fold(0.1)
    assert pushed.free == MOST
    pushed.fold(0.1)
    assert pushed.free == LEAST


def test_one_group_in_no_time_is_no_rate(pushed: Pushed) -> None:
    """A round of few rows takes a thousandth of a second, and what comes meanwhile is one group."""
    pushed.fold(0.001, 8 << 20)
    pushed.fold(1.0)
    assert pushed.free == LEAST


def test_a_log_that_got_shorter_is_no_rate(pushed: Pushed) -> None:
    """A round that failed half way leaves it so."""
    pushed.fold()
    for size in (LIMIT, 0, 1000):
        pushed.headroom.looked(size)
        pushed.now_s += 1
    assert pushed.free == LEAST


def test_some_is_free_in_any_case_up_to_half(pushed: Pushed) -> None:
    pushed.fold(0.1)
    assert pushed.headroom.of(LIMIT, BETWEEN) == BETWEEN
    assert pushed.headroom.of(LIMIT, LIMIT) == MOST
