"""Values of one row: a number, a text, or None where it is missing."""

from __future__ import annotations

from ringpull.inference.importers.pmml.fields import Interval, as_single

Given = float | str | None


class Single(float):
    """A float32, as requests bring numbers: what it is compared with is rounded to one."""

    @classmethod
    def of(cls, number: float) -> Single:
        """Return the nearest one."""
        return cls(as_single(number))


def as_number(value: Given) -> float | None:
    """Return a value as a number; a text that is none is missing."""
    if not isinstance(value, str):
        return value
    try:
        return float({"true": "1", "false": "0"}.get(value, value))
    except ValueError:
        return None


def beside(value: Given, number: float) -> float:
    """Return a number that a value is compared with, or that takes its place."""
    return Single.of(number) if isinstance(value, Single) else number


def lies_within(interval: Interval, number: float) -> bool:
    """Return whether a number lies within margins."""
    return (interval.single() if isinstance(number, Single) else interval).holds(number)
