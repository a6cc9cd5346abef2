"""Made-up rows of one feature: how long they are, what fills the empty ones, and parts of rows that were prepared."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.schema.features import Prepared, PreparedFeature, prepare
from ringpull.inference.schema.kinds import Cross, Feature, IdSequence, SentFeature, Sparse
from ringpull.inference.schema.transforms import Bucketize, Hash, Vocabulary

Int64Array = NDArray[np.int64]

LONGEST_BAG: Final = 6


class IdSource(Protocol):
    """What makes ids of one feature."""

    def ids(self, size: int) -> Int64Array:
        """Return so many ids."""
        ...

    def takes(self, ids: Int64Array) -> NDArray[np.bool_]:
        """Return which ids the model takes."""
        ...


def part_of(prepared: Prepared, begin: int, end: int) -> Prepared:
    """Return rows [begin, end)."""
    return Prepared(end - begin, {name: _part_of(each, begin, end) for name, each in prepared.features.items()})


def _part_of(feature: PreparedFeature, begin: int, end: int) -> PreparedFeature:
    rows = end - begin
    if feature.dense is not None:
        return PreparedFeature(rows, dense=feature.dense[begin:end])
    assert feature.ids is not None
    if feature.offsets is None:
        return PreparedFeature(rows, feature.ids[begin:end])
    offsets = feature.offsets[begin : end + 1]
    values = slice(offsets[0], offsets[-1])
    weights = None if feature.weights is None else feature.weights[values]
    return PreparedFeature(rows, feature.ids[values], offsets - offsets[0], weights)


def joined(first: PreparedFeature, second: PreparedFeature) -> PreparedFeature:
    """Return the rows of both."""

    def both(part: str) -> NDArray[np.generic] | None:
        mine, theirs = getattr(first, part), getattr(second, part)
        return None if mine is None or theirs is None else np.concatenate([mine, theirs])

    offsets = None
    if first.offsets is not None and second.offsets is not None:
        offsets = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]])
    parts = {name: both(name) for name in ("ids", "weights", "dense")}
    return PreparedFeature(first.rows + second.rows, offsets=offsets, **parts)  # type: ignore[arg-type]


def many(feature: object) -> bool:
    """Return whether a row of a feature has any number of ids."""
    return isinstance(feature, IdSequence) or (isinstance(feature, Sparse) and feature.many)


def lengths_of(
    feature: Sparse | IdSequence, rows: int, given: Int64Array | None, random: np.random.Generator
) -> Int64Array:
    """Return lengths of rows, as before a missing rule fills the empty ones."""
    if given is not None:
        return random.choice(given, rows)
    least = int(feature.never_empty)
    most = feature.length if isinstance(feature, IdSequence) else min(LONGEST_BAG, feature.max_length or LONGEST_BAG)
    return random.integers(least, max(least, most) + 1, rows)


def lists(
    feature: Sparse | IdSequence, maker: IdSource, lengths: Int64Array, random: np.random.Generator
) -> PreparedFeature:
    """Return made-up rows of these lengths, the empty ones filled where a missing rule says so."""
    filling = _filling(feature, maker)
    if filling is not None:
        empty = lengths == 0
        lengths = np.where(empty, len(filling), lengths)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    ids = maker.ids(int(offsets[-1]))
    if filling is not None:
        ids[np.repeat(empty, lengths)] = np.tile(filling, int(empty.sum()))
    weighted = isinstance(feature, Sparse) and feature.weighted
    weights = random.standard_normal(len(ids), np.float32) if weighted else None
    return PreparedFeature(len(lengths), ids, offsets, weights)


def _filling(feature: SentFeature, maker: IdSource) -> Int64Array | None:
    """Return the prepared ids with which a missing rule fills an empty row, if it does, and the model takes them."""
    if feature.missing in (None, ()):
        return None
    ids = present(prepare({feature.name: feature}, {}, 1).features[feature.name].ids)
    return ids if bool(maker.takes(ids).all()) else None


def present(part: Int64Array | None) -> Int64Array:
    """Return a part of a prepared feature that is there."""
    assert part is not None, "prepared by another schema"
    return part


def ids_made(feature: Feature) -> int | None:
    """Return how many ids, from 0, a feature can have; None when anything is possible."""
    if isinstance(feature, Cross):
        return feature.buckets
    transforms = getattr(feature, "transforms", ())
    last = transforms[-1] if transforms else None
    if isinstance(last, Hash):
        return last.buckets
    if isinstance(last, Vocabulary):
        return last.size
    return len(last.boundaries) + 1 if isinstance(last, Bucketize) else None
