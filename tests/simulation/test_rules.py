"""With any one rule taken out, the simulation fails: what it does not notice it proves nothing about."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from tests.simulation.checks import Violation
from tests.simulation.history import run
from tests.simulation.rules import RULES, Rule

SEEDS = 1000
"""Histories that are tried at most. The first one does, until delays are drawn in another order."""


@pytest.mark.medium
@pytest.mark.parametrize("rule", RULES, ids=[rule.__name__ for rule in RULES])
def test_without_it_a_history_fails(rule: Rule) -> None:
    words, seed = RULES[rule]
    with rule():
        assert found(words, [seed, *range(SEEDS)]) is not None


def found(words: str, seeds: Iterable[int]) -> int | None:
    """The first seed of a history that fails with these words."""
    for seed in seeds:
        try:
            run(seed)
        except Violation as exc:
            if re.search(words, str(exc).splitlines()[0]):
                return seed
    return None
