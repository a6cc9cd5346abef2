"""Headroom: how much of the log's limit, or of the memory's, is still free when a round of folding begins.

What is pushed while a round goes on must not come to the limit, where pushes are refused. So there is room for twice
what was pushed during any of the last rounds, and for what would be during the longest of them at the highest rate that
was seen since; a quarter of the limit at least, for a rate that was not, and half of it at most, as before the first
round. The later a round begins, the fewer there are, and each writes all rows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

MOST_SHARE: Final = 2
"""One part in so many of a limit is the most that is kept free."""
LEAST_SHARE: Final = 4
"""One part in so many is the least."""
MARGIN: Final = 2
"""Times what was pushed during one of the last rounds."""
ROUNDS: Final = 4
"""Rounds that are remembered: a disk that hung once, or a rate that has long gone, counts for no more than these."""
SAMPLE_S: Final = 0.5
"""Shortest time that a rate is measured over."""


class _Round(NamedTuple):
    seconds: float
    logged_bytes: int
    bytes_per_s: float
    """Highest rate while it went on, and since the one before it."""


class Headroom:
    """What the last rounds took, how fast pushes came, and what follows from it. Its users take turns."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rounds: deque[_Round] = deque(maxlen=ROUNDS)
        self._bytes_per_s = 0.0
        """Highest rate since the last round."""
        self._sample: tuple[float, int] | None = None
        """When the log was looked at, and its bytes then."""

    def looked(self, log_bytes: int) -> None:
        """Take in how many bytes the log has now, again and again between rounds."""
        now = self._clock()
        if self._sample is not None and log_bytes >= self._sample[1]:
            since_s = now - self._sample[0]
            if since_s < SAMPLE_S:
                return
            self._bytes_per_s = max(self._bytes_per_s, (log_bytes - self._sample[1]) / since_s)
        self._sample = now, log_bytes

    def ended(self, seconds: float, logged_bytes: int) -> None:
        """Take in a round that ended well.

        Args:
            seconds: What it took.
            logged_bytes: Bytes that were logged meanwhile.
        """
        rate = max(self._bytes_per_s, logged_bytes / max(seconds, SAMPLE_S))
        self._rounds.append(_Round(seconds, logged_bytes, rate))
        self._bytes_per_s, self._sample = 0.0, None

    def of(self, limit_bytes: int, least_bytes: int = 0) -> int:
        """Return the bytes of a limit that are to be free when a round begins.

        Args:
            least_bytes: What is to be free in any case, as far as half of the limit is as much.
        """
        most = limit_bytes // MOST_SHARE
        if not self._rounds:
            return most
        longest_s = max(each.seconds for each in self._rounds)
        fastest = max(self._bytes_per_s, *(each.bytes_per_s for each in self._rounds))
        logged_bytes = max(each.logged_bytes for each in self._rounds)
        needed = max(MARGIN * logged_bytes, int(longest_s * fastest))
        return min(most, max(limit_bytes // LEAST_SHARE, least_bytes, needed))
