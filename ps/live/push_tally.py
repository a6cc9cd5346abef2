"""Tally of a shard's pushes: what became of them, and how long they took. Written by one thread, read by any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from ringpull.ps.errors import LimitExceeded, StaleLineage, StaleNumber, Unavailable
from ringpull.ps.histogram import SECONDS, Histogram
from ringpull.ps.wire.push_messages import PushReply

OUTCOMES: Final = ("done", "repeated", "refused", "stale_lineage", "stale_number", "failed")
"""What may become of a push."""


class PushTally:
    """Counts since the shard was made."""

    def __init__(self) -> None:
        self.pushes: Counter[str] = Counter()
        """Pushes by what became of them, of `OUTCOMES`."""
        self.rows = 0
        """Keys that were put or removed."""
        self.new_keys = 0
        """Keys among these that nothing had been pushed to before, whether they were exported or not."""
        self.replayed_rows = 0
        """Keys that were read from the log when the shard began."""
        self.visible_s = Histogram(SECONDS)
        """Time from a push's last byte until look-ups see it and it is durable."""
        self.commit_s = Histogram(SECONDS)
        """Time of a group of pushes, its sync included."""

    def committed(self, answers: Iterable[PushReply | Exception], took_s: float) -> None:
        """Count a group."""
        self.commit_s.observe(took_s)
        for answer in answers:
            if isinstance(answer, PushReply):
                if not (answer.rows or answer.repeated):
                    continue  # of no keys: it asked for a stamp
                self.rows += answer.rows
                self.new_keys += answer.new_keys
            self.pushes[_outcome(answer)] += 1

    def refused(self, error: Exception) -> None:
        """Count a push that came into no group."""
        self.pushes[_outcome(error)] += 1


def _outcome(answer: PushReply | Exception) -> str:
    match answer:
        case PushReply():
            return "repeated" if answer.repeated and not answer.rows else "done"
        case StaleLineage():
            return "stale_lineage"
        case StaleNumber():
            return "stale_number"
        case Unavailable() | LimitExceeded():
            return "refused"
        case _:
            return "failed"
