"""Quotas on a clock that stands: what a second holds, what is in flight, and what a refusal takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringpull.inference.head.tokens.quotas import Permit, Quota, QuotaExceeded, QuotaLimits
from tests.clock import Clock


def quota(clock: Clock, **limits: float) -> Quota:
    return Quota("web", QuotaLimits(**limits), clock)  # type: ignore[arg-type]


def refused(quota: Quota, rows: int = 0) -> QuotaExceeded:
    def attempt() -> None:
        permit = quota.begin()
        try:
            permit.take_rows(rows)
        finally:
            permit.end(taken=False)

    with pytest.raises(QuotaExceeded) as caught:
        attempt()
    assert caught.value.retry_after_s is not None
    return caught.value


def taken(quota: Quota, rows: int = 0) -> None:
    permit = quota.begin()
    permit.take_rows(rows)
    permit.end(taken=True)


def test_without_limits_nothing_is_refused(clock: Clock) -> None:
    free = quota(clock)
    permits = [free.begin() for _ in range(1000)]
    permits[0].take_rows(10**9)


def test_a_burst_of_a_second_then_the_rate(clock: Clock) -> None:
    limited = quota(clock, requests_per_s=10)
    for _ in range(10):
        taken(limited)
    error = refused(limited)
    assert (error.limit, error.retry_after_s) == ("requests_per_s", pytest.approx(0.1))
    assert str(error) == "token web is over its quota: requests_per_s is 10; ask again in 100 ms"
    clock.now_s += error.retry_after_s or 0
    taken(limited)
    refused(limited)
    clock.now_s += 3600
    for _ in range(10):  # a second's worth is all that is saved up
        taken(limited)
    refused(limited)


def test_less_than_one_a_second(clock: Clock) -> None:
    limited = quota(clock, requests_per_s=0.1)
    taken(limited)
    assert refused(limited).retry_after_s == pytest.approx(10)
    clock.now_s += 9.99
    refused(limited)
    clock.now_s += 0.01
    taken(limited)


def test_who_comes_when_told_is_let_in(clock: Clock) -> None:
    for rate in (0.3, 7.0, 333.3, 1e6):
        limited = quota(clock, requests_per_s=rate, rows_per_s=rate * 3)
        for _ in range(2000):
            try:
                taken(limited, 3)
            except QuotaExceeded as exc:
                clock.now_s += exc.retry_after_s or 0
                taken(limited, 3)


def test_rows_that_fit_no_second_pass_when_nothing_was_taken_and_leave_a_debt(clock: Clock) -> None:
    limited = quota(clock, rows_per_s=100)
    taken(limited, 1)
    assert refused(limited, 1000).retry_after_s == pytest.approx(0.01)
    clock.now_s += 0.01
    taken(limited, 1000)
    error = refused(limited, 1)
    assert (error.limit, error.retry_after_s) == ("rows_per_s", pytest.approx(9.01))
    clock.now_s += 9.01
    taken(limited, 1)


def test_while_rows_are_owed_nothing_is_received(clock: Clock) -> None:
    limited = quota(clock, rows_per_s=100, requests_per_s=5)
    taken(limited, 1000)
    for _ in range(10):
        with pytest.raises(QuotaExceeded, match="rows_per_s") as caught:
            limited.begin()
        assert caught.value.retry_after_s == pytest.approx(9.01)
    clock.now_s += 9.01
    taken(limited, 1)


def test_what_was_received_has_taken_its_request(clock: Clock) -> None:
    """Or a token with a quota of rows would have a head receive and decode at any rate."""
    limited = quota(clock, rows_per_s=100, requests_per_s=5)
    taken(limited, 100)
    for _ in range(4):
        permit = limited.begin()
        permit.received()
        with pytest.raises(QuotaExceeded, match="rows_per_s"):
            permit.take_rows(1)
        permit.end(taken=False)
    with pytest.raises(QuotaExceeded, match="requests_per_s"):
        limited.begin()


def test_over_a_long_time_the_rate_is_kept(clock: Clock) -> None:
    limited, rows = quota(clock, rows_per_s=100), 0
    for step in range(10_000):
        clock.now_s = step / 100
        size = (7, 250, 1)[step % 3]
        try:
            taken(limited, size)
            rows += size
        except QuotaExceeded:
            pass
    assert 100 * 100 * 0.9 <= rows <= 100 * 100 + 100 + 250


def test_in_flight(clock: Clock) -> None:
    limited = quota(clock, in_flight=2)
    first, second = limited.begin(), limited.begin()
    error = refused(limited)
    assert (error.limit, error.retry_after_s) == ("in_flight", 0.001)
    assert "in_flight is 2" in str(error)
    clock.now_s += 4
    first.end(taken=True)
    third = limited.begin()
    assert refused(limited).retry_after_s == pytest.approx(4 * 0.05 / 2)  # by how long requests take of late
    for each in (second, third):
        each.end(taken=True)
    assert [type(limited.begin()) for _ in range(2)] == [Permit, Permit]


def test_what_is_refused_takes_nothing_of_the_others(clock: Clock) -> None:
    limited = quota(clock, requests_per_s=3, rows_per_s=10, in_flight=1)
    held = limited.begin()
    for _ in range(5):
        assert refused(limited).limit == "in_flight"
    held.end(taken=True)
    for _ in range(5):
        taken_rows = limited.begin()
        taken_rows.take_rows(10)
        taken_rows.end(taken=False)  # as when the head is overloaded
        assert refused(limited, 1).limit == "rows_per_s"
        clock.now_s += 1
    for _ in range(3):  # the one that was held is a second ago
        taken(limited)
    assert refused(limited).limit == "requests_per_s"


def test_new_limits_hold_at_once_and_keep_what_was_taken(clock: Clock) -> None:
    limited = quota(clock, requests_per_s=10)
    for _ in range(10):
        taken(limited)
    limited.limits = replace(limited.limits, requests_per_s=20.0, in_flight=1)
    for _ in range(10):
        taken(limited)
    assert refused(limited).limit == "requests_per_s"
    limited.limits = QuotaLimits(in_flight=1)
    permit = limited.begin()
    assert refused(limited).limit == "in_flight"
    permit.end(taken=True)
    taken(limited)


@pytest.mark.parametrize("lowered", [10.0, 0.5])
def test_a_quota_that_is_lowered_locks_nobody_out(clock: Clock, lowered: float) -> None:
    limited = quota(clock, requests_per_s=1000)
    for _ in range(1000):
        taken(limited)
    limited.limits = QuotaLimits(requests_per_s=lowered)
    assert refused(limited).retry_after_s == pytest.approx(1 / lowered)
    clock.now_s += 1 / lowered
    taken(limited)


def test_a_debt_of_rows_is_no_longer_than_the_lowered_bucket(clock: Clock) -> None:
    limited = quota(clock, rows_per_s=1000)
    taken(limited, 5000)
    limited.limits = QuotaLimits(rows_per_s=10)
    assert refused(limited, 10).retry_after_s == pytest.approx(1.0)


def test_a_quota_that_is_raised_gives_what_it_has_more(clock: Clock) -> None:
    limited = quota(clock, requests_per_s=10)
    for _ in range(10):
        taken(limited)
    limited.limits = QuotaLimits(requests_per_s=1000)
    for _ in range(990):
        taken(limited)
    refused(limited)
