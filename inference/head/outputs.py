"""Outputs of a version: those that a request wants, with as many rows as it has, or why there are none."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.catalog import ServedVersion
from ringpull.ps.errors import InvalidInput


def predicts_nothing(asked: ServedVersion) -> InvalidInput:
    """Return the error of a prediction by a version of tables alone."""
    tables = ", ".join(asked.rows.tables)
    return InvalidInput(
        f"{asked.loaded.name} has tables only, and predicts nothing; ask for their rows by key (Lookup; over HTTP"
        f" /v1/models/{asked.key[0]}/tables/TABLE:lookup). Its tables: {tables}"
    )


def wanted_outputs(names: Collection[str], served: ServedVersion) -> Collection[str]:
    """Return the outputs asked for, or all."""
    if not names:
        return served.outputs
    for name in names:
        if name not in served.outputs:
            known = ", ".join(sorted(served.outputs))
            raise InvalidInput(f"outputs: {served.loaded.name} has no output {name!r}; it has: {known}")
    return names


def with_rows(values: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """Return an output with as many rows as the request has; those that were not scored hold NaN."""
    if len(values) == rows:
        return values
    extended = np.full((rows, *values.shape[1:]), np.nan, np.float32)
    extended[: len(values)] = values
    return extended
