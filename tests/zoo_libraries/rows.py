"""Requests made up from a schema, and the arguments that a library's own module gets for the same rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Cross, Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from tests.zoo_libraries.model import ROWS, ZooModel

BEYOND = 10_000_000
"""Id beyond every table, and exact as a float32."""


def make_columns(model: ZooModel, rng: np.random.Generator, rows: int, *, empty: bool = False) -> dict[str, Column]:
    """Return random columns; with `empty`, every bag and history that may be empty is."""
    features = [each for each in model.schema.features if not isinstance(each, Cross)]
    return {each.name: _column(model, rng, each, rows, empty) for each in features}


def _column(model: ZooModel, rng: np.random.Generator, feature: Feature, rows: int, empty: bool) -> Column:
    if isinstance(feature, Dense):
        return rng.normal(size=(rows, feature.width)).astype(np.float32)
    assert not isinstance(feature, Cross)
    ids = model.ids.get(feature.name, ROWS)
    if isinstance(feature, Sparse) and not feature.many:
        return rng.integers(0, ids, rows)
    longest = feature.length if isinstance(feature, IdSequence) else 8
    least = 1 if feature.never_empty else 0
    lengths = np.full(rows, least) if empty else rng.integers(least, longest + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = rng.integers(1 if isinstance(feature, IdSequence) else 0, ids, int(offsets[-1]))
    weighted = isinstance(feature, Sparse) and feature.weighted
    return Ragged(values, offsets, rng.normal(size=len(values)).astype(np.float32) if weighted else None)


def with_beyond(column: Column, rng: np.random.Generator) -> Column | None:
    """Return a column of ids, some of which lie beyond every table; None: it has no ids."""
    values = column.values if isinstance(column, Ragged) else column
    if values.dtype.kind != "i" or len(values) == 0:
        return None
    changed = np.where(rng.random(len(values)) < 0.5, BEYOND, values)
    changed[0] = BEYOND
    return Ragged(changed, column.offsets, column.weights) if isinstance(column, Ragged) else changed


def repeated(columns: Mapping[str, Column], rows: int) -> dict[str, Column]:
    """Return columns of one row, written out `rows` times."""
    written: dict[str, Column] = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            weights = None if column.weights is None else np.tile(column.weights, rows)
            written[name] = Ragged(np.tile(column.values, rows), np.arange(rows + 1) * len(column.values), weights)
        else:
            written[name] = np.repeat(column, rows, axis=0)
    return written


def tensors(schema: Schema, columns: Mapping[str, Column], rows: int) -> dict[str, Tensor]:
    """Return all the arguments that a schema makes of columns, by name."""
    single = [name for name, argument in schema.argument_names().items() if not argument.part.endswith("stack")]
    arguments: Mapping[str, NDArray] = schema.arguments(schema.prepare(columns, rows), single)
    return {name: torch.from_numpy(np.array(values)) for name, values in arguments.items()}
