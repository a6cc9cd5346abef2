"""Short form of what wide models have a thousand of: the few that matter most, and how many more there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")

SHOWN: Final = 25
"""Number of tables, look-ups and reasons in the short form: what a screen holds beside the rest."""


def most_important(items: Sequence[T], importance: Callable[[T], Any], *, every: bool) -> list[T]:
    """Return the `SHOWN` most important items in the order given; all of them with `every`, or if there are no more."""
    if every or len(items) <= SHOWN:
        return list(items)
    ranked = sorted(range(len(items)), key=lambda i: importance(items[i]), reverse=True)
    return [items[i] for i in sorted(ranked[:SHOWN])]


def and_more(count: int, shown: int, what: str = "", *, see: str = "--all") -> str:
    """Return the line that tells of those left out, ` and 963 more: --all`; empty if there are none.

    Args:
        count: Number of them all.
        what: What they are, or what they come to.
        see: What shows them.
    """
    left_out = count - shown
    return f" and {left_out:,} more{f' {what}' if what else ''}: {see}" if left_out > 0 else ""
