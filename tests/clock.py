"""A clock for what takes one: it stands until a test moves it."""

from __future__ import annotations


class Clock:
    """Seconds; `now_s` is the tests' to set."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s
