"""The level under any course of pressure: it keeps its times, and more pressure never means a lower level."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.degrade.control import LevelControl, Thresholds
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.errors import InvalidInput

UNSMOOTHED = Thresholds(high=0.5, low=0.2, up_s=1.0, down_s=4.0, smoothing_s=0.0)

times = st.lists(st.floats(0, 3), min_size=1, max_size=60)
"""Seconds between looks."""
pressures = st.one_of(st.floats(0, 3), st.sampled_from([0.0, 0.2, 0.5, 1.0, math.inf, math.nan, -1.0]))
any_thresholds = st.builds(
    lambda low, gap, up, down, smoothing: Thresholds(
        low=low, high=low + gap, up_s=up, down_s=down, smoothing_s=smoothing
    ),
    st.floats(0.05, 0.9),
    st.floats(0.05, 0.9),
    st.floats(0, 2),
    st.floats(0, 5),
    st.sampled_from([0.0, 0.3, 2.0]),
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), pressures), max_size=80), st.integers(0, 4), any_thresholds)
def test_the_level_never_changes_faster_than_its_times(looks, steps, thresholds):
    control = LevelControl(steps, thresholds)
    now = changed_s = 0.0
    level = 0
    for passed_s, pressure in looks:
        now += passed_s
        before, level = level, control.observe(pressure, now)
        assert 0 <= level <= steps
        assert abs(level - before) <= 1
        if level > before:
            assert control.pressure > thresholds.high
            assert now - changed_s >= thresholds.up_s
        elif level < before:
            assert control.pressure < thresholds.low
            assert now - changed_s >= thresholds.down_s
        if level != before:
            changed_s = now


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3), st.floats(0, 3)), max_size=80),
    st.integers(1, 4),
    any_thresholds,
)
def test_more_pressure_never_means_a_lower_level(looks, steps, thresholds):
    less, more = LevelControl(steps, thresholds), LevelControl(steps, thresholds)
    now = 0.0
    for passed_s, pressure, extra in looks:
        now += passed_s
        assert less.observe(pressure, now) <= more.observe(pressure + extra, now)


@settings(deadline=None)
@given(times, st.integers(0, 4))
def test_between_the_thresholds_the_level_stays(gaps, level):
    control = LevelControl(4, UNSMOOTHED)
    now = 0.0
    while control.level < level:
        now += 1.0
        control.observe(1.0, now)
    for passed_s in gaps:
        now += passed_s
        assert control.observe(0.35, now) == level


def test_steps_are_taken_one_by_one_and_given_back_more_slowly():
    control = LevelControl(2, UNSMOOTHED)
    found = [control.observe(0.9 if now < 5 else 0.1, float(now)) for now in range(16)]
    assert found == [0, 0, 1, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0]


def test_a_moment_of_relief_begins_the_time_anew():
    control = LevelControl(1, UNSMOOTHED)
    course = [(0.0, 0.9), (0.9, 0.9), (0.95, 0.3), (1.0, 0.9), (1.9, 0.9), (2.0, 0.9)]
    assert [control.observe(pressure, now) for now, pressure in course] == [0, 0, 0, 0, 0, 1]


def test_one_batch_is_no_overload_but_a_tenth_of_that_for_long_enough_is():
    control = LevelControl(1, Thresholds(smoothing_s=1.0, up_s=0.0))
    control.observe(0.0, 0.0)
    assert control.observe(1.0, 0.1) == 0
    assert control.observe(1.0, 2.0) == 1


def test_any_overload_is_forgotten_in_a_bounded_time():
    control = LevelControl(1, Thresholds(smoothing_s=1.0, up_s=0.0, down_s=0.0))
    for now in range(10):
        control.observe(math.inf, float(now))
    assert control.level == 1
    assert control.observe(0.0, 9 + math.log(2 / 0.19)) == 0


def test_without_steps_there_is_no_level():
    control = LevelControl(0, UNSMOOTHED)
    assert [control.observe(1.0, float(now)) for now in range(5)] == [0] * 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 0.5}, "degrade_low is 0.5, degrade_high 0.5"),
        ({"low": 0.0}, "degrade_low is 0.0"),
        ({"high": 2.0}, r"degrade_high is 2.0; it must be under 2.0"),
        ({"up_s": -1.0}, "degrade_up_s is -1.0"),
        ({"down_s": math.nan}, "degrade_down_s is nan"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InvalidInput, match=message):
        Thresholds(**settings)


def test_a_head_refuses_them_too():
    assert HeadConfig(degrade_up_s=0.125).degrade_thresholds == Thresholds(up_s=0.125)
    with pytest.raises(InvalidInput, match=r"degrade_low is 0\.7"):
        HeadConfig(degrade_low=0.7)
