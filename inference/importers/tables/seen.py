"""Ids that were seen before, remembered by 16 bytes each: for sources that may give one twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ringpull.ps.hashing import halves_of_bytes
from ringpull.ps.spec import UInt64Array


class Seen:
    """A set of texts by their 128-bit hashes, in sorted runs, each at least twice as long as the next."""

    def __init__(self) -> None:
        self._runs: list[tuple[UInt64Array, UInt64Array]] = []

    def new(self, texts: Sequence[bytes]) -> list[int]:
        """Return the numbers of those texts that were not seen before, and take them in."""
        if not texts:
            return []
        hashes = halves_of_bytes(texts)
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        ordered = hashes[order]
        fresh = np.ones(len(order), bool)
        fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        for high, low in self._runs:
            fresh &= ~_held(high, low, ordered)
        kept = ordered[fresh]
        if len(kept):
            self._add(np.ascontiguousarray(kept[:, 0]), np.ascontiguousarray(kept[:, 1]))
        return sorted(int(number) for number in order[fresh])

    def _add(self, high: UInt64Array, low: UInt64Array) -> None:
        while self._runs and len(self._runs[-1][0]) < 2 * len(high):
            other_high, other_low = self._runs.pop()
            high, low = np.concatenate([high, other_high]), np.concatenate([low, other_low])
            order = np.lexsort((low, high))
            high, low = high[order], low[order]
        self._runs.append((high, low))


def _held(high: UInt64Array, low: UInt64Array, wanted: UInt64Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which of some hashes (n, 2) are in a run; equal first halves lie next to each other."""
    found = np.zeros(len(wanted), bool)
    place = np.searchsorted(high, wanted[:, 0])
    left = np.flatnonzero(place < len(high))
    while left.size:
        left = left[high[place[left]] == wanted[left, 0]]
        found[left] |= low[place[left]] == wanted[left, 1]
        place[left] += 1
        left = left[(~found[left]) & (place[left] < len(high))]
    return found
