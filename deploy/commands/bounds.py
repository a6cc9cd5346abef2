"""Bounds of numbers given as options: refused by the option's name, before anything is started.

The packages below check their own settings too, by their own names, which the command line does not know. NaN and
infinity are refused everywhere: NaN passes any comparison that is turned round, and waits for ever end nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ringpull.ps.errors import InvalidInput


def check_at_least(minimum: float, given: Mapping[str, float]) -> None:
    """Refuse values below `least`, and those that are not finite.

    Args:
        given: Option -> value.

    Raises:
        InvalidInput: Names the option.
    """
    for option, value in given.items():
        if not minimum <= value < math.inf:
            raise InvalidInput(f"{option} is {value}; it must be {minimum} or more{_finite(value)}")


def check_above(bound: float, given: Mapping[str, float]) -> None:
    """The same for values that must be above `bound`."""
    for option, value in given.items():
        if not bound < value < math.inf:
            raise InvalidInput(f"{option} is {value}; it must be above {bound}{_finite(value)}")


def check_within(minimum: float, maximum: float, given: Mapping[str, float]) -> None:
    """The same for values from `least` to `most`, both included."""
    for option, value in given.items():
        if not minimum <= value <= maximum:
            raise InvalidInput(f"{option} is {value}; it must be from {minimum} to {maximum}")


def _finite(value: float) -> str:
    return "" if math.isfinite(value) else ", and finite"
