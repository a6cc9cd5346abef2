"""Numbers at and beside their bounds."""

from __future__ import annotations

from math import inf, nan

import pytest

from ringpull.deploy.commands.bounds import check_above, check_at_least, check_within
from ringpull.ps.errors import InvalidInput


def test_a_bound_is_allowed_where_it_is_said_to_be() -> None:
    check_at_least(1, {"--a": 1, "--b": 2.5})
    check_above(0, {"--a": 1e-9})
    check_within(0, 1, {"--a": 0, "--b": 1.0})


@pytest.mark.parametrize(
    ("value", "message"), [(0, "--b is 0; it must be 1 or more"), (nan, "--b is nan; it must be 1 or more, and finite")]
)
def test_too_little(value: float, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        check_at_least(1, {"--a": 1, "--b": value})


@pytest.mark.parametrize("value", [0, -1, nan, inf])
def test_not_above(value: float) -> None:
    with pytest.raises(InvalidInput, match=f"^--a is {value}; it must be above 0"):
        check_above(0, {"--a": value})


@pytest.mark.parametrize("value", [-0.1, 1.1, nan, inf])
def test_not_within(value: float) -> None:
    with pytest.raises(InvalidInput, match=f"^--a is {value}; it must be from 0 to 1$"):
        check_within(0, 1, {"--a": value})
