"""The highest rate that keeps a bound on latency: a search over noisy trials. Pure: the measuring function is given.

A trial holds when its p99 is within the bound and hardly anything failed. One trial proves little on a shared machine:
a pause of the machine fails a rate that holds, and a lucky moment passes one that does not. So

* a rate is judged by the majority of up to `VOTES` trials;
* from the start the rate is doubled, or halved, until it is bracketed, and the bracket is halved, geometrically, until
  its ends are within `precision` of each other;
* then both ends are judged once more. One that is judged otherwise now was a mistake, perhaps an early one that led the
  search astray: it moves the bracket, by growing steps, and the search goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ringpull.inference.errors import InvalidInput

FAILURES_ALLOWED: Final = 0.001
"""Share of requests that may fail in a trial that holds."""
VOTES: Final = 3
"""Trials of one rate at most; odd."""
FIRST_STEP: Final = 2.0
CORRECTION: Final = 1.15
"""First step of a bracket that turned out wrong; every further one is the square of the last, up to `FIRST_STEP`."""
MAX_CORRECTIONS: Final = 6
MAX_RATE: Final = 1e7
"""Rate above which none is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One measurement at one rate."""

    rate: float
    p50_ms: float
    p99_ms: float
    failed_share: float = 0.0
    generator_bound: bool = False
    """Whether the load generator, not the server, was at its end."""

    def holds(self, bound_ms: float) -> bool:
        return self.p99_ms <= bound_ms and self.failed_share <= FAILURES_ALLOWED


@dataclass(frozen=True, slots=True)
class Found:
    """Result of a search."""

    rate: float
    """Highest rate that was judged to hold; 0 when none was."""
    bound_ms: float
    trials: Sequence[Trial]
    """Trials in the order they were made."""
    limited_by_generator: bool
    """Whether the rates above `rate` failed with the generator at its end: the server may well do more."""


def find_max(
    measure: Callable[[float], Trial],
    *,
    bound_ms: float,
    start: float,
    precision: float = 1.08,
    lowest: float = 0.5,
) -> Found:
    """Search for the highest rate whose p99 is within `bound_ms`.

    Args:
        measure: Makes one trial at a rate, requests per second.
        start: A rate to begin at; a bad guess costs trials, not the result.
        precision: Ratio of the rates between which the answer lies at the end.
        lowest: No rate below it is tried.

    Raises:
        InvalidInput: An argument makes no sense.
    """
    measures = lowest <= start <= MAX_RATE and 0 < bound_ms < math.inf and 1 < precision < math.inf  # none is NaN
    if not measures:
        raise InvalidInput(
            f"find-max: start {start} must be from {lowest} to {MAX_RATE:g}, the bound ({bound_ms} ms) above 0,"
            f" precision ({precision}) above 1; all of them finite"
        )
    search = _Search(measure, bound_ms, lowest)
    low, high = search.around(start, FIRST_STEP)
    for _ in range(MAX_CORRECTIONS):
        low, high = search.narrow(low, high, precision)
        if low and not search.holds(low):
            low, high = search.below(low, CORRECTION)
        elif search.holds(high):
            low, high = search.above(high, CORRECTION)
        else:
            break
    return Found(low, bound_ms, tuple(search.trials), search.generator_bound_above(low))


class _Search:
    """Trials so far, verdicts by majority, and brackets: (a rate that holds, or 0 for none; one that does not)."""

    def __init__(self, measure: Callable[[float], Trial], bound_ms: float, lowest: float) -> None:
        self._measure = measure
        self._bound_ms = bound_ms
        self._lowest = lowest
        self.trials: list[Trial] = []

    def around(self, rate: float, step: float) -> tuple[float, float]:
        """Return a bracket near a rate of which nothing is known."""
        return self.above(rate, step) if self.holds(rate) else self.below(rate, step)

    def above(self, rate: float, step: float) -> tuple[float, float]:
        """Return a bracket at or above a rate that holds."""
        while rate * step < MAX_RATE and self.holds(rate * step):
            rate *= step
            step = min(step * step, FIRST_STEP)
        return rate, rate * step

    def below(self, rate: float, step: float) -> tuple[float, float]:
        """Return a bracket below a rate that does not hold."""
        while rate / step >= self._lowest:
            if self.holds(rate / step):
                return rate / step, rate
            rate /= step
            step = min(step * step, FIRST_STEP)
        return 0.0, rate

    def narrow(self, low: float, high: float, precision: float) -> tuple[float, float]:
        """Halve a bracket until its ends are within `precision`."""
        while low and high / low > precision:
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.holds(middle) else (low, middle)
        return low, high

    def holds(self, rate: float) -> bool:
        """Try a rate until a majority of its votes is in."""
        needed = VOTES // 2 + 1
        held = failed = 0
        while max(held, failed) < needed:
            trial = self._measure(rate)
            self.trials.append(trial)
            if trial.holds(self._bound_ms):
                held += 1
            else:
                failed += 1
        return held >= needed

    def generator_bound_above(self, rate: float) -> bool:
        """Whether most trials that failed just above a rate had the generator at its end."""
        failed = [trial for trial in self.trials if trial.rate > rate and not trial.holds(self._bound_ms)]
        nearest = sorted(failed, key=lambda trial: trial.rate)[:VOTES]
        return bool(nearest) and sum(trial.generator_bound for trial in nearest) * 2 > len(nearest)
