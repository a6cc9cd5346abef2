"""The halvings of failed batches that a batcher may make: so many of one batch, and so many in a second.

A batch that fails because of some of its requests is done again in halves, so that only those fail. What everybody
asks for would then cost a run for each, and hold up those behind: so halvings are counted, and beyond the count whoever
shares a part with a guilty request fails with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MAX_HALVINGS: Final = 16
"""Halvings of one failed batch that count: enough for two requests among 256 where each counts, and for 17 among any
number where only those count that save nobody."""
HALVINGS_PER_S: Final = 64.0
"""Halvings of all batches in a second, each of which costs two runs of the stage that failed; twice `MAX_HALVINGS` may
come at a time. Beyond that whole batches fail: rows that are asked for all the time would hold up everybody."""


class Halvings:
    """The halvings that may be made now of the batches that one stage fails."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = 2.0 * MAX_HALVINGS
        self._as_of_s = clock()

    def __repr__(self) -> str:
        return f"Halvings(left={self._left:.1f})"

    def take(self, so_far: int) -> bool:
        """Whether one more may be made of a batch that counts `so_far`; counts it if so."""
        now_s = self._clock()
        self._left = min(2.0 * MAX_HALVINGS, self._left + HALVINGS_PER_S * (now_s - self._as_of_s))
        self._as_of_s = now_s
        if so_far >= MAX_HALVINGS or self._left < 1:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        """Uncount the last one."""
        self._left = min(2.0 * MAX_HALVINGS, self._left + 1)
