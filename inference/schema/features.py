"""Preparing features: from the columns of a request, or of a training loop, to ids and numbers.

Everything is done on whole columns; the cost per feature is a few microseconds plus the work on its values. Results
may be read-only views of the columns given. What a column may not hold is an `InvalidInput` that names the feature:
nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.prediction import Filled, FillReason
from ringpull.inference.schema.columns import Column, as_columns, no_rows, no_text_in_row, not_one_row
from ringpull.inference.schema.kinds import Cross, Dense, Feature, MadeFeature, SentFeature
from ringpull.inference.schema.raw_columns import read_column, stand_in
from ringpull.inference.schema.transforms import Vocabulary, keys_of_values
from ringpull.ps.errors import InvalidInput, NoText
from ringpull.ps.hashing import positions_of

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_INT64: Final = np.dtype(np.int64)

CROSS_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
"""Multiplier that makes the order of a cross's parts matter: 2^64 / golden ratio, odd."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedFeature:
    """One feature of B rows, ready for look-up or for the dense program."""

    rows: int
    """Number of rows, B."""
    ids: Int64Array | None = None
    """Ids (B,), or (N,) when ragged; None for Dense. A uint64 or a string's hash is the same 64 bits seen as int64."""
    offsets: Int64Array | None = None
    """Starts of rows (B+1,) of Sparse with `many` and of IdSequence (not padded, at most `length` ids a row)."""
    weights: Float32Array | None = None
    """Weights (N,) of weighted features."""
    dense: Float32Array | None = None
    """Numbers (B, width) of Dense features."""
    withheld: BoolArray | None = None
    """Rows (B,) whose ids are not looked up and count as unknown; None: all are looked up."""


class Fill(NamedTuple):
    """A feature that missing rules had to fill, in some of its rows."""

    feature: str
    reason: FillReason
    values: Int64Array
    """Values filled in of each row (B,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Features of the same rows, and which of them the missing rules had to fill."""

    rows: int
    features: dict[str, PreparedFeature]
    """Features in the schema's order, crosses last."""
    fills: tuple[Fill, ...] = ()

    @property
    def filled(self) -> tuple[Filled, ...]:
        """Features that were filled, counted over all rows."""
        return tuple(Filled(fill.feature, fill.reason, int(fill.values.sum())) for fill in self.fills)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequests:
    """The two parts of a request, or of R requests whose columns are of the same names. Each feature is in one part."""

    row_counts: tuple[int, ...]
    """Candidate rows of each request (R,)."""
    candidates: Prepared
    """Features sent per row, and crosses with any of them: the rows of all requests."""
    context: Prepared
    """Features sent as context, crosses of them, and absent features with a missing rule: a row per request."""
    degraded: Sequence[tuple[str, ...]] = ()
    """Phrases (R,) for what was left out of each request before it was prepared; empty: nothing of any."""

    def filled(self) -> list[tuple[Filled, ...]]:
        """Return what was filled in each request."""
        filled: list[tuple[Filled, ...]] = [()] * len(self.row_counts)
        if not self.context.fills and not self.candidates.fills:
            return filled
        first_rows = np.cumsum((0, *self.row_counts[:-1]))
        counts = [(fill, fill.values) for fill in self.context.fills]
        counts += [(fill, np.add.reduceat(fill.values, first_rows)) for fill in self.candidates.fills]
        for fill, values in counts:
            for request in np.flatnonzero(values).tolist():
                filled[request] += (Filled(fill.feature, fill.reason, int(values[request])),)
        return filled


def prepare(features: Mapping[str, Feature], given: Mapping[str, Any], rows: int) -> Prepared:
    """Prepare all features of a schema from columns, which have `rows` rows. See `Schema.prepare`."""
    part = _Part(rows)
    _check_names(features, given)
    columns = as_columns(given)
    for name, feature in features.items():
        if isinstance(feature, MadeFeature):
            part.make(feature, [part.taken(each, feature) for each in feature.of])
        else:
            part.add(name, feature, columns.get(name))
    return part.prepared()


def prepare_requests(
    features: Mapping[str, Feature],
    candidates: Mapping[str, Column],
    context: Mapping[str, Column],
    row_counts: tuple[int, ...],
) -> PreparedRequests:
    """Prepare requests end to end, whose `context` columns have one row for each. See `Schema.prepare_requests`."""
    _check_names(features, candidates)
    _check_names(features, context)
    for name, column in context.items():
        if name in candidates:
            raise InvalidInput(f"feature {name}: sent both per row and as context; send one of them")
        if len(column) != len(row_counts):
            raise not_one_row(name, len(column))
    per_row, once = _Part(sum(row_counts)), _Part(len(row_counts))
    for name, feature in features.items():
        if isinstance(feature, MadeFeature):
            parts = [per_row if each in per_row.features else once for each in feature.of]
            if per_row in parts:
                taken = [
                    part.taken(each, feature) if part is per_row else np.repeat(part.taken(each, feature), row_counts)
                    for part, each in zip(parts, feature.of, strict=True)
                ]
                per_row.make(feature, taken)
            else:
                once.make(feature, [once.taken(each, feature) for each in feature.of])
        elif name in candidates:
            per_row.add(name, feature, candidates[name])
        else:
            once.add(name, feature, context.get(name))
    return PreparedRequests(row_counts, per_row.prepared(), once.prepared())


class _Part:
    """Features being prepared for the same rows, with what crosses are made of."""

    def __init__(self, rows: int) -> None:
        if rows < 1:
            raise no_rows()
        self.rows = rows
        self.features: dict[str, PreparedFeature] = {}
        self._fills: list[Fill] = []
        self._sources: dict[str, NDArray[Any]] = {}

    def add(self, name: str, feature: SentFeature, column: Column | None) -> None:
        absent = column is None
        if column is None:
            column = stand_in(name, feature, self.rows)
        values, offsets, weights, filled = read_column(name, feature, column, self.rows)
        source = values
        try:
            for transform in feature.transforms:
                values = transform.apply(values)
                if not isinstance(transform, Vocabulary):
                    source = values
            if not isinstance(feature, Dense):
                # int64 values are their own keys: the common case, kept to one comparison.
                ids = np.ascontiguousarray(values if values.dtype == _INT64 else keys_of_values(values).view(_INT64))
        except NoText as exc:
            raise no_text_in_row(name, exc, offsets) from exc
        if isinstance(feature, Dense):
            self.features[name] = PreparedFeature(
                self.rows, dense=np.ascontiguousarray(values).reshape(self.rows, feature.width)
            )
        else:
            self._sources[name] = ids if source is values else source
            self.features[name] = PreparedFeature(self.rows, ids, offsets, weights)
        if absent:
            self._fills.append(Fill(name, "absent", np.ones(self.rows, np.int64)))
        elif filled is not None:
            self._fills.append(Fill(name, "missing", filled))

    def taken(self, name: str, by: MadeFeature) -> NDArray[Any]:
        """What a feature that is made of others (rows,) takes of one of them: a cross its keys, else its ids."""
        if isinstance(by, Cross):
            try:
                return keys_of_values(self._sources[name])
            except NoText as exc:
                raise no_text_in_row(name, exc, None) from exc
        ids = self.features[name].ids
        assert ids is not None  # checked with the schema: it is Sparse
        return ids

    def make(self, feature: MadeFeature, parts: Sequence[NDArray[Any]]) -> None:
        """Add a feature made of others: of what it takes of each (rows,)."""
        if isinstance(feature, Cross):
            self._cross(feature, parts)
        else:
            self.features[feature.name] = PreparedFeature(self.rows, feature.key.evaluate(*parts))

    def _cross(self, feature: Cross, keys: Sequence[UInt64Array]) -> None:
        hashed = positions_of(keys[0])
        for more in keys[1:]:
            hashed = positions_of(hashed * CROSS_MULTIPLIER + more)
        ids = (hashed % np.uint64(feature.buckets)).view(np.int64)
        self.features[feature.name] = PreparedFeature(self.rows, ids)

    def prepared(self) -> Prepared:
        return Prepared(self.rows, self.features, tuple(self._fills))


def _check_names(features: Mapping[str, Feature], columns: Collection[str]) -> None:
    for name in columns:
        feature = features.get(name)
        if feature is None:
            sent = ", ".join(each for each, kind in features.items() if not isinstance(kind, MadeFeature))
            raise InvalidInput(f"feature {name}: the model has no such feature; it takes {sent}")
        if isinstance(feature, MadeFeature):
            raise InvalidInput(f"feature {name}: made of {', '.join(feature.of)} by the server; send those instead")
