"""Hedging in numbers: the delay after which an answer is slow, and the budget of keys that may be asked twice.

`AnswerTimes` learns from what all shards took lately, not from the slow one: a shard that is always slow must not
become the measure of itself. `HedgeBudget` is a bucket of keys, filled by the keys that are asked anyway; so when
all shards are slow, as under overload, hedging adds a few percent of load, and no more.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Final

LEARN_EVERY: Final = 256
"""Answers between two looks at the quantile."""

REMEMBERED: Final = 2048
"""Answers after which all counts are halved: older ones weigh half as much."""

_FIRST_BOUND_S: Final = 100e-6
_GROWTH: Final = 1.2
_BOUNDS_S: Final = [_FIRST_BOUND_S * _GROWTH**i for i in range(64)]
"""Upper bounds of the buckets: 100 us to 10 s, so a quantile is known to a fifth of itself."""


class AnswerTimes:
    """The delay after which a shard is slow: a quantile of recent answer times, between a floor and a cap."""

    def __init__(self, *, quantile: float, floor_s: float, cap_s: float) -> None:
        self._quantile = quantile
        self._floor_s = floor_s
        self._cap_s = cap_s
        self._counts = [0.0] * (len(_BOUNDS_S) + 1)
        self._until_learnt = LEARN_EVERY
        self.delay_s = cap_s
        """Seconds after which an answer is slow; the cap until enough was seen."""

    def __repr__(self) -> str:
        return f"<AnswerTimes delay={self.delay_s * 1e3:.3g} ms>"

    def add(self, took_s: float) -> None:
        """Learn from one answer; from a call that was given up, the time that it had had."""
        self._counts[bisect_left(_BOUNDS_S, took_s)] += 1
        self._until_learnt -= 1
        if not self._until_learnt:
            self._learn()

    def _learn(self) -> None:
        self._until_learnt = LEARN_EVERY
        sums = list(accumulate(self._counts))
        bucket = bisect_left(sums, self._quantile * sums[-1])
        quantile_s = _BOUNDS_S[bucket] if bucket < len(_BOUNDS_S) else self._cap_s
        self.delay_s = min(max(quantile_s, self._floor_s), self._cap_s)
        if sums[-1] >= REMEMBERED:
            self._counts = [count / 2 for count in self._counts]


class HedgeBudget:
    """Keys that may be asked twice: `share` of the keys asked so far, and at most `burst_keys` at once.

    Invariant: keys spent <= burst_keys + share x keys asked + the keys of the largest part. A part is afforded while
    anything is left and may overdraw, or one that is larger than the bucket could never be hedged.
    """

    def __init__(self, *, share: float, burst_keys: int) -> None:
        self._share = share
        self._max_keys = burst_keys if share else 0
        self._keys: float = self._max_keys

    def __repr__(self) -> str:
        return f"<HedgeBudget {self._keys:.0f} of {self._max_keys} keys>"

    def asked(self, keys: int) -> None:
        """Count keys that are asked anyway."""
        self._keys = min(self._max_keys, self._keys + self._share * keys)

    @property
    def affords(self) -> bool:
        """Whether something may be asked twice now."""
        return self._keys > 0

    def spend(self, keys: int) -> None:
        """Count keys that are asked a second time."""
        self._keys -= keys
