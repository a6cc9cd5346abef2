"""Retry delays: ever longer waits after one failure after the other, until a success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")


class RetryDelays(Generic[K]):
    """Waits of whatever fails, by key. May be used from any thread, each key by one at a time.

    Args:
        first_s: Delay after the first failure; doubled with each further one.
        longest_s: Upper bound on it.
        clock: Returns seconds since any origin.
    """

    def __init__(self, first_s: float, longest_s: float, clock: Callable[[], float]) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._clock = clock
        self._failures: dict[K, tuple[int, float]] = {}

    def __repr__(self) -> str:
        return f"<RetryDelays {self._failures}>"

    def failed(self, key: K) -> float:
        """Take note of a failure; return when to try again."""
        failures = self._failures.get(key, (0, 0.0))[0] + 1
        due_s = self._clock() + min(self._longest_s, self._first_s * 2.0 ** min(failures - 1, 32))
        self._failures[key] = failures, due_s
        return due_s

    def succeeded(self, key: K) -> None:
        """Take note of a success: the next failure counts as the first."""
        self._failures.pop(key, None)

    def waits(self, key: K) -> bool:
        """Return whether it is too early to try again."""
        _, due_s = self._failures.get(key, (0, None))
        return due_s is not None and self._clock() < due_s
