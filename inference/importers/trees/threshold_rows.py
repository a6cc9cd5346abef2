"""Rows on the thresholds of trees, and next to them: where a graph of another precision goes another way."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.schema.columns import Column
from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Vocabulary

Thresholds = Mapping[str, Sequence[NDArray[np.float32]]]

MAX_ROWS: Final = 8192
"""Rows at most: of more thresholds some are left out, at random."""
ANY_ROWS: Final = 256
"""Rows of any numbers, and with NaN among them."""
UNKNOWN_TEXT: Final = "\x00unknown"
"""Text that no estimator knows."""
_UNKNOWN_SHARE: Final = 0.1

Values = Mapping[str, NDArray[np.int64]]
"""Integers that are known of a feature, by its name."""


def threshold_rows(
    schema: Schema, thresholds: Thresholds, values: Values, unknown: Collection[str] = ()
) -> dict[str, Column]:
    """Return rows, by feature, in which every threshold, and the float32 below and above, is the number of its column.

    Other columns have any of theirs. Without thresholds these are rows of any numbers and known categories, and some of
    the features `unknown` with a category that is none.
    """
    on = [
        (name, place, number)
        for name, columns in thresholds.items()
        for place, numbers in enumerate(columns)
        for number in _near(numbers).tolist()
    ]
    random = np.random.default_rng(0)
    if not on:
        made = _any_rows(schema, thresholds, values, ANY_ROWS, random)
        for name in sorted(unknown):
            strange = made[name].dtype.type(min(made[name]) - 1) if made[name].dtype.kind == "i" else UNKNOWN_TEXT
            made[name][random.random(ANY_ROWS) < _UNKNOWN_SHARE] = strange
        return _columns(made)
    chosen = on if len(on) <= MAX_ROWS else [on[each] for each in random.permutation(len(on))[:MAX_ROWS]]
    made = _any_rows(schema, thresholds, values, len(chosen), random)
    for row, (name, place, number) in enumerate(chosen):
        made[name][row, place] = number
    return _columns(made)


def nan_rows(schema: Schema, thresholds: Thresholds, values: Values) -> dict[str, Column]:
    """Return rows of which some numbers are NaN, and one of nothing else."""
    random = np.random.default_rng(1)
    made = _any_rows(schema, thresholds, values, ANY_ROWS, random)
    for feature in schema.features:
        if isinstance(feature, Dense) and feature.missing is not None:
            numbers = made[feature.name]
            numbers[random.random(numbers.shape) < 0.3] = np.nan
            numbers[0] = np.nan
    return _columns(made)


def _any_rows(
    schema: Schema, thresholds: Thresholds, values: Values, rows: int, random: np.random.Generator
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for feature in schema.features:
        if isinstance(feature, Dense):
            own = thresholds.get(feature.name, ())
            columns = [
                random.choice(_near(own[place]), rows)
                if place < len(own) and len(own[place])
                else random.standard_normal(rows)
                for place in range(feature.width)
            ]
            made[feature.name] = np.stack(columns, 1).astype(np.float32)
        elif isinstance(feature, Sparse):
            vocabulary = next((each for each in feature.transforms if isinstance(each, Vocabulary)), None)
            ids: Any = values.get(feature.name, np.arange(8)) if vocabulary is None else vocabulary.ids
            known = np.asarray(ids, object if feature.dtype == "string" else None)
            made[feature.name] = known[random.integers(0, len(known), rows)]
    return made


def _near(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return numbers and their neighbours, those that are finite."""
    with np.errstate(over="ignore"):
        near = np.concatenate([np.nextafter(numbers, np.float32(way)) for way in (-np.inf, np.inf)] + [numbers])
    return np.unique(near[np.isfinite(near)])


def _columns(made: dict[str, Any]) -> dict[str, Column]:
    return {name: each[:, 0] if each.ndim == 2 and each.shape[1] == 1 else each for name, each in made.items()}
