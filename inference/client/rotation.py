"""Turns of the channels of a client: all take theirs, but for a while not those that failed. No I/O."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence


class Rotation:
    """Hands out channels by their places.

    Thread-safe: what it keeps is only ever replaced, item by item; a lost update costs an attempt, not an answer.

    Args:
        targets: Target of each channel.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self.targets = tuple(targets)
        self._turns = itertools.count()
        self._avoid_until_s = [0.0] * len(targets)
        self._avoiding_until_s = 0.0
        """End of the last avoidance: after it, which is nearly always, nothing needs to be compared."""

    def __repr__(self) -> str:
        return f"Rotation({len(self.targets)} channels to {', '.join(dict.fromkeys(self.targets))})"

    def take(self, now_s: float, tried: Sequence[int] = ()) -> int:
        """Return the place of the channel for the next attempt.

        Args:
            now_s: On the clock of `avoid`.
            tried: Those that have failed this call: others go first, and of these others those of another target.
        """
        places = len(self.targets)
        turn = next(self._turns) % places
        if not tried and now_s >= self._avoiding_until_s:
            return turn
        tried_targets = {self.targets[place] for place in tried}

        def rank(place: int) -> tuple[bool, float, bool, int]:
            avoided_s = self._avoid_until_s[place]
            return (
                place in tried,
                avoided_s if avoided_s > now_s else 0.0,  # all avoided: the one that failed first
                self.targets[place] in tried_targets,
                (place - turn) % places,
            )

        return min(range(places), key=rank)

    def another(self, place: int, now_s: float, able: Callable[[int], bool]) -> int | None:
        """Return the place of the next channel that is able to take an attempt and not avoided; None: there is none."""
        places = len(self.targets)
        for step in range(1, places):
            other = (place + step) % places
            if self._avoid_until_s[other] <= now_s and able(other):
                return other
        return None

    def avoid(self, place: int, until_s: float) -> None:
        """Leave a channel out until then, as long as there are others."""
        self._avoid_until_s[place] = until_s
        self._avoiding_until_s = max(self._avoiding_until_s, until_s)
