"""The service rate of a server, learnt from when pieces of work come and go; pure, on an injected clock.

Work is counted in *cost*, which the caller knows before it is done: bytes, say. By Little's law what is in flight takes
`in_flight / rate` seconds, whatever stages and batches it goes through.

- Only busy time counts: a second in which nothing was in flight says nothing of the rate.
- Work served while a server is not full is only a lower bound of what it could serve, which proves no wait. A rate
  is proven when there was a queue all the while and yet nothing more was served, and only samples with such a queue
  lower it. Before the first proof no wait is predicted at all: a cold server is soon a faster one.
- No sample lowers it by more than a little, and one in which nothing was served does not at all: a server that was
  stopped for five seconds is not slow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, NamedTuple

WINDOW_S: Final = 0.05
"""Lower bound on the busy time that a sample of the rate spans; twice as long where ends come without a gap."""
GAP_S: Final = 0.001
"""Gap between the ends of two batches. A sample ends with a batch: half of one would say half the rate."""
WINDOW_ENDS: Final = 8
"""Lower bound on pieces of work that end in a sample: a cold server's first slow answers alone would prove anything."""
WEIGHT_UP: Final = 0.5
WEIGHT_DOWN: Final = 0.25
"""Weights of the newest sample in the moving average of the rate, above and below it. It rises faster than it falls:
a rate that was once reached can be reached another time."""
NOISE: Final = 1.25
"""Factor up to which a sample is the same rate: samples of a few batches differ by as much."""
PROOF_S: Final = 10.0
"""Time after a proof for which a rate is taken as it is. Later it may stand for worse times."""
STALE: Final = 2.0
"""Factor on a rate that was proven longer ago: hope that the server is faster by now."""
LONE_WEIGHT_UP: Final = 0.1
LONE_WEIGHT_DOWN: Final = 0.5
"""Weights of the newest sample in the moving average of the time that lone work takes, above and below it. Samples of
a cold server are soon forgotten."""


class Work(NamedTuple):
    """Piece of work in flight, as `ServiceRate.begin` gives it and `end` takes it back."""

    cost: float
    began_s: float
    lone: bool
    """Whether nothing else was in flight when it began."""


class ServiceRate:
    """Work in flight, the rate at which it is served, and how long that takes. One thread owns it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin idle, and knowing nothing.

        Args:
            clock: Seconds, never going back.
        """
        self._clock = clock
        self._count = 0
        self._in_flight = 0.0
        self._average = 0.0
        """Moving average of the rate; proven or not."""
        self._proven_s = -math.inf
        self._lone_s = 0.0
        self._since_s = 0.0
        """Time at which the server became busy, or at which the window began if that was later."""
        self._busy_s = 0.0
        """Busy time of the window before `_since_s`; below zero, when the window began later than that."""
        self._ends = 0
        self._ended_s = 0.0
        """Time of the last end in the window."""
        self._ended_busy_s = 0.0
        """Busy time of the window up to that end."""
        self._served = 0.0
        """Cost served in the window."""
        self._min_in_flight = 0.0
        """Smallest cost in flight at any moment of the window."""
        self._min_at_s = 0.0
        """Time of that moment."""

    def __repr__(self) -> str:
        return f"<ServiceRate {self._count} in flight, {self._in_flight:.0f} at {self.rate:.0f}/s>"

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return self._count == 0

    @property
    def count(self) -> int:
        """Number of pieces of work that began and did not end."""
        return self._count

    @property
    def in_flight(self) -> float:
        """Cost of the work that began and did not end."""
        return self._in_flight

    @property
    def rate(self) -> float:
        """Cost per second when busy; infinite before one is proven."""
        if self._proven_s == -math.inf:
            return math.inf
        return self._average if self._clock() - self._proven_s <= PROOF_S else STALE * self._average

    @property
    def lone_s(self) -> float:
        """Time of work that waits for no other; 0 before anything is known."""
        return self._lone_s

    def wait_s(self, cost: float = 0.0) -> float:
        """Return how long it takes to serve what is in flight, and `cost` besides."""
        return (self._in_flight + cost) / self.rate

    def queue_s(self) -> float:
        """Return how long what is in flight takes beyond the time it would take anyway; 0: there is no queue."""
        return max(0.0, self.wait_s() - self._lone_s)

    def begin(self, cost: float) -> Work:
        """Note that work has come. Each that is begun must be ended, once."""
        now = self._clock()
        lone = self._count == 0
        if lone:
            self._since_s = now
            self._sample(now)
            self._min_in_flight, self._min_at_s = 0.0, now
        self._count += 1
        self._in_flight += cost
        return Work(cost, now, lone)

    def reweigh(self, work: Work, cost: float) -> Work:
        """Correct the cost of work that was begun before it was known; return the work to `end` in its place."""
        self._in_flight += cost - work.cost
        return Work(cost, work.began_s, work.lone)

    def withdraw(self, work: Work) -> None:
        """Take back work that was begun and is none, as if it had never been; it is not to be ended.

        While it was counted it looked like a queue; so it is taken off the window's, if it was part of that.
        """
        self._count -= 1
        self._in_flight = self._in_flight - work.cost if self._count else 0.0
        if work.began_s <= self._min_at_s:
            self._min_in_flight = max(0.0, self._min_in_flight - work.cost)
        self._note_least(self._clock())
        if self._count == 0:
            self._busy_s = self._ended_busy_s

    def end(self, work: Work, *, served: bool = True) -> float:
        """Note that work is done, or, not `served`, given up; return how long it was here, in seconds."""
        now = self._clock()
        took_s = now - work.began_s
        self._sample(now)
        self._count -= 1
        self._in_flight = self._in_flight - work.cost if self._count else 0.0  # no rounding errors are kept
        self._note_least(now)
        self._ends += 1
        if served:
            self._served += work.cost
            if work.lone or took_s < self._lone_s:
                self._learn_lone(took_s)
        self._ended_s, self._ended_busy_s = now, self._busy_s + now - self._since_s
        if self._count == 0:
            self._busy_s = self._ended_busy_s
        return took_s

    def _note_least(self, now: float) -> None:
        if self._in_flight < self._min_in_flight:
            self._min_in_flight, self._min_at_s = self._in_flight, now

    def _sample(self, now: float) -> None:
        """Close the window with the last end before now, if that makes a sample."""
        busy_s = self._ended_busy_s
        between = now - self._ended_s >= GAP_S or busy_s >= 2 * WINDOW_S
        if busy_s >= WINDOW_S and self._ends >= WINDOW_ENDS and between:
            self._learn_rate(self._served / busy_s, now)
            self._ends, self._served = 0, 0.0
            self._min_in_flight, self._min_at_s = self._in_flight, now
            self._busy_s, self._ended_busy_s = self._busy_s - busy_s, 0.0

    def _learn_rate(self, sample: float, now: float) -> None:
        queued = self._min_in_flight > self._average * self._lone_s
        untested = now - self._proven_s > PROOF_S
        # Nothing served is proof enough: all that waited ran out of time.
        if queued and self._average > 0.0 and sample <= NOISE * self._average:
            self._proven_s = now
        if sample > self._average:
            self._average += (1.0 if untested else WEIGHT_UP) * (sample - self._average)
        elif queued and sample > 0.0:
            self._average += WEIGHT_DOWN * (max(sample, self._average / 2) - self._average)

    def _learn_lone(self, sample_s: float) -> None:
        if self._lone_s == 0.0:
            self._lone_s = sample_s
        elif sample_s < self._lone_s:
            self._lone_s += LONE_WEIGHT_DOWN * (sample_s - self._lone_s)
        else:
            self._lone_s += LONE_WEIGHT_UP * (min(sample_s, 2 * self._lone_s) - self._lone_s)
