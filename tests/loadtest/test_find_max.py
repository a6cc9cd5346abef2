"""The search for the highest rate, on a fake system whose knee is known and whose trials are noisy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ringpull.inference.errors import InvalidInput
from ringpull.loadtest.find_max import Trial, find_max

BOUND_MS = 20.0


def system(capacity: float, *, noise: float = 0.0, pauses: float = 0.0, seed: int = 0) -> Callable[[float], Trial]:
    """A queue with one server: its p99 is `ln(100) / (capacity - rate)`, and without end from its capacity on.

    Args:
        noise: Deviation of the logarithm of every p99.
        pauses: Share of trials in which the machine pauses, so that any rate fails.
    """
    rng = np.random.default_rng(seed)

    def measure(rate: float) -> Trial:
        p99_ms = np.log(100) / (capacity - rate) * 1000 if rate < capacity else 1e6
        p99_ms *= np.exp(rng.normal(0, noise))
        if rng.random() < pauses:
            p99_ms += 500
        return Trial(rate=rate, p50_ms=p99_ms / 6.6, p99_ms=p99_ms)

    return measure


def knee(capacity: float) -> float:
    """The rate at which the fake's p99 is the bound."""
    return capacity - np.log(100) / BOUND_MS * 1000


@pytest.mark.parametrize("start", [1.0, 50.0, 700.0, 20_000.0])
@pytest.mark.parametrize("capacity", [300.0, 1_000.0, 4_321.0])
def test_the_knee_is_found_from_anywhere(capacity: float, start: float) -> None:
    found = find_max(system(capacity), bound_ms=BOUND_MS, start=start)
    assert found.rate <= knee(capacity)
    assert found.rate == pytest.approx(knee(capacity), rel=0.08)


@pytest.mark.parametrize("seed", range(60))
def test_noise_and_pauses_move_it_by_less_than_a_quarter(seed: int) -> None:
    found = find_max(system(1_000, noise=0.3, pauses=0.1, seed=seed), bound_ms=BOUND_MS, start=50)
    assert found.rate == pytest.approx(knee(1_000), rel=0.25)


def test_what_never_holds_is_told_as_none() -> None:
    found = find_max(system(100), bound_ms=BOUND_MS, start=50)
    assert found.rate == 0
    assert all(not trial.holds(BOUND_MS) for trial in found.trials)


def test_failures_break_the_bound_however_fast_they_are() -> None:
    def shedding(rate: float) -> Trial:
        return Trial(rate=rate, p50_ms=1, p99_ms=2, failed_share=0.01 if rate > 400 else 0.0)

    assert find_max(shedding, bound_ms=BOUND_MS, start=50).rate == pytest.approx(400, rel=0.08)


def test_a_generator_at_its_end_is_told() -> None:
    def generator(rate: float) -> Trial:
        return Trial(rate=rate, p50_ms=1, p99_ms=1 if rate < 800 else 99, generator_bound=rate > 700)

    assert find_max(generator, bound_ms=BOUND_MS, start=50).limited_by_generator
    assert not find_max(system(1_000), bound_ms=BOUND_MS, start=50).limited_by_generator


def test_the_found_rate_was_seen_to_hold() -> None:
    found = find_max(system(1_000, noise=0.3, seed=3), bound_ms=BOUND_MS, start=50)
    assert any(trial.rate == found.rate and trial.holds(BOUND_MS) for trial in found.trials)


def test_arguments_without_sense_are_refused() -> None:
    for wrong in ({"start": 0.1}, {"bound_ms": 0.0}, {"precision": 1.0}):
        with pytest.raises(InvalidInput):
            find_max(system(100), **{"bound_ms": BOUND_MS, "start": 50.0, **wrong})
