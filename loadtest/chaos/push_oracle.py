"""The oracle of pushed rows: which numbers a row may show, by what was sent and acknowledged.

Each key belongs to one writer, whose pushes to it have larger and larger numbers. So whoever reads a key has to see the
number of a push from the last one that was acknowledged before the read began up to the last one that was sent before
it ended. One that was lost, that came late or twice, or that is of nobody, shows as a number outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

REMOVES_EVERY: Final = 10
"""Number of pushes of which one takes its keys out."""

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def removes(number: Any) -> Any:
    """Return whether the push of a number takes its keys out: of one number, or of each of many."""
    return number % REMOVES_EVERY == 0


@dataclass(slots=True)
class PushCounts:
    """Counts of a run's pushes."""

    pushes: int = 0
    """Pushes that were acknowledged."""
    rows: int = 0
    repeats: int = 0
    """Pushes that were sent once more on purpose, with their number and other rows."""
    resumed: int = 0
    """How often a writer began anew behind what was acknowledged, as a push had failed."""
    reads: int = 0
    """Predictions and look-ups whose rows were checked."""
    outside: int = 0
    """Rows that a read showed outside of what it may show."""
    twice: int = 0
    """Pushes that were applied although they had been."""
    lost: int = 0
    """Keys that did not have their last push at the end."""

    @property
    def good(self) -> bool:
        return not (self.outside or self.twice or self.lost)


class PushOracle:
    """Numbers of the last pushes to each key, (keys,)."""

    def __init__(self, keys: int) -> None:
        self.acknowledged: IntArray = np.zeros(keys, np.int64)
        self.sent: IntArray = np.zeros(keys, np.int64)
        self.removed: IntArray = np.zeros(keys, np.int64)
        """Numbers of the last pushes that took the key out, of those that were sent."""

    def send(self, keys: IntArray, number: int) -> None:
        """Note that a push is about to be sent."""
        self.sent[keys] = number
        if removes(number):
            self.removed[keys] = number

    def acknowledge(self, keys: IntArray, number: int) -> None:
        """Note that a push was acknowledged."""
        self.acknowledged[keys] = np.maximum(self.acknowledged[keys], number)

    def wrong(self, keys: IntArray, floor: IntArray, shown: NDArray[Any]) -> BoolArray:
        """Return which keys show a number that they must not, (n,).

        Args:
            floor: Numbers of the last pushes that were acknowledged when the read began, (n,).
            shown: Rows, (n, numbers): all of a row are alike.
        """
        low, high = floor, self.sent[keys]
        number = shown[:, 0]
        whole = (shown == number[:, None]).all(axis=1)
        pushed = (low <= number) & (number <= high) & ~removes(number)
        # Exported and removed rows are 0 alike.
        removed = (low == 0) | (self.removed[keys] >= low)
        right: BoolArray = whole & np.where(number == 0, removed, pushed)
        return ~right

    def lost(self) -> BoolArray:
        """Return which keys have pushes that are not acknowledged, (keys,); none should, once all pushing has ended."""
        missing: BoolArray = self.acknowledged != self.sent
        return missing
