"""Bounds of numbers given as options: refused by the option's name, before anything is started.

The packages below check their own settings too, by their own names, which the command line does not know.
"""

from __future__ import annotations

from collections.abc import Mapping

from ringpull.ps.settings import Bounds, above, at_least, within


def check_at_least(minimum: float, given: Mapping[str, float]) -> None:
    """Refuse values below `minimum`, and those that are not finite.

    Args:
        given: Option -> value.

    Raises:
        InvalidInput: Names the option.
    """
    _check(at_least(minimum), given)


def check_above(bound: float, given: Mapping[str, float]) -> None:
    """The same for values that must be above `bound`."""
    _check(above(bound), given)


def check_within(minimum: float, maximum: float, given: Mapping[str, float]) -> None:
    """The same for values from `minimum` to `maximum`, both included."""
    _check(within(minimum, maximum), given)


def _check(bounds: Bounds, given: Mapping[str, float]) -> None:
    for option, value in given.items():
        bounds.check(option, value)
