"""Limits of ids: those that a model's dense program has rows for, held against every request before it is batched.

An embedding that stayed in the dense program raises at an id beyond its rows, and takes all requests of the batch with
it. So such an id is refused here, for its request alone; or another one takes its place, where the feature says which
(`beyond`), before anything is looked up by it. It costs one pass over the ids of each limited feature.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.model.manifest import IdLimit, Manifest
from ringpull.inference.schema.features import Fill, Prepared, PreparedFeature, PreparedRequests
from ringpull.inference.schema.kinds import Computed, Dense, Feature, MadeFeature
from ringpull.inference.schema.raw_columns import offsets_of
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData, InvalidInput

Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_UINT64: Final = 2**64


class Held(NamedTuple):
    """Requests that were held against limits."""

    prepared: PreparedRequests
    """The same requests, ids beyond replaced where their feature says by which."""
    refused: dict[int, InvalidInput]
    """Requests with an id that the model does not take, by their places."""


class IdLimits:
    """The limits of one version, bound to its schema."""

    def __init__(self, limits: Iterable[IdLimit], schema: Schema) -> None:
        """Bind.

        Raises:
            CorruptData: A limit is of no feature with ids, or of one that has another; or the id that a feature
                declares for those beyond is itself beyond. The message names the feature.
        """
        self._bound: dict[str, _Bound] = {}
        for limit in limits:
            if limit.feature in self._bound:
                raise CorruptData(f"manifest: the ids of feature {limit.feature} have two limits")
            feature = schema.get(limit.feature)
            if feature is None:
                raise CorruptData(f"manifest: the ids of {limit.feature} have a limit; it is not in the schema")
            self._bound[limit.feature] = _Bound.of(limit, feature)
        self._computed = [each for each in schema.features if isinstance(each, Computed)]
        made = {each.name for each in schema.features if isinstance(each, MadeFeature)}
        # What is made of ids is made of those that stand in, and is held against its own limit then.
        self._bound = dict(sorted(self._bound.items(), key=lambda each: each[0] in made))
        self._sent = len(self._bound.keys() - made)

    @classmethod
    def of(cls, manifest: Manifest, schema: Schema) -> IdLimits:
        """Return those of a version."""
        return cls(manifest.limits, schema)

    def __repr__(self) -> str:
        return f"IdLimits({', '.join(f'{name} {bound.span}' for name, bound in self._bound.items())})"

    def held(self, prepared: PreparedRequests, known: Container[str] = ()) -> Held:
        """Hold requests that were prepared together against the limits.

        Args:
            known: Features that are not among the prepared ones, as all of their ids are known to be within.
        """
        return self._held(list(self._bound.values()), prepared, known)

    def within(self, prepared: PreparedRequests, known: Container[str] = ()) -> PreparedRequests:
        """Return requests whose ids beyond are replaced by some that the model takes, whatever features declare."""
        bounds = [
            bound if bound.instead is not None else bound._replace(instead=bound.low) for bound in self._bound.values()
        ]
        return self._held(bounds, prepared, known).prepared

    def _held(self, bounds: Sequence[_Bound], prepared: PreparedRequests, known: Container[str]) -> Held:
        sent = _held([each for each in bounds[: self._sent] if each.name not in known], self._computed, prepared)
        made = _held(bounds[self._sent :], (), sent.prepared)
        return Held(made.prepared, made.refused | sent.refused)


class _Bound(NamedTuple):
    """The limit of one feature."""

    name: str
    low: int
    high: int
    instead: int | None
    """Id that takes the place of one beyond; None: it is refused."""
    modulus: int
    """2^64 where ids are numbers of the request seen as int64, to be told as what they were; else 0."""
    advice: str

    @classmethod
    def of(cls, limit: IdLimit, feature: Feature) -> _Bound:
        name, low, high = limit.feature, limit.low, limit.high
        if isinstance(feature, Dense):
            raise CorruptData(f"manifest: the ids of feature {name} have a limit; it has no ids")
        if isinstance(feature, MadeFeature):
            return cls(name, low, high, None, 0, "")
        bound = cls(
            name,
            low,
            high,
            feature.beyond,
            _UINT64 if feature.dtype == "uint64" and not feature.transforms else 0,
            "; a feature that declares beyond=ID takes others, too, as that one",
        )
        if feature.beyond is not None and not low <= feature.beyond < high:
            raise CorruptData(f"schema: feature {name}: beyond is {feature.beyond}; the model takes {bound.span}")
        return bound

    @property
    def span(self) -> str:
        return f"ids from {self.low} to {self.high - 1}"

    def beyond(self, ids: Int64Array) -> BoolArray | None:
        """Return which ids are out of bounds; None: none is."""
        # From `low` on, as uint64: what is below wraps around to the largest, so one comparison is both.
        above = (ids if self.low == 0 else ids - np.int64(self.low)).view(np.uint64)
        span = np.uint64(self.high - self.low)
        if not len(above) or above.max() < span:
            return None
        beyond: BoolArray = above >= span
        return beyond

    def errors(
        self, feature: PreparedFeature, beyond: BoolArray, first_rows: Int64Array, *, once: bool
    ) -> Iterable[tuple[int, InvalidInput]]:
        """Yield the first id beyond of each request that has one, as its error.

        Args:
            first_rows: Row of the feature at which each request begins.
            once: Whether that is its only one, of its context.
        """
        ids, places = _ids(feature), np.flatnonzero(beyond)
        rows = places if feature.offsets is None else np.searchsorted(feature.offsets, places, "right") - 1
        requests, firsts = np.unique(np.searchsorted(first_rows, rows, "right") - 1, return_index=True)
        for request, first in zip(requests.tolist(), firsts.tolist(), strict=True):
            where = "the context" if once else f"row {int(rows[first] - first_rows[request])}"
            value = int(ids[places[first]])
            if value < 0:
                value += self.modulus
            yield (
                request,
                InvalidInput(
                    f"feature {self.name}: {where} has the id {value}; the model takes {self.span}{self.advice}"
                ),
            )

    def replaced(self, part: Prepared, beyond: BoolArray) -> Prepared:
        """Return a part whose ids beyond are replaced, and count as filled in."""
        feature = part.features[self.name]
        assert self.instead is not None
        ids = np.where(beyond, np.int64(self.instead), _ids(feature))
        by_row = beyond.astype(np.int64)
        if feature.offsets is not None:
            by_row = np.diff(offsets_of(by_row)[feature.offsets])
        return replace(
            part,
            features={**part.features, self.name: replace(feature, ids=ids)},
            fills=(*part.fills, Fill(self.name, "beyond", by_row)),
        )


def _held(bounds: Iterable[_Bound], computed: Iterable[Computed], prepared: PreparedRequests) -> Held:
    refused: dict[int, InvalidInput] = {}
    replaced: set[str] = set()
    for bound in bounds:
        once = bound.name not in prepared.candidates.features
        part = prepared.context if once else prepared.candidates
        feature = part.features[bound.name]
        beyond = bound.beyond(_ids(feature))
        if beyond is None:
            continue
        if bound.instead is None:
            first_rows = np.arange(len(prepared.row_counts)) if once else _starts(prepared.row_counts)
            for request, error in bound.errors(feature, beyond, first_rows, once=once):
                refused.setdefault(request, error)
            continue
        replaced.add(bound.name)
        if once:
            prepared = replace(prepared, context=bound.replaced(part, beyond))
        else:
            prepared = replace(prepared, candidates=bound.replaced(part, beyond))
    for made in computed:
        if replaced & set(made.of):
            prepared = _computed_again(made, prepared)
    return Held(prepared, refused)


def _computed_again(made: Computed, prepared: PreparedRequests) -> PreparedRequests:
    """Return requests with a feature that is computed of prepared ids, computed of those that there are now."""
    candidates, context = prepared.candidates, prepared.context
    if made.name in context.features:
        ids = made.key.evaluate(*(_ids(context.features[each]) for each in made.of))
        feature = replace(context.features[made.name], ids=ids)
        return replace(prepared, context=replace(context, features={**context.features, made.name: feature}))
    taken = [
        _ids(candidates.features[each])
        if each in candidates.features
        else np.repeat(_ids(context.features[each]), prepared.row_counts)
        for each in made.of
    ]
    feature = replace(candidates.features[made.name], ids=made.key.evaluate(*taken))
    return replace(prepared, candidates=replace(candidates, features={**candidates.features, made.name: feature}))


def _ids(feature: PreparedFeature) -> Int64Array:
    assert feature.ids is not None  # a limited feature has ids: checked when bound
    return feature.ids


def _starts(row_counts: tuple[int, ...]) -> Int64Array:
    starts: Int64Array = np.cumsum((0, *row_counts[:-1]))
    return starts
