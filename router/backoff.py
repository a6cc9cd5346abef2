"""Backoff: the wait before an attempt is repeated, doubled with each failure, and never in step with others."""

from __future__ import annotations

import random


class Backoff:
    """Waits of `first_s`, twice that, and so on up to `max_s`, each shortened at random by up to half.

    The jitter keeps a hundred heads, which lost the same shard at the same moment, from coming back together.
    """

    def __init__(self, first_s: float, max_s: float, rng: random.Random) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._rng = rng

    def wait_s(self, failures: int) -> float:
        """Return how long to wait after that many failures in a row, at least one."""
        # The power is bounded: a shard that stays away for days counts far.
        unshortened_s = min(self._max_s, self._first_s * 2.0 ** min(failures - 1, 32))
        return unshortened_s * self._rng.uniform(0.5, 1.0)
