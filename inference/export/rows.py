"""Made-up rows for the self-check, prepared twice: as the module was trained to take them, and as serving will."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.cut import Cut
from ringpull.inference.export.keys import RowKeys
from ringpull.inference.schema.features import Prepared, PreparedFeature
from ringpull.inference.schema.kinds import Cross, Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Bucketize, Hash, Vocabulary
from ringpull.ps.errors import ExportError

Int64Array = NDArray[np.int64]

UNBOUND_IDS: Final = 8
"""Upper bound of ids that are drawn where neither a look-up nor a transform says how large they may be."""

LONGEST_BAG: Final = 6
SPECIAL_SHARE: Final = 0.2
"""Share of the ids that are drawn from the special ones: padding, unknown, first, last."""


def make_rows(
    schema: Schema, cut: Cut, keys: Mapping[str, RowKeys], rows: int, seed: int = 0
) -> tuple[Prepared, Prepared]:
    """Return the same made-up rows as the module takes them and as serving does: they differ where ids are raw.

    Raises:
        ExportError: No id of some feature is within all tables that it is looked up in.
    """
    random = np.random.default_rng(seed)
    trained: dict[str, PreparedFeature] = {}
    served: dict[str, PreparedFeature] = {}
    for feature in schema.features:
        name = feature.name
        made = _make(feature, cut, keys, rows, random)
        trained[name] = served[name] = made
        use = next((use for use in cut.uses if use.feature == name and keys[use.table].raw), None)
        if use is not None and made.ids is not None:
            raw = _raw_ids(keys[use.table], made.ids + use.add)
            served[name] = PreparedFeature(rows, raw, made.offsets, made.weights)
    return Prepared(rows, trained), Prepared(rows, served)


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


def _make(
    feature: Feature, cut: Cut, keys: Mapping[str, RowKeys], rows: int, random: np.random.Generator
) -> PreparedFeature:
    if isinstance(feature, Dense):
        return PreparedFeature(rows, dense=random.standard_normal((rows, feature.width), np.float32))
    lengths = None
    if isinstance(feature, IdSequence):
        lengths = random.integers(0, feature.length + 1, rows)
    elif isinstance(feature, Sparse) and feature.many:
        lengths = random.integers(0, min(LONGEST_BAG, feature.max_length or LONGEST_BAG) + 1, rows)
    size = rows if lengths is None else int(lengths.sum())
    ids = _ids(feature, cut, keys, size, random)
    if lengths is None:
        return PreparedFeature(rows, ids)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    weighted = isinstance(feature, Sparse) and feature.weighted
    return PreparedFeature(rows, ids, offsets, random.standard_normal(size, np.float32) if weighted else None)


def _ids(
    feature: Sparse | IdSequence | Cross, cut: Cut, keys: Mapping[str, RowKeys], size: int, random: np.random.Generator
) -> Int64Array:
    uses = [use for use in cut.uses if use.feature == feature.name]
    low, high = cut.limits.get(feature.name, (0, UNBOUND_IDS))
    low, high = max(low, 0) if high > 0 else low, min(high, _ids_made(feature) or high)
    low = max([low, *(keys[use.table].first_equal - use.add for use in uses)])
    if low >= high:
        raise ExportError(f"feature {feature.name}: no id is within all embeddings that look it up")
    special = {low, high - 1, *(use.padding_row - use.add for use in uses if use.padding_row is not None)}
    if isinstance(feature, IdSequence):
        special.add(feature.pad)
    chosen = np.array([each for each in sorted(special) if low <= each < high], np.int64)
    ids = random.integers(low, high, size)
    return np.where(random.random(size) < SPECIAL_SHARE, random.choice(chosen, size), ids)


def _ids_made(feature: Sparse | IdSequence | Cross) -> int | None:
    """Return how many ids, from 0, a feature can have; None when anything is possible."""
    last = feature if isinstance(feature, Cross) else feature.transforms[-1] if feature.transforms else None
    if isinstance(last, Hash | Cross):
        return last.buckets
    if isinstance(last, Vocabulary):
        return last.size
    return len(last.boundaries) + 1 if isinstance(last, Bucketize) else None


def _raw_ids(keys: RowKeys, rows: Int64Array) -> Int64Array:
    known = rows >= keys.first
    ids = np.full(len(rows), keys.unkeyed_id(), np.int64)
    ids[known] = keys.prepared_ids(rows[known])
    return ids
