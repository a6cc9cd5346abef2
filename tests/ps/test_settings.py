"""Numbers at and beside their bounds."""

from __future__ import annotations

from math import inf, nan

import pytest

from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import above, at_least, within

HUGE = 10**400
"""No double is as large, so it cannot be made a float."""


def test_a_bound_is_allowed_where_it_is_said_to_be() -> None:
    at_least(1).check("--a", 1)
    at_least(1).check("--b", 2.5)
    above(0).check("--a", 1e-9)
    within(0, 1).check("--a", 0)
    within(0, 1).check("--b", 1.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "--b is 0; it must be 1 or more"),
        (nan, "--b is nan; it must be 1 or more, and finite"),
        (inf, "--b is inf; it must be 1 or more, and finite"),
    ],
)
def test_too_little(value: float, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        at_least(1).check("--b", value)


@pytest.mark.parametrize("value", [0, -1, nan, inf])
def test_not_above(value: float) -> None:
    with pytest.raises(InvalidInput, match=f"^--a is {value}; it must be above 0"):
        above(0).check("--a", value)


@pytest.mark.parametrize("value", [-0.1, 1.1, nan, inf])
def test_not_within(value: float) -> None:
    with pytest.raises(InvalidInput, match=f"^--a is {value}; it must be from 0 to 1$"):
        within(0, 1).check("--a", value)


def test_numbers_that_no_float_holds() -> None:
    at_least(0).check("--a", HUGE)
    with pytest.raises(InvalidInput, match=r"it must be from 0 to 1$"):
        within(0, 1).check("--a", HUGE)
    with pytest.raises(InvalidInput, match=r"^--a is -10+; it must be 0 or more$"):
        at_least(0).check("--a", -HUGE)


def test_a_ceiling_is_told_by_itself() -> None:
    at_least(1, ceiling=9_000).check("--a", 9_000)
    for value in (9_001, 1e300, HUGE):
        with pytest.raises(InvalidInput, match=r"^--a is [0-9e+]+; it must be 9,000 or less$"):
            at_least(1, ceiling=9_000).check("--a", value)
    with pytest.raises(InvalidInput, match=r"^--a is 0; it must be above 0$"):
        above(0, ceiling=9).check("--a", 0)
    with pytest.raises(InvalidInput, match=r"^--a is inf; it must be above 0, and finite$"):
        above(0, ceiling=9).check("--a", inf)
