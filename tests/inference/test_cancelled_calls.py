"""Calls that are cancelled before their answer: whether their caller went away, or missed its deadline."""

from __future__ import annotations

import asyncio

import pytest

from ringpull.inference.head import predictor as predictor_module
from ringpull.inference.head.admission import Admission
from ringpull.inference.head.catalog import Catalog
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.metrics.call_metrics import NO_MODEL, CallMetrics
from ringpull.inference.head.metrics.call_watch import CallWatch
from ringpull.inference.head.predictor import Predictor
from ringpull.ps.errors import LimitExceeded
from tests.clock import Clock

CONFIG = HeadConfig(default_timeout_s=5.0, max_timeout_s=60.0)
LOST = "DEADLINE_EXCEEDED"
GONE = "CANCELLED"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(100.0)
    monkeypatch.setattr(predictor_module, "time", _Time(clock))
    return clock


class _Time:
    """Stands in for the module `time`, in what asks it for the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self.monotonic = clock


def ended(clock: Clock, timeout_s: float | None, after_s: float) -> tuple[str, int]:
    """Cancel a call so long after it came; return the code it is counted by, and how many calls count as failed."""
    metrics = CallMetrics()
    predictor = Predictor(Catalog(), CONFIG, watch=CallWatch(metrics))
    call = predictor.open(timeout_s)
    clock.now_s += after_s
    call.close(asyncio.CancelledError())
    [(model, code)] = metrics.calls
    assert model == NO_MODEL
    return code, predictor.counts.failed


@pytest.mark.parametrize("timeout_s", [0.004, 0.01, 0.02, 0.05, 0.3, 1.0, 5.0, 30.0, 60.0])
@pytest.mark.parametrize("early_s", [0.0, 0.001, 0.002])
def test_a_cancel_just_before_the_deadline_is_a_deadline_missed(clock: Clock, timeout_s: float, early_s: float) -> None:
    assert ended(clock, timeout_s, timeout_s - early_s) == (LOST, 1)


@pytest.mark.parametrize(("timeout_s", "early_s"), [(0.05, 0.02), (0.1, 0.04), (1.0, 0.1), (9.0, 0.1), (60.0, 0.6)])
def test_the_callers_clock_may_be_tens_of_milliseconds_early(clock: Clock, timeout_s: float, early_s: float) -> None:
    """gRPC has rounded its time up, by as much as 1%."""
    assert ended(clock, timeout_s, timeout_s - early_s) == (LOST, 1)


@pytest.mark.parametrize(("timeout_s", "early_s"), [(0.01, 0.006), (0.1, 0.06), (1.0, 0.5), (10.0, 0.5), (60.0, 2.0)])
def test_a_caller_with_time_left_went_away(clock: Clock, timeout_s: float, early_s: float) -> None:
    """However long its deadline: of a minute, two seconds are left."""
    assert ended(clock, timeout_s, timeout_s - early_s) == (GONE, 0)


@pytest.mark.parametrize(("timeout_s", "after_s"), [(None, 4.9), (None, 4.999), (100.0, 59.9), (1e9, 59.999)])
def test_who_has_no_deadline_of_its_own_near_misses_none(clock: Clock, timeout_s: float | None, after_s: float) -> None:
    """The head's own deadline is the head's to keep: a cancel near it is a caller who went away."""
    assert ended(clock, timeout_s, after_s) == (GONE, 0)


def test_a_deadline_missed_is_learnt_from_whoever_ends_the_call_first(clock: Clock) -> None:
    """Else an overload in which all callers give up a moment early looks as if every prediction had come true."""

    def refused_after(missed: bool) -> bool:
        admission = Admission(max_queue_s=10.0, standing_queue_s=10.0, max_in_flight_bytes=1 << 30, clock=clock)
        waiting = []
        for ahead in [0] * 20 + [4] * 60 + [0] * 5:
            while len(waiting) <= ahead:
                waiting.append(admission.expect(1e9))
                waiting[-1].received(1000)
            clock.now_s += 0.01
            waiting.pop(0).done()
        blocker = admission.expect(1e9)
        blocker.received(1000)
        for _ in range(15):
            ticket = admission.expect(clock.now_s + 0.5)
            ticket.received(1000)
            clock.now_s += 0.498
            ticket.done(served=False, missed=missed)
        before = admission.refused
        try:
            admission.expect(clock.now_s + 0.03).done()
        except LimitExceeded:
            return admission.refused == before + 1
        return False

    assert refused_after(missed=True)
    assert not refused_after(missed=False)
