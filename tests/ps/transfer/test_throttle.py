"""How fast bytes flow, by a clock that only waiting moves."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.ps.errors import InvalidInput
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.throttle import BUCKET_S, MIN_WAIT_S, Throttle
from tests.clock import Clock


class WaitingClock(Clock):
    """Waiting makes time pass, and nothing else does."""

    def __init__(self) -> None:
        super().__init__(100.0)
        self.waits: list[float | None] = []

    def wait(self, changed: threading.Condition, seconds: float | None) -> None:
        assert seconds is not None, "nobody would ever wake it"
        self.waits.append(seconds)
        self.now_s += seconds


@given(
    rate=st.floats(1, 1e9),
    sizes=st.lists(st.integers(0, 4 << 20), min_size=1, max_size=30),
)
def test_no_more_flows_than_rate_times_time_a_bucket_and_a_block(rate: float, sizes: list[int]) -> None:
    clock = WaitingClock()
    throttle = Throttle(clock, clock.wait)
    throttle.set(rate)
    begin_s, flowed = clock.now_s, 0
    for size in sizes:
        throttle.take(size, Job())
        flowed += size
        assert flowed <= rate * (clock.now_s - begin_s + BUCKET_S) * 1.001 + size
    waited_s = clock.now_s - begin_s
    # And it does not hold back more than it must.
    assert waited_s <= (flowed / rate) * 1.001 + len(sizes) * MIN_WAIT_S


def test_without_a_rate_nobody_waits() -> None:
    clock = WaitingClock()
    throttle = Throttle(clock, clock.wait)
    for _ in range(100):
        throttle.take(1 << 40, Job())
    assert clock.waits == []


def test_what_did_not_flow_is_given_back() -> None:
    clock = WaitingClock()
    throttle = Throttle(clock, clock.wait)
    throttle.set(1000)
    for _ in range(20):
        throttle.take(5000, Job())
        throttle.give_back(5000)
    assert clock.waits == []


def test_a_new_rate_counts_at_once_for_those_who_wait() -> None:
    throttle = Throttle()
    throttle.set(0)
    passed = threading.Event()

    def copy() -> None:
        throttle.take(1, Job())
        passed.set()

    thread = threading.Thread(target=copy)
    thread.start()
    assert not passed.is_set()
    throttle.set(None)
    thread.join()
    assert passed.is_set()


def test_a_cancelled_job_does_not_wait_on() -> None:
    throttle = Throttle()
    throttle.set(0)
    job = Job()
    outcome: list[Exception] = []

    def copy() -> None:
        try:
            throttle.take(1, job)
        except Cancelled as exc:
            outcome.append(exc)

    thread = threading.Thread(target=copy)
    thread.start()
    job.cancel()
    thread.join()
    assert outcome
    with pytest.raises(Cancelled):
        throttle.take(1, job)


@pytest.mark.parametrize("rate", [-1, float("nan")])
def test_rates_that_are_none_are_refused(rate: float) -> None:
    with pytest.raises(InvalidInput, match="bytes_per_s"):
        Throttle().set(rate)
