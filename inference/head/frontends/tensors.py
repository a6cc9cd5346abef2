"""Named tensors, as other systems' protocols send them, to the columns of a request.

A tensor is called like the feature it holds. Its first dimension is the row:

* (B,) or (B, 1): one value a row; of a feature with many values, bags of one.
* (B, w): w values a row; of a feature with many values, B bags of w.
* (N,) with `NAME_offsets` (B+1,): B bags of any length, and perhaps `NAME_weights` (N,).

A tensor of one row beside others of B rows is of the context: it stands for every row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.request.received import Limits, ReceivedColumns, check_count
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Cross, Dense, Feature, IdSequence, SentFeature
from ringpull.ps.errors import InvalidInput

OFFSETS: Final = "_offsets"
WEIGHTS: Final = "_weights"


def columns_of(tensors: Mapping[str, NDArray[Any]], features: Iterable[Feature], limits: Limits) -> ReceivedColumns:
    """Return tensors as the columns of one request, checked for size.

    Args:
        tensors: Name -> array of any shape; strings as `str` in arrays of objects. What its values mean is checked
            later, by the schema.
        features: Features of the version that is asked for.

    Raises:
        InvalidInput: A name or a shape does not fit; the message names the tensor.
        LimitExceeded: The request is larger than `limits`.
    """
    check_count(len(tensors), limits.max_columns)
    known = {each.name: each for each in features if not isinstance(each, Cross)}
    parts = {name for name in tensors if name not in known and _owner(name, known) in tensors}
    columns: dict[str, Column] = {}
    for name, values in tensors.items():
        if name in parts:
            continue
        feature = known.get(name)
        if feature is None:
            raise InvalidInput(f"input {name}: the model has no such feature; it has {', '.join(known)}")
        columns[name] = _column(feature, values, tensors.get(name + OFFSETS), tensors.get(name + WEIGHTS))
    rows = max(map(len, columns.values()), default=0)
    context = {name: column for name, column in columns.items() if len(column) == 1 < rows}
    own = {name: column for name, column in columns.items() if name not in context}
    return ReceivedColumns.of_columns(own, context, limits)


def _owner(name: str, known: Mapping[str, SentFeature]) -> str:
    """Return the feature that a tensor is the offsets or weights of; empty: of none."""
    for suffix in (OFFSETS, WEIGHTS):
        if name.endswith(suffix) and name.removesuffix(suffix) in known:
            return name.removesuffix(suffix)
    return ""


def _column(
    feature: SentFeature, values: NDArray[Any], offsets: NDArray[Any] | None, weights: NDArray[Any] | None
) -> Column:
    name = feature.name
    many = isinstance(feature, IdSequence) or (not isinstance(feature, Dense) and feature.many)
    if offsets is not None or weights is not None:
        if not many:
            raise InvalidInput(f"input {name}{OFFSETS}: feature {name} has one value a row")
        if offsets is None:
            raise InvalidInput(f"input {name}{WEIGHTS}: goes with {name}{OFFSETS}")
        return Ragged(values, offsets, weights)
    if values.ndim not in (1, 2):
        raise InvalidInput(f"input {name}: has {values.ndim} dimensions; the first is the row, so give one or two")
    if many:
        rows, width = (*values.shape, 1)[:2]
        return Ragged(values.reshape(-1), np.arange(rows + 1) * width)
    if isinstance(feature, Dense) and feature.width > 1:
        return values
    return values.reshape(-1) if values.shape[1:] == (1,) else values
