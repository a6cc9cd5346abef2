"""Prediction of one row, and the arithmetic that its probabilities have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

SAME: Final = 1e-9
"""Part of a number by which others may be below it and are as large: the first of them is taken."""


@dataclass(slots=True)
class Prediction:
    """What a model predicts of a row; None where it predicts nothing."""

    value: Any = None
    """A number, a class, or the place of a cluster."""
    probabilities: dict[str, float] = field(default_factory=dict)
    distances: list[float] = field(default_factory=list)


def most_likely(probabilities: Mapping[str, float]) -> Prediction:
    if any(math.isnan(each) for each in probabilities.values()):
        return Prediction()
    top = max(probabilities.values())
    first = next(name for name, each in probabilities.items() if each >= top - SAME * abs(top))
    return Prediction(first, dict(probabilities))


def exp(x: float) -> float:
    return float(np.exp(x))


def total_of(numbers: Iterable[float]) -> float:
    return float(np.sum(np.array([*numbers], np.float64)))


def shared(numbers: Sequence[float]) -> list[float]:
    """Return numbers divided by their sum."""
    shares: list[float] = (np.array(numbers, np.float64) / total_of(numbers)).tolist()
    return shares


def powered(x: float, power: float) -> float:
    return float(np.power(np.float64(x), power))
