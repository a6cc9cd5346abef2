"""Preparing features: from the columns of a request, or of a training loop, to ids and numbers.

Everything is done on whole columns; the cost per feature is a few microseconds plus the work on its values. Results
may be read-only views of the columns given. What a column may not hold is an `InvalidInput` that names the feature:
nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.columns import Column
from inference.kinds import Cross, Dense, Feature, SentFeature
from inference.prediction import Filled
from inference.raw_columns import read_column, stand_in
from inference.transforms import Vocabulary, keys_of_values
from ps.errors import InvalidInput
from ps.hashing import positions_of

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]
Float32Array = NDArray[np.float32]

_INT64: Final = np.dtype(np.int64)

CROSS_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio, odd: makes the order of a cross's parts matter."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedFeature:
    """One feature of B rows, ready for look-up or for the dense program."""

    rows: int
    """B."""
    ids: Int64Array | None = None
    """(B,), or (N,) when ragged; None for Dense. A uint64, or a string's hash, is the same 64 bits seen as int64."""
    offsets: Int64Array | None = None
    """(B+1,): Sparse with `many`, and Sequence (not padded, at most `length` ids a row)."""
    weights: Float32Array | None = None
    """(N,): weighted features."""
    dense: Float32Array | None = None
    """(B, width): Dense."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Features of the same rows, and which of them the missing rules had to fill."""

    rows: int
    features: dict[str, PreparedFeature]
    """In the schema's order, crosses last."""
    filled: tuple[Filled, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A request's two parts. Each feature of the schema is in one of them."""

    candidates: Prepared
    """The features sent per row, and crosses with any of them."""
    context: Prepared
    """One row for all: the features sent as context, crosses of them, and absent features with a missing rule."""


def prepare(features: Mapping[str, Feature], columns: Mapping[str, Column], rows: int) -> Prepared:
    """Prepare all features of a schema from `columns`, which have `rows` rows. See `Schema.prepare`."""
    part = _Part(rows)
    _check_names(features, columns)
    for name, feature in features.items():
        if isinstance(feature, Cross):
            part.cross(feature, [part.key(each) for each in feature.of])
        else:
            part.add(name, feature, columns.get(name))
    return part.prepared()


def prepare_request(
    features: Mapping[str, Feature], candidates: Mapping[str, Column], context: Mapping[str, Column], rows: int
) -> PreparedRequest:
    """Prepare a request whose `context` columns have one row that stands for all. See `Schema.prepare_request`."""
    _check_names(features, candidates)
    _check_names(features, context)
    for name, column in context.items():
        if name in candidates:
            raise InvalidInput(f"feature {name}: sent both per row and as context; send one of them")
        if len(column) != 1:
            raise InvalidInput(
                f"feature {name}: has {len(column)} rows; a context feature has one, which stands for all candidates"
                " (a list of values is one row as [[1, 2, 3]])"
            )
    per_row, once = _Part(rows), _Part(1)
    for name, feature in features.items():
        if isinstance(feature, Cross):
            parts = [per_row if each in per_row.features else once for each in feature.of]
            home = per_row if per_row in parts else once
            home.cross(feature, [part.key(each) for part, each in zip(parts, feature.of, strict=True)])
        elif name in candidates:
            per_row.add(name, feature, candidates[name])
        else:
            once.add(name, feature, context.get(name))
    return PreparedRequest(per_row.prepared(), once.prepared())


class _Part:
    """Features being prepared for the same rows, with what crosses are made of."""

    def __init__(self, rows: int) -> None:
        if rows < 1:
            raise InvalidInput("there are no rows: send at least one")
        self.rows = rows
        self.features: dict[str, PreparedFeature] = {}
        self._filled: list[Filled] = []
        self._sources: dict[str, NDArray[Any]] = {}

    def add(self, name: str, feature: SentFeature, column: Column | None) -> None:
        absent = column is None
        if column is None:
            column = stand_in(name, feature, self.rows)
        values, offsets, weights, filled = read_column(name, feature, column, self.rows)
        source = values
        for transform in feature.transforms:
            values = transform.apply(values)
            if not isinstance(transform, Vocabulary):
                source = values
        if isinstance(feature, Dense):
            self.features[name] = PreparedFeature(
                self.rows, dense=np.ascontiguousarray(values).reshape(self.rows, feature.width)
            )
        else:
            # int64 values are their own keys: the common case, kept to one comparison.
            ids = np.ascontiguousarray(values if values.dtype == _INT64 else keys_of_values(values).view(_INT64))
            self._sources[name] = ids if source is values else source
            self.features[name] = PreparedFeature(self.rows, ids, offsets, weights)
        if absent:
            self._filled.append(Filled(name, "absent", self.rows))
        elif filled:
            self._filled.append(Filled(name, "missing", filled))

    def key(self, name: str) -> UInt64Array:
        """The keys (rows,) that a cross takes of one of its parts."""
        return keys_of_values(self._sources[name])

    def cross(self, feature: Cross, keys: Rows[UInt64Array]) -> None:
        """Add a cross; keys of context parts are (1,) and broadcast."""
        hashed = positions_of(keys[0])
        for more in keys[1:]:
            hashed = positions_of(hashed * CROSS_MULTIPLIER + more)
        ids = (hashed % np.uint64(feature.buckets)).view(np.int64)
        self.features[feature.name] = PreparedFeature(self.rows, ids)

    def prepared(self) -> Prepared:
        return Prepared(self.rows, self.features, tuple(self._filled))


def _check_names(features: Mapping[str, Feature], columns: Collection[str]) -> None:
    for name in columns:
        feature = features.get(name)
        if feature is None:
            sent = ", ".join(each for each, kind in features.items() if not isinstance(kind, Cross))
            raise InvalidInput(f"feature {name}: the model has no such feature; it takes {sent}")
        if isinstance(feature, Cross):
            raise InvalidInput(f"feature {name}: made of {', '.join(feature.of)} by the server; send those instead")
