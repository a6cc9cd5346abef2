"""Latencies of recent requests, which operators watch during a change.

Percentiles are of the requests that ended within the last few seconds, at most `SAMPLES` of them; written for every
request, read about twice a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np

SAMPLES: Final = 4096

WINDOW_S: Final = 5.0


class RecentLatencies:
    """The last requests, by when they ended. Owned by the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended_s = np.full(SAMPLES, -np.inf)
        self._took_s = np.zeros(SAMPLES)
        self._next = 0

    def add(self, took_s: float) -> None:
        """Note a request that ended now."""
        self._ended_s[self._next] = self._clock()
        self._took_s[self._next] = took_s
        self._next = (self._next + 1) % SAMPLES

    def percentiles_ms(self) -> tuple[float, float]:
        """Return p50 and p99 in milliseconds; zeros when there were no requests lately."""
        recent = self._took_s[self._ended_s > self._clock() - WINDOW_S]
        if not recent.size:
            return 0.0, 0.0
        p50, p99 = np.percentile(recent, (50, 99)) * 1e3
        return float(p50), float(p99)
