"""Thousands of histories of a deployment, and what must hold in every one of them: see `tests.simulation.checks`.

A history that fails tells its seed and its story. `python -m tests.simulation SEED` tells it again.
"""

from __future__ import annotations

import pytest

from ringpull.router.control.controls import LEASE_S
from tests.simulation import checks
from tests.simulation.history import run

HISTORIES, OFTEN = 2000, 1000
"""Histories in all, and those that are run every time; the others are, too, where there are minutes."""
AT_ONCE = 50


def test_the_longest_time_without_an_owner_is_a_lease_and_a_restart() -> None:
    """In calm: counted from when the last thing went wrong, or ended going wrong."""
    assert LEASE_S == 10.0
    assert checks.RESTART_S == 10.0
    assert checks.UNOWNED_S == LEASE_S + checks.RESTART_S == 20.0


@pytest.mark.medium
@pytest.mark.parametrize(
    "first",
    [pytest.param(each, marks=[pytest.mark.slow] * (each >= OFTEN)) for each in range(0, HISTORIES, AT_ONCE)],
)
def test_whatever_goes_wrong_what_must_hold_holds(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        run(seed)


def test_a_history_is_its_seed() -> None:
    assert run(7).story() == run(7).story()
