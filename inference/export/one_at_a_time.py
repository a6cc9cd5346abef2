"""Turns: exports in several threads of a process run one after the other, as torch traces and loads one at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_TURN: Final = RLock()
"""Held by the export that runs."""


def one_at_a_time(export: Callable[P, T]) -> Callable[P, T]:
    """Return a function that waits until no other export of the process runs: a trace of torch's spoils another's."""

    @wraps(export)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> T:
        with _TURN:
            return export(*args, **kwargs)

    return waiting
