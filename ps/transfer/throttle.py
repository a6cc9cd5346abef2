"""Throttle: a token bucket for copying, whose rate may change, or be 0, while a thread waits at it.

A caller that takes more than the bucket holds puts it into debt, and the next caller waits until that is paid. So
blocks of any size pass, and over any stretch of time at most rate x time, one bucket and one block flow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from ringpull.ps.errors import InvalidInput
from ringpull.ps.transfer.job import Job

BUCKET_S: Final = 0.1
"""Capacity of the bucket, as a time: short, so that a pause is not followed by a burst."""

MIN_WAIT_S: Final = 1e-3

Wait = Callable[[threading.Condition, float | None], object]


class Throttle:
    """Token bucket. Any thread may set the rate; clock and wait are replaced in tests."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wait: Wait = lambda changed, s: changed.wait(s)
    ) -> None:
        self._clock = clock
        self._wait = wait
        self._changed = threading.Condition()
        self._rate: float | None = None
        self._level = 0.0
        self._filled_s = clock()

    def set(self, bytes_per_s: float | None) -> None:
        """Change the rate, at once. None: no limit; 0: nothing flows.

        Raises:
            InvalidInput: It is negative, or not a number.
        """
        if bytes_per_s is not None and not bytes_per_s >= 0:
            raise InvalidInput(f"throttle: bytes_per_s is {bytes_per_s!r}; it must be 0 or more, or None for no limit")
        with self._changed:
            self._fill()
            self._rate = bytes_per_s
            self._level = min(self._level, 0.0)
            self._changed.notify_all()

    def take(self, size: int, job: Job) -> None:
        """Wait until `size` bytes may flow.

        Raises:
            Cancelled: The job was cancelled meanwhile.
        """
        with job.interrupting(self._wake), self._changed:
            while True:
                job.check()
                self._fill()
                if self._rate is None:
                    return
                if self._rate > 0 and self._level >= 0:
                    self._level -= size
                    return
                held = self._rate == 0
                self._wait(self._changed, None if held else max(MIN_WAIT_S, -self._level / self._rate))

    def give_back(self, size: int) -> None:
        """Give back bytes that were taken and did not flow; negative if more flowed than was taken."""
        with self._changed:
            if self._rate is not None:
                self._level += size
                self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _fill(self) -> None:
        now_s = self._clock()
        if self._rate is None:
            self._level = 0.0
        else:
            self._level = min(self._level + (now_s - self._filled_s) * self._rate, self._rate * BUCKET_S)
        self._filled_s = now_s

    def __repr__(self) -> str:
        rate = "no limit" if self._rate is None else f"{self._rate:.0f} bytes/s"
        return f"<Throttle {rate}>"
