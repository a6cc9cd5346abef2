"""Calls in flight of one way into a head, over all protocols that it speaks there, and how many there may be.

A call has a place from its beginning to its end, but for the time in which its message is overdue
(`ringpull.inference.head.receiving`): it is no work then, and the place is another one's. When the message comes after
all, the call has to have a place again, and is refused where all are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ringpull.ps.errors import LimitExceeded

RETRY_AFTER_S: Final = 0.05
"""Hint to whoever is one too many: by then some of so many calls have ended."""


class CallsInFlight:
    """Count of calls that have a place. Owned by the event loop."""

    def __init__(self, max_calls: int) -> None:
        """Begin with none; there may be `max_calls`."""
        self._max_calls = max_calls
        self._count = 0

    def __repr__(self) -> str:
        return f"<CallsInFlight {self._count} of {self._max_calls}>"

    def __len__(self) -> int:
        return self._count

    def begin(self) -> None:
        """Give a place to a call, until `end`.

        Raises:
            LimitExceeded: All places are taken. `retry_after_s` is set.
        """
        if self._count >= self._max_calls:
            raise self._refusal()
        self._count += 1

    def end(self) -> None:
        """Take the place of a call that has ended."""
        self._count -= 1

    @contextmanager
    def place(self) -> Iterator[None]:
        """Give a place to a call while it is within; raises what `begin` does."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def set_aside(self) -> None:
        """Take the place of a call whose message is overdue, until `take_back`."""
        self._count -= 1

    def take_back(self) -> None:
        """Give its place to a call that was set aside, whether there is room or not: it goes on, or is ending."""
        self._count += 1

    def check(self) -> None:
        """Check that a call which goes on after it was set aside has not made them too many.

        Raises:
            LimitExceeded: It has; it is to end. `retry_after_s` is set.
        """
        if self._count > self._max_calls:
            raise self._refusal()

    def _refusal(self) -> LimitExceeded:
        return one_too_many("calls are in flight", self._max_calls, "max_concurrent_requests")


def one_too_many(what: str, limit: int, name: str) -> LimitExceeded:
    """Return the error of a call that is one too many, by the name of the setting that says so."""
    return LimitExceeded(
        f"{limit} {what}, the most there may be ({name}); ask again in {round(RETRY_AFTER_S * 1e3)} ms",
        retry_after_s=RETRY_AFTER_S,
    )
