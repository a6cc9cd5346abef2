"""Retries on a clock and a chance of the test's own: whether, when, where and how often."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.client.retry import (
    AVOID_S,
    BUDGET_RATIO,
    BUDGET_RESERVE,
    FIRST_PAUSE_S,
    LATER_BY,
    LONGEST_PAUSE_S,
    MAX_TURNED_AWAY,
    Attempts,
    Failure,
    RetryBudget,
    Retrying,
)
from ringpull.inference.client.rotation import Rotation
from ringpull.ps.errors import DeadlineExceeded, InvalidInput, LimitExceeded, RingpullError, Unavailable
from tests.clock import Clock

LOST = Failure(Unavailable, "a:1: Socket closed", "UNAVAILABLE (Socket closed)", may_retry=True)
REFUSED = Failure(InvalidInput, "feature x", "INVALID_ARGUMENT (feature x)", may_retry=False)
LATE = Failure(DeadlineExceeded, "Deadline Exceeded", "DEADLINE_EXCEEDED (Deadline Exceeded)", may_retry=False)


def busy(retry_after_s: float | None) -> Failure:
    return Failure(LimitExceeded, "queue", "RESOURCE_EXHAUSTED (queue)", retry_after_s is not None, retry_after_s)


def longest(low: float, high: float) -> float:
    """A chance that always pauses as long as it may."""
    return high


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


def retrying(
    clock: Clock, *, retries: int = 4, channels: int = 2, uniform: Callable[[float, float], float] = longest
) -> Retrying:
    return Retrying(Rotation(["a:1"] * channels), retries, clock=clock, uniform=uniform)


def go_on(clock: Clock, attempts: Attempts, failure: Failure) -> float:
    """Let an attempt fail, pause as told, and return for how long."""
    pause_s = attempts.failed(failure)
    assert pause_s is not None
    clock.now_s += pause_s
    attempts.resume()
    return pause_s


def test_a_retry_takes_another_channel_and_what_time_is_left(clock: Clock) -> None:
    attempts = retrying(clock).begin(2.0)
    assert (attempts.channel, attempts.left_s) == (0, 2.0)
    clock.now_s += 0.5
    pause_s = go_on(clock, attempts, LOST)
    assert (attempts.channel, attempts.left_s) == (1, pytest.approx(2.0 - 0.5 - pause_s))


def test_pauses_double_up_to_the_longest(clock: Clock) -> None:
    attempts = retrying(clock, retries=2000).begin(1e6)
    pauses = [go_on(clock, attempts, LOST) for _ in range(50)]
    assert pauses[:3] == pytest.approx([FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S])
    assert pauses[-1] == LONGEST_PAUSE_S


def test_a_pause_leaves_half_the_time_to_the_attempt_that_follows(clock: Clock) -> None:
    attempts = retrying(clock).begin(0.01)
    assert go_on(clock, attempts, LOST) == pytest.approx(0.005)


def test_the_last_failure_is_raised_and_names_the_causes_before_it(clock: Clock) -> None:
    attempts = retrying(clock, retries=3).begin(10.0)
    for _ in range(2):
        go_on(clock, attempts, LOST)
    go_on(clock, attempts, busy(0.1))
    assert attempts.failed(LOST) is None
    error = attempts.error()
    assert type(error) is Unavailable
    assert str(error) == (
        "a:1: Socket closed (4 attempts failed); "
        "before that: 2 x UNAVAILABLE (Socket closed), RESOURCE_EXHAUSTED (queue)"
    )


def test_what_no_retry_helps_is_raised_at_once_as_it_is(clock: Clock) -> None:
    attempts = retrying(clock).begin(10.0)
    assert attempts.failed(REFUSED) is None
    assert (type(attempts.error()), str(attempts.error())) == (InvalidInput, "feature x")


def test_a_deadline_that_passes_in_a_retry_names_what_went_before(clock: Clock) -> None:
    attempts = retrying(clock).begin(10.0)
    go_on(clock, attempts, LOST)
    assert attempts.failed(LATE) is None
    error = attempts.error()
    assert type(error) is DeadlineExceeded
    assert str(error) == "Deadline Exceeded; before that: UNAVAILABLE (Socket closed)"


def test_a_call_whose_time_is_over_is_late_whatever_it_was_told_last(clock: Clock) -> None:
    attempts = retrying(clock).begin(1.0)
    clock.now_s += 1.0
    assert attempts.failed(LOST) is None
    assert type(attempts.error()) is DeadlineExceeded


CANCELLED = Failure(Unavailable, "a:1: CANCELLED", "CANCELLED (CANCELLED)", True, cancelled=True, turned_away=True)


@pytest.mark.parametrize("retries", [0, 4])
@pytest.mark.parametrize("left_s", [0.009, 0.002, 0.0, -0.5])
def test_a_cancel_just_before_the_deadline_is_a_deadline_missed(clock: Clock, retries: int, left_s: float) -> None:
    """Clocks tick in milliseconds: the server's may be first."""
    attempts = retrying(clock, retries=retries).begin(1.0)
    clock.now_s += 1.0 - left_s
    assert attempts.failed(CANCELLED) is None
    assert type(attempts.error()) is DeadlineExceeded


def test_a_cancel_long_before_the_deadline_is_none(clock: Clock) -> None:
    attempts = retrying(clock, retries=0).begin(1.0)
    clock.now_s += 0.9
    assert attempts.failed(CANCELLED) is None
    assert type(attempts.error()) is Unavailable


def test_a_connection_that_is_lost_just_before_the_deadline_is_told_as_such(clock: Clock) -> None:
    attempts = retrying(clock, retries=0).begin(1.0)
    clock.now_s += 0.998
    assert attempts.failed(LOST) is None
    assert type(attempts.error()) is Unavailable


def test_who_is_turned_away_comes_back_until_its_time_is_up_and_takes_no_budget(clock: Clock) -> None:
    shared = retrying(clock, retries=1)
    while shared.budget.spend():
        pass
    attempts = shared.begin(30.0)
    pauses = [go_on(clock, attempts, CANCELLED) for _ in range(20)]
    assert pauses[:3] == pytest.approx([FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S])
    assert pauses[-1] == LONGEST_PAUSE_S
    attempts = shared.begin(1e6)
    for _ in range(MAX_TURNED_AWAY):
        go_on(clock, attempts, CANCELLED)
    assert attempts.failed(CANCELLED) is None, "but not for ever"
    assert f"{MAX_TURNED_AWAY + 1} attempts failed" in str(attempts.error())


def test_without_retries_an_error_is_as_the_server_gave_it(clock: Clock) -> None:
    attempts = retrying(clock, retries=0).begin(10.0)
    assert attempts.failed(LOST) is None
    assert str(attempts.error()) == LOST.text


def test_a_server_that_says_when_is_obeyed(clock: Clock) -> None:
    """Not before, a little later; and meanwhile other calls take other channels."""
    shared = retrying(clock, channels=3)
    attempts = shared.begin(10.0)
    pause_s = attempts.failed(busy(3.0))
    assert pause_s == pytest.approx(3.0 * (1 + LATER_BY))
    assert {shared.begin(1.0).channel for _ in range(6)} == {1, 2}
    clock.now_s += 3.0
    assert {shared.begin(1.0).channel for _ in range(6)} == {0, 1, 2}


def test_a_wait_that_does_not_fit_is_not_begun(clock: Clock) -> None:
    attempts = retrying(clock).begin(1.0)
    assert attempts.failed(busy(2.0)) is None
    error = attempts.error()
    assert isinstance(error, LimitExceeded)
    assert error.retry_after_s == 2.0
    assert str(error) == "queue (no time is left to try again)"


def test_a_limit_without_a_hint_is_final(clock: Clock) -> None:
    attempts = retrying(clock).begin(1.0)
    assert attempts.failed(busy(None)) is None
    error = attempts.error()
    assert isinstance(error, LimitExceeded)
    assert error.retry_after_s is None


def test_a_channel_that_failed_is_avoided_by_other_calls_for_a_while(clock: Clock) -> None:
    shared = retrying(clock)
    shared.begin(1.0).failed(LOST)
    assert {shared.begin(1.0).channel for _ in range(4)} == {1}
    clock.now_s += AVOID_S
    assert {shared.begin(1.0).channel for _ in range(4)} == {0, 1}


def test_no_time_at_all_is_an_error_before_anything_is_sent(clock: Clock) -> None:
    with pytest.raises(DeadlineExceeded, match="timeout_s is 0"):
        retrying(clock).begin(0)


def test_a_negative_number_of_retries_is_refused(clock: Clock) -> None:
    with pytest.raises(InvalidInput, match="retries is -1"):
        retrying(clock, retries=-1)


def attempts_when_all_fails(shared: Retrying, clock: Clock) -> int:
    """Make one call that fails to its end; return how often it went out."""
    attempts = shared.begin(10.0)
    for made in range(1, 100):
        pause_s = attempts.failed(LOST)
        if pause_s is None:
            assert isinstance(attempts.error(), RingpullError)
            return made
        clock.now_s += pause_s
        attempts.resume()
    raise AssertionError("it never ends")


def test_when_everything_fails_retries_stay_below_their_part_of_the_calls(clock: Clock) -> None:
    shared = retrying(clock)
    calls = 5000
    sent = sum(attempts_when_all_fails(shared, clock) for _ in range(calls))
    assert calls < sent <= calls * (1 + BUDGET_RATIO) + BUDGET_RESERVE
    last = shared.begin(1.0)
    while last.failed(LOST) is not None:
        last = shared.begin(1.0)
    assert "too many calls fail" in str(last.error())


@given(st.lists(st.booleans(), max_size=300), st.floats(0, 1), st.floats(0, 20), st.floats(20, 50))
def test_the_budget_never_gives_more_than_was_put_in(story, ratio, reserve, most) -> None:
    budget = RetryBudget(ratio, reserve, most)
    earned = spent = 0
    for earns in story:
        if earns:
            budget.earn()
            earned += 1
        else:
            spent += budget.spend()
        assert spent <= reserve + ratio * earned + 1e-6


@given(
    timeout_s=st.floats(0.001, 5),
    waits=st.lists(st.tuples(st.floats(0, 1), st.none() | st.floats(0, 2)), max_size=12),
    chance=st.floats(0, 1),
)
def test_every_attempt_fits_in_the_deadline(timeout_s, waits, chance) -> None:
    """Whatever the attempts take, whatever the server asks for."""
    clock = Clock(1000.0)
    shared = retrying(clock, retries=10, uniform=lambda low, high: low + (high - low) * chance)
    deadline_s = clock.now_s + timeout_s
    attempts = shared.begin(timeout_s)
    for part, asked_s in waits:
        clock.now_s += attempts.left_s * part
        pause_s = attempts.failed(LOST if asked_s is None else busy(asked_s))
        if pause_s is None:
            break
        assert 0 <= pause_s < deadline_s - clock.now_s
        assert pause_s >= (asked_s or 0)
        clock.now_s += pause_s
        attempts.resume()
        assert 0 <= attempts.left_s <= deadline_s - clock.now_s + 1e-9


def test_who_waits_for_its_turn_until_it_is_late_tells_what_failed_before(clock: Clock) -> None:
    attempts = retrying(clock).begin(2.0)
    go_on(clock, attempts, LOST)
    go_on(clock, attempts, LOST)
    clock.now_s += 2.0
    with pytest.raises(DeadlineExceeded, match=r"other calls .*; before that: 2 x UNAVAILABLE \(Socket closed\)"):
        attempts.waited()


def test_an_attempt_moves_to_a_channel_that_is_able_and_has_not_failed(clock: Clock) -> None:
    shared = retrying(clock, channels=4)
    attempts = shared.begin(2.0)
    assert not attempts.elsewhere(lambda channel: False)
    assert attempts.channel == 0
    go_on(clock, attempts, LOST)
    assert attempts.channel != 0
    here = attempts.channel
    assert not attempts.elsewhere(lambda channel: channel == 0), "it failed there"
    assert attempts.elsewhere(lambda channel: channel not in (0, here))
    assert attempts.channel not in (0, here)
