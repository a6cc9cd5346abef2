"""Rows to train small models on, and how an import is held against its model: on rows of its own, NaN among them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.report import ExportReport
from ringpull.inference.schema.columns import Column
from tests.inference.export.versions import Exported

ROWS = 400
COLUMNS = 5
CATEGORIES = 9
"""Categories of the last column."""


def matrix(*, nan: bool = True, seed: int = 0) -> NDArray[np.float32]:
    """Return rows of floats (ROWS, COLUMNS), of which the last column is categories, and some are NaN."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    if nan:
        rows[random.random(rows.shape) < 0.1] = np.nan
    rows[:, -1] = random.integers(0, CATEGORIES, ROWS)
    return rows


def labels(rows: NDArray[np.float32], classes: int = 2) -> NDArray[np.int64]:
    """Return labels that the rows tell something of."""
    sums = np.nan_to_num(rows[:, 0]) + np.nan_to_num(rows[:, 1]) + (rows[:, -1] % 3) / 3
    return np.digitize(sums, np.quantile(sums, np.arange(1, classes) / classes))


def numbers(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return numbers that the rows tell something of, above 0."""
    return np.exp(np.nan_to_num(rows[:, 0])) + (rows[:, -1] % 3) + 0.1


def columns_of(rows: NDArray[np.float32], report: ExportReport) -> dict[str, Column]:
    """Return rows as a request has them: a column a feature, or one of all."""
    features = [each.name for each in Exported(report.path).schema.features]
    if len(features) == 1:
        return {features[0]: rows}
    return {name: rows[:, place] for place, name in enumerate(features)}


def assert_predicts(
    report: ExportReport, rows: NDArray[np.float32], expected: dict[str, NDArray[Any]], tolerance: float = 2e-5
) -> None:
    """Assert that a version says what its model does, of all rows at once and of one alone."""
    version = Exported(report.path)
    columns = columns_of(rows, report)
    found = version.score(columns, len(rows))
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, tolerance, tolerance)
    alone = version.score({name: column[:1] for name, column in columns.items()}, 1)
    for name, values in expected.items():
        np.testing.assert_allclose(alone[name], values[:1], tolerance, tolerance)


def on_thresholds(rows: NDArray[np.float32], by_column: dict[int, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return rows of which each has one threshold, or its neighbour, for the number of its column."""
    made = []
    for column, thresholds in by_column.items():
        for way in (-np.inf, np.inf, 0.0):
            for number in thresholds if way == 0 else np.nextafter(thresholds, np.float32(way)):
                row = rows[len(made) % len(rows)].copy()
                row[column] = number
                made.append(row)
    return np.stack(made)
