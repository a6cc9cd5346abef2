"""Estimators as values: what a tree, a booster or a pipeline takes, what it gives, and its graph."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import NAME_PATTERN

Scores = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""Function of arguments by name that gives outputs by name."""

MATRIX: Final = "features"
"""Name of the one matrix that most estimators take."""
LABEL: Final = "label"
"""Name of a classifier's output that is the class itself."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConvertedEstimator:
    """An estimator as a graph, beside itself."""

    graph: ModelProto
    schema: Schema
    arguments: Mapping[str, str]
    """Argument of the schema by name of an input of the graph, where they are not called alike."""
    outputs: Mapping[str, str]
    """What each output of the graph that is served is called."""
    scores: Scores
    """The estimator's own answers."""
    thresholds: Mapping[str, Sequence[NDArray[np.float32]]]
    """Numbers that each column of a feature is compared with, ascending, by feature; empty: not known."""
    within: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Prepared ids [low, high) that it takes, by feature: others it fails on."""
    values: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """Integers that it knows of a column, by feature."""
    unknown: frozenset[str] = frozenset()
    """Features of which it takes categories that it does not know."""
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of classes, by served output."""
    notes: tuple[str, ...] = ()
    """What differs from the estimator, for people."""


class ScoredOnce:
    """Scores of an estimator, which is asked once for the same rows: an encoder of a million texts takes seconds."""

    def __init__(self, scores: Scores) -> None:
        self._scores = scores
        self._known: dict[bytes, Mapping[str, NDArray[Any]]] = {}

    def __call__(self, arguments: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Return the outputs by name."""
        rows = hashlib.sha256()
        for name, values in sorted(arguments.items()):
            rows.update(f"{name}:{values.dtype.str}:{values.shape}:".encode())
            rows.update(values.tobytes())
        key = rows.digest()
        if key not in self._known:
            self._known[key] = self._scores(arguments)
        return self._known[key]


def feature_names(given: Iterable[object]) -> list[str]:
    """Return names of features for these of columns: different ones, of the characters that a feature's name has."""
    taken: set[str] = set()
    names = []
    for each in given:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", str(each)).strip("_") or "column"
        plain = plain[:100] if NAME_PATTERN.fullmatch(plain[:100]) else f"column_{plain[:90].lstrip('.-')}"
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name)
        names.append(name)
    return names
