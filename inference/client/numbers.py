"""Numbers that clients are given, numpy's or Python's: what is none is refused by its name before anything is sent."""

from __future__ import annotations

import math
import operator
from typing import Any, Final

import numpy as np

from ringpull.ps.errors import InvalidInput

MAX_TIMEOUT_S: Final = 1e8
"""Three years: a longer deadline, and none, are this one. gRPC takes what is beyond 2^63 nanoseconds for the past. A
call without any deadline would be worse off, too: to such a one a head gives its default, not the longest it grants."""


def timeout(name: str, value: Any) -> float:
    """Return a time in seconds; infinity and what is very long as the longest that can be sent. Zero and less stay.

    Raises:
        InvalidInput: It is no number, or NaN.
    """
    seconds: float = value if type(value) is float else _real(name, value)
    if seconds != seconds:
        raise InvalidInput(f"{name} is nan; it must be seconds, or inf for no deadline")
    return min(seconds, MAX_TIMEOUT_S)


def whole(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number within bounds.

    Raises:
        InvalidInput: It is none.
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise InvalidInput(f"{name} is {_shown(value)}; it must be a whole number")
    if number < least:
        raise InvalidInput(f"{name} is {_shown(number)}; it must be {least} or more")
    if number > most:
        raise InvalidInput(f"{name} is {_shown(number)}; it must be {most:,} or less")
    return number


def _real(name: str, value: Any) -> float:
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # of an int that no float can hold
            return math.inf if value > 0 else -math.inf
    raise InvalidInput(f"{name} is {_shown(value)}; it must be a number of seconds, or inf for no deadline")


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # of an int of more digits than Python writes
        return f"an int of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:40]}..."
