"""A histogram that costs a tenth of a microsecond to write: counts by a few fixed buckets.

One thread writes it, without a lock; any may read it. A reader may see an observation in its bucket and not yet in the
sum. (`prometheus_client.Histogram` takes a lock and finds its child by labels: 0.7 us an observation, 1.3 us with the
labels, against 0.11 us, on a 2-core machine. A head makes seven for every request.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

SECONDS: Final = (
    *(0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Bounds for durations: from what a look-up takes to the longest deadlines."""

ROWS: Final = tuple(float(1 << bits) for bits in range(15))
"""Bounds for batches: 1 to 16,384 rows."""


class Histogram:
    """Counts by bucket: bucket i has what is over bound i - 1 and at most bound i, the last one what is over all."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Begin with nothing.

        Args:
            bounds: Ascending, finite.
        """
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def __repr__(self) -> str:
        return f"<Histogram of {self.count}, sum {self._sum:g}>"

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self._counts)

    @property
    def sum(self) -> float:
        """Sum of all values."""
        return self._sum

    def cumulative(self) -> list[tuple[float, int]]:
        """Return every bound, infinity last, with how many values were at most that."""
        # Copied first: what is written meanwhile must not make a later bucket smaller than an earlier one.
        return list(zip((*self._bounds, float("inf")), accumulate(list(self._counts)), strict=True))
