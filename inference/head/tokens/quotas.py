"""Quotas of one token at one head: requests and rows a second, and requests in flight.

A rate is a bucket that holds what comes in a second, and at least one. A request that is larger than the bucket passes
when that is full, and leaves a debt, which has to be made up for before the next one passes: so none waits for ever,
and the mean is kept. While rows are owed, requests are refused before they are received, as their rows are not known.

What is refused before it was received, for one limit or by a head that is overloaded, takes nothing of the others. What
was received has cost the head that, so it has taken its request whatever comes of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from ringpull.ps.errors import LimitExceeded

MIN_HINT_S: Final = 0.001
"""Shortest hint of when to ask again."""
WEIGHT: Final = 0.05
"""Weight of the newest request in the moving average of how long requests take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLimits:
    """Limits of one token at one head; None: there is none."""

    MAX: ClassVar[int] = 10**12

    requests_per_s: float | None = None
    rows_per_s: float | None = None
    """Rows, which are candidates, in a second."""
    in_flight: int | None = None
    """Requests that have not been answered."""


class QuotaExceeded(LimitExceeded):
    """Raised when a token has had what it may have for now.

    Attributes:
        limit: Name of the limit: a field of `QuotaLimits`.
    """

    def __init__(self, message: str, *, limit: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.limit = limit


class Quota:
    """What one token has taken of its limits. Owned by the event loop, but for `limits`."""

    __slots__ = ("_clock", "_in_flight", "_mean_s", "_requests", "_rows", "limits", "name")

    def __init__(self, name: str, limits: QuotaLimits, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with everything to be had.

        Args:
            name: Name of the token, for messages.
        """
        self.name = name
        self.limits = limits
        """Limits in force; another thread may put others in their place."""
        self._clock = clock
        self._requests = _Bucket(clock())
        self._rows = _Bucket(clock())
        self._in_flight = 0
        self._mean_s = 0.0
        """Moving average of how long requests take."""

    def __repr__(self) -> str:
        return f"<Quota of {self.name}: {self.limits}, {self._in_flight} in flight>"

    def begin(self) -> Permit:
        """Take one request; whoever takes it ends the permit.

        Raises:
            QuotaExceeded: There are as many in flight as may be, the rate is used up, or rows are owed.
                `retry_after_s` is set.
        """
        limits, now_s = self.limits, self._clock()
        if limits.in_flight is not None and self._in_flight >= limits.in_flight:
            raise self._refusal("in_flight", limits.in_flight, self._mean_s / limits.in_flight)
        if limits.rows_per_s is not None:
            wait_s = self._rows.owed_s(limits.rows_per_s, now_s)
            if wait_s:
                raise self._refusal("rows_per_s", limits.rows_per_s, wait_s)
        if limits.requests_per_s is not None:
            wait_s = self._requests.take(1, limits.requests_per_s, now_s)
            if wait_s:
                raise self._refusal("requests_per_s", limits.requests_per_s, wait_s)
        self._in_flight += 1
        return Permit(self, now_s)

    def _take_rows(self, rows: int) -> None:
        rate = self.limits.rows_per_s
        if rate is not None:
            wait_s = self._rows.take(rows, rate, self._clock())
            if wait_s:
                raise self._refusal("rows_per_s", rate, wait_s)

    def _end(self, began_s: float, *, taken: bool, received: bool) -> None:
        self._in_flight -= 1
        if taken:
            self._mean_s += WEIGHT * (self._clock() - began_s - self._mean_s)
        elif not received and self.limits.requests_per_s is not None:
            self._requests.give_back(1)

    def _refusal(self, limit: str, value: float, wait_s: float) -> QuotaExceeded:
        retry_after_s = max(wait_s, MIN_HINT_S)
        return QuotaExceeded(
            f"token {self.name} is over its quota: {limit} is {value:g};"
            f" ask again in {math.ceil(retry_after_s * 1e3)} ms",
            limit=limit,
            retry_after_s=retry_after_s,
        )


class Permit:
    """One request that a token has in flight."""

    __slots__ = ("_began_s", "_quota", "_received")

    def __init__(self, quota: Quota, began_s: float) -> None:
        self._quota = quota
        self._began_s = began_s
        self._received = False

    def received(self) -> None:
        """Note that its message is here: from now on it has taken a request, whatever comes of it."""
        self._received = True

    def take_rows(self, rows: int) -> None:
        """Take the rows of the request, once they are known.

        Raises:
            QuotaExceeded: They are too many for now. `retry_after_s` is set.
        """
        self._quota._take_rows(rows)

    def end(self, *, taken: bool) -> None:
        """Note that the request has left; to be called once.

        Args:
            taken: Whether it was let in; one that was refused, to come again later, takes nothing of the rate, unless
                it had been received by then.
        """
        self._quota._end(self._began_s, taken=taken, received=self._received)


class _Bucket:
    """What may be taken now: it fills at a rate, up to what comes in a second."""

    __slots__ = ("_at_s", "_rate", "_taken")

    def __init__(self, now_s: float) -> None:
        self._at_s = now_s
        self._rate = 0.0
        """Rate at which it filled the last time."""
        self._taken = 0.0
        """What it lacks of being full; more than it holds: a debt."""

    def take(self, amount: float, rate: float, now_s: float) -> float:
        """Take so much and return 0, or take nothing and return the seconds until it can be had."""
        holds = max(rate, 1.0)
        if rate != self._rate:
            # What was taken of another bucket is no debt of this one: a quota that is lowered locks nobody out.
            self._taken = min(self._taken, holds)
            self._rate = rate
        self._taken = max(0.0, self._taken - (now_s - self._at_s) * rate)
        self._at_s = now_s
        short = min(amount, holds) - (holds - self._taken)
        if short > 1e-9 * holds:  # what is left of roundings is not waited for
            return short / rate
        self._taken += amount
        return 0.0

    def owed_s(self, rate: float, now_s: float) -> float:
        """Return the seconds until one can be had, if there is a debt; else 0."""
        wait_s = self.take(0, rate, now_s)
        return wait_s + 1 / rate if wait_s else 0.0

    def give_back(self, amount: float) -> None:
        """Undo a `take`."""
        self._taken = max(0.0, self._taken - amount)
