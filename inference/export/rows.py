"""Made-up rows for the self-check, prepared twice: as the module was trained to take them, and as serving will.

Where the exporter gave rows, half are theirs, and the made-up ones have lengths like theirs. The others are what the
schema can prepare: an empty row is filled where a rule says so, and there is none where there may not be.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.cut import Cut
from ringpull.inference.export.keys import RowKeys
from ringpull.inference.export.made_ids import IdMaker, by_feature, fit_together
from ringpull.inference.export.made_lists import joined, lengths_of, lists, many, part_of, present
from ringpull.inference.schema.features import Prepared, PreparedFeature
from ringpull.inference.schema.kinds import Computed, Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema

Int64Array = NDArray[np.int64]


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
        trained = {name: joined(own[name], each) for name, each in trained.items()} if trained else own
    prepared = Prepared(rows, trained)
    return prepared, as_served(prepared, cut, keys)


def as_served(trained: Prepared, cut: Cut, keys: Mapping[str, RowKeys]) -> Prepared:
    """Return rows that are prepared as the module takes them as serving prepares them: with raw ids, where it does."""
    served = dict(trained.features)
    raw_uses = {use.feature: use for use in reversed(cut.uses) if keys[use.table].raw}
    for name, made in trained.features.items():
        use = raw_uses.get(name)
        if use is not None and made.ids is not None:
            raw = _raw_ids(keys[use.table], made.ids + use.add)
            served[name] = PreparedFeature(trained.rows, raw, made.offsets, made.weights)
    return Prepared(trained.rows, served)


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
            if many(feature):
                assert isinstance(feature, Sparse | IdSequence)
                lengths = None if given is None else np.diff(present(given.features[name].offsets))
                made[name] = lists(feature, maker, lengths_of(feature, rows, lengths, random), random)
            else:
                made[name] = PreparedFeature(rows, maker.ids(rows))
    single = {name: present(made[name].ids) for name in makers if made[name].offsets is None}
    fitting = fit_together(single, makers, cut, keys, random)
    made |= {name: PreparedFeature(rows, ids) for name, ids in fitting.items()}
    for feature in schema.features:
        if isinstance(feature, Computed):
            ids = feature.key.evaluate(*(present(made[each].ids) for each in feature.of))
            made[feature.name] = PreparedFeature(rows, ids)
    return made


def _raw_ids(keys: RowKeys, rows: Int64Array) -> Int64Array:
    known = (rows >= keys.first) & (rows < keys.rows)
    ids = np.full(len(rows), keys.unkeyed_id(), np.int64)
    ids[known] = keys.prepared_ids(rows[known])
    return ids
