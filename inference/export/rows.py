"""Made-up rows for the self-check, prepared twice: as the module was trained to take them, and as serving will.

Where the exporter gave rows, half are theirs, and the made-up ones have lengths like theirs. The others are what the
schema can prepare: an empty row is filled where a rule says so, and there is none where there may not be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.cut import Cut
from ringpull.inference.export.keys import RowKeys
from ringpull.inference.export.made_ids import IdMaker, by_feature, fit_together
from ringpull.inference.schema.features import Prepared, PreparedFeature, prepare
from ringpull.inference.schema.kinds import Computed, Dense, IdSequence, SentFeature, Sparse
from ringpull.inference.schema.schema import Schema

Int64Array = NDArray[np.int64]

LONGEST_BAG: Final = 6


def make_rows(
    schema: Schema,
    cut: Cut,
    keys: Mapping[str, RowKeys],
    rows: int,
    given: Prepared | None = None,
    seed: int = 0,
) -> tuple[Prepared, Prepared]:
    """Return the same made-up rows as the module takes them and as serving does: they differ where ids are raw.

    Args:
        schema: What the module was trained with.
        cut: The module in two parts.
        keys: Keys of each table.
        rows: Number of rows.
        given: Rows of the exporter's; the first ones take half of the place.
        seed: Of what is random.

    Raises:
        ExportError: No id of some feature is within all tables that it is looked up in.
    """
    taken = 0 if given is None else min(given.rows, rows // 2)
    trained: dict[str, PreparedFeature] = {}
    if taken < rows:
        trained = _made(schema, cut, keys, rows - taken, given, np.random.default_rng(seed))
    if given is not None and taken:
        own = part_of(given, 0, taken).features
        trained = {name: _joined(own[name], each) for name, each in trained.items()} if trained else own
    served = dict(trained)
    raw_uses = {use.feature: use for use in reversed(cut.uses) if keys[use.table].raw}
    for name, made in trained.items():
        use = raw_uses.get(name)
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


def _joined(first: PreparedFeature, second: PreparedFeature) -> PreparedFeature:
    def both(part: str) -> NDArray[np.generic] | None:
        mine, theirs = getattr(first, part), getattr(second, part)
        return None if mine is None or theirs is None else np.concatenate([mine, theirs])

    offsets = None
    if first.offsets is not None and second.offsets is not None:
        offsets = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]])
    parts = {name: both(name) for name in ("ids", "weights", "dense")}
    return PreparedFeature(first.rows + second.rows, offsets=offsets, **parts)  # type: ignore[arg-type]


def _made(
    schema: Schema,
    cut: Cut,
    keys: Mapping[str, RowKeys],
    rows: int,
    given: Prepared | None,
    random: np.random.Generator,
) -> dict[str, PreparedFeature]:
    made: dict[str, PreparedFeature] = {}
    makers: dict[str, IdMaker] = {}
    own = by_feature(cut, (feature.name for feature in schema.features))
    for feature in schema.features:
        name = feature.name
        if isinstance(feature, Dense):
            made[name] = PreparedFeature(rows, dense=random.standard_normal((rows, feature.width), np.float32))
        elif not isinstance(feature, Computed):
            makers[name] = maker = IdMaker.of(feature, own[name], keys, random)
            if _many(feature):
                assert isinstance(feature, Sparse | IdSequence)
                lengths = None if given is None else np.diff(_present(given.features[name].offsets))
                made[name] = _lists(feature, maker, _lengths(feature, rows, lengths, random), random)
            else:
                made[name] = PreparedFeature(rows, maker.ids(rows))
    single = {name: _present(made[name].ids) for name in makers if made[name].offsets is None}
    fitting = fit_together(single, makers, cut, keys, random)
    made |= {name: PreparedFeature(rows, ids) for name, ids in fitting.items()}
    for feature in schema.features:
        if isinstance(feature, Computed):
            ids = feature.key.evaluate(*(_present(made[each].ids) for each in feature.of))
            made[feature.name] = PreparedFeature(rows, ids)
    return made


def _many(feature: object) -> bool:
    return isinstance(feature, IdSequence) or (isinstance(feature, Sparse) and feature.many)


def _lengths(
    feature: Sparse | IdSequence, rows: int, given: Int64Array | None, random: np.random.Generator
) -> Int64Array:
    """Return lengths of rows, as before a missing rule fills the empty ones."""
    if given is not None:
        return random.choice(given, rows)
    least = int(feature.never_empty)
    most = feature.length if isinstance(feature, IdSequence) else min(LONGEST_BAG, feature.max_length or LONGEST_BAG)
    return random.integers(least, max(least, most) + 1, rows)


def _lists(
    feature: Sparse | IdSequence, maker: IdMaker, lengths: Int64Array, random: np.random.Generator
) -> PreparedFeature:
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


def _filling(feature: SentFeature, maker: IdMaker) -> Int64Array | None:
    """Return the prepared ids with which a missing rule fills an empty row, if it does, and the model takes them."""
    if feature.missing in (None, ()):
        return None
    ids = _present(prepare({feature.name: feature}, {}, 1).features[feature.name].ids)
    return ids if bool(maker.takes(ids).all()) else None


def _present(part: Int64Array | None) -> Int64Array:
    assert part is not None, "prepared by another schema"
    return part


def _raw_ids(keys: RowKeys, rows: Int64Array) -> Int64Array:
    known = (rows >= keys.first) & (rows < keys.rows)
    ids = np.full(len(rows), keys.unkeyed_id(), np.int64)
    ids[known] = keys.prepared_ids(rows[known])
    return ids
