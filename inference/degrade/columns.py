"""A degradation on the columns of requests: rows and values left out before anything is made of them.

Requests of one layout are taken end to end; it costs a few microseconds per column that is cut. What is left out is not
checked: a NaN in a candidate that is not scored is nobody's error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.degrade.levels import Degradation
from ringpull.inference.degrade.steps import Step
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.raw_columns import last_values, offsets_of


class DegradedColumns(NamedTuple):
    """Columns of R requests, degraded, and what that changed."""

    candidates: dict[str, Column]
    context: dict[str, Column]
    row_counts: tuple[int, ...]
    """(R,): candidate rows left of each request."""
    changed: list[set[Step]]
    """(R,): steps that changed each request."""


def degraded_columns(
    candidates: dict[str, Column],
    context: dict[str, Column],
    row_counts: tuple[int, ...],
    degradation: Degradation,
) -> DegradedColumns:
    """Cap the candidates of requests, and cut the lists of their features.

    Args:
        candidates: Columns of as many rows as `row_counts` adds up to.
        context: Columns of a row per request.
        row_counts: (R,): candidate rows of each request.
    """
    changed: list[set[Step]] = [set() for _ in row_counts]
    cap = degradation.cap
    if cap is not None and max(row_counts) > cap.most:
        first = np.concatenate([np.arange(rows) < cap.most for rows in row_counts])
        candidates = {name: _chosen_rows(column, first) for name, column in candidates.items()}
        for request, rows in enumerate(row_counts):
            if rows > cap.most:
                changed[request].add(cap)
        row_counts = tuple([min(rows, cap.most) for rows in row_counts])
    numbers = np.arange(len(row_counts))
    return DegradedColumns(
        _with_lists_cut(candidates, np.repeat(numbers, row_counts), degradation, changed),
        _with_lists_cut(context, numbers, degradation, changed),
        row_counts,
        changed,
    )


def _with_lists_cut(
    columns: dict[str, Column], requests: NDArray[np.int64], degradation: Degradation, changed: list[set[Step]]
) -> dict[str, Column]:
    """Return the columns with their lists cut, and add the steps to `changed` of the `requests` (B,) of rows cut."""
    cut = dict(columns)
    for name in degradation.cuts.keys() & columns.keys():
        column, step = columns[name], degradation.cuts[name]
        shorter = _last_of_rows(column, step.most)
        if shorter is None:
            continue
        cut[name] = shorter
        longer = np.diff(column.offsets) > step.most if isinstance(column, Ragged) else slice(None)
        for request in np.flatnonzero(np.bincount(requests[longer])).tolist():
            changed[request].add(step)
    return cut


def _last_of_rows(column: Column, most: int) -> Column | None:
    """Return the last `most` values of every row; None when no row has more."""
    if not isinstance(column, Ragged):
        return column[:, -most:] if column.ndim == 2 and column.shape[1] > most else None
    kept = last_values(column.offsets, most)
    if kept is None:
        return None
    index, offsets = kept
    weights = None if column.weights is None else column.weights[index]
    return Ragged.known_to_fit(column.values[index], offsets, weights)


def _chosen_rows(column: Column, rows: NDArray[np.bool_]) -> Column:
    """Return the rows of a column that `rows` (B,) chooses."""
    if not isinstance(column, Ragged):
        return column[rows]
    lengths = np.diff(column.offsets)
    values = np.repeat(rows, lengths)
    weights = None if column.weights is None else column.weights[values]
    return Ragged.known_to_fit(column.values[values], offsets_of(lengths[rows]), weights)
