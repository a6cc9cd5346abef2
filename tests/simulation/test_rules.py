"""With any one rule taken out, the simulation fails: what it does not notice it proves nothing about."""

from __future__ import annotations

import pytest

from tests.simulation.checks import Violation
from tests.simulation.history import run
from tests.simulation.rules import RULES, Rule

SEEDS = 400
"""Histories that are tried at most."""


@pytest.mark.medium
@pytest.mark.parametrize("rule", RULES, ids=[rule.__name__ for rule in RULES])
def test_without_it_a_history_fails(rule: Rule) -> None:
    with rule(), pytest.raises(Violation):
        run_all([RULES[rule], *range(SEEDS)])


def run_all(seeds: list[int]) -> None:
    for seed in seeds:
        run(seed)
