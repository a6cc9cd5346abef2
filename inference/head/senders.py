"""Senders of calls, which are connections: how many calls of each count as work before their messages are here.

A call is counted on because messages usually follow at once. Whether they do is known of senders, not of calls: each
that brings a request in time raises the number of a sender's calls that are counted on, and each that ends without one
halves it. Senders of which nothing is known share one number, so that a new connection for every call gains nothing.

How long messages take is learnt from requests only, sender by sender. What holds for all is what the lower half of the
senders takes: whoever sends slowly on purpose makes nobody else late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_TRUST: Final = 8.0
"""Calls of a sender that are counted on at a time before more is known; of all that are unknown together likewise."""
MAX_TRUST: Final = 256.0
"""Bound of that: a crowd at one proxy is below it."""
WEIGHT: Final = 0.05
"""Weight of the newest request in the moving average of how long they take; none counts for more than twice that."""
MAX_KNOWN: Final = 1024
"""Senders that are remembered; the one known for longest is forgotten first."""
COMPARE_S: Final = 0.25
"""Interval of comparing senders."""


class Sender:
    """What is known of one sender."""

    __slots__ = ("counted", "mean_s", "trust")

    def __init__(self) -> None:
        """Begin with nothing; the attributes are of `Senders` and `Receiving`."""
        self.trust = FIRST_TRUST
        self.counted = 0
        """Calls that count as work though their messages are not here."""
        self.mean_s = 0.0
        """Moving average of how long its requests take; 0: not known."""


class Senders:
    """Senders of one head, by connection. Owned by the event loop.

    Args:
        min_s: Least time that a message is taken to need.
        clock: Seconds, never going back.
    """

    def __init__(self, min_s: float, clock: Callable[[], float]) -> None:
        self._min_s = min_s
        self._clock = clock
        self._strangers = Sender()
        self._known: dict[str, Sender] = {}
        self._compared_s = 0.0
        self.median_s = 0.0
        """Time that messages take."""

    def __repr__(self) -> str:
        return f"<Senders {len(self._known)} known, messages take {self.median_s:.3f} s>"

    def named(self, sender: str) -> Sender:
        """Return what is known of a sender, or of all that are unknown."""
        return self._known.get(sender, self._strangers)

    def brought(self, sender: str, took_s: float, *, in_time: bool) -> None:
        """Note that a call brought a request, after so long."""
        known = self._known.get(sender)
        if known is None:
            if len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            known = self._known[sender] = Sender()
        if in_time:
            known.trust = min(known.trust + 1.0, MAX_TRUST)
            self._strangers.trust = min(self._strangers.trust + 1.0, FIRST_TRUST)
        mean_s = max(known.mean_s, self._min_s)
        known.mean_s += WEIGHT * (min(took_s, 2 * mean_s) - known.mean_s)
        now_s = self._clock()
        if now_s - self._compared_s >= COMPARE_S:
            self._compared_s = now_s
            self._compare()

    def failed(self, sender: str) -> None:
        """Note that a call ended without a request."""
        known = self.named(sender)
        known.trust = max(0.0, known.trust / 2 - 1.0)

    def _compare(self) -> None:
        trusted = sorted(each.mean_s for each in self._known.values() if each.trust >= 1.0)
        self.median_s = trusted[(len(trusted) - 1) // 2] if trusted else 0.0
