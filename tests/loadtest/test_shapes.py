"""Shapes are functions of time: what they are at its ends and in the middle, and that each of them ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.errors import InvalidInput
from ringpull.loadtest.shapes import SHAPES, Shape


@given(
    name=st.sampled_from(SHAPES),
    peak=st.integers(1, 500),
    seconds=st.floats(1, 1e5),
    base=st.floats(0, 1),
    steps=st.integers(1, 20),
    done=st.floats(0, 0.999),
)
def test_users_are_between_one_and_the_peak_until_the_run_is_over(
    name: Any, peak: int, seconds: float, base: float, steps: int, done: float
) -> None:
    shape = Shape(name=name, peak=peak, seconds=seconds, base=base, steps=steps)
    users = shape.users_at(done * seconds)
    assert users is not None
    assert 1 <= users <= peak
    assert shape.users_at(seconds) is None
    assert shape.users_at(2 * seconds) is None


def users(name: Any, *times: float) -> list[int | None]:
    shape = Shape(name=name, peak=100, seconds=100, base=0.2, steps=4)
    return [shape.users_at(time) for time in times]


def test_steady_is_the_peak() -> None:
    assert users("steady", 0, 50, 99.9) == [100, 100, 100]


def test_steps_are_equal_and_end_at_the_peak() -> None:
    assert users("step", 0, 24.9, 25, 50, 75, 99.9) == [25, 25, 50, 75, 100, 100]


def test_a_spike_is_the_middle_fifth() -> None:
    assert users("spike", 0, 39.9, 40, 59.9, 60, 99) == [20, 20, 100, 100, 20, 20]


def test_a_day_is_quiet_at_its_ends_and_busy_at_noon() -> None:
    assert users("diurnal", 0, 25, 50, 75, 99.99) == [20, 60, 100, 60, 20]


@pytest.mark.parametrize(
    "wrong", [{"name": "square"}, {"peak": 0}, {"seconds": 0}, {"base": 1.5}, {"steps": 0}], ids=str
)
def test_a_shape_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Shape(**{"name": "steady", "peak": 1, "seconds": 1.0, **wrong})
