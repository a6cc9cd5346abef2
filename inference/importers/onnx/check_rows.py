"""Rows that an imported graph is held against its source with: ids that it takes, the edges of tables among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.keys import RowKeys
from ringpull.inference.export.made_lists import ids_made
from ringpull.inference.export.ranges import IdRange, telling_ids
from ringpull.inference.importers.made_rows import fingerprinted, made_rows
from ringpull.inference.importers.onnx.cutting import Use
from ringpull.inference.schema.features import Prepared, PreparedFeature
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.kinds import Computed, Dense
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError

Int64Array = NDArray[np.int64]

_DRAWN: Final = 256
_SMALL: Final = 2
"""Ids that a source is asked for where it does not take others."""
_SHRINKINGS: Final = 40


def ids_of(
    uses: Sequence[Use], limits: Sequence[IdRange], schema: Schema, raw: Mapping[str, RowKeys]
) -> dict[str, Int64Array]:
    """Return ids of each feature that the graph takes: those that tell its keys apart, and some of all rows."""
    ranges: dict[str, list[IdRange]] = {}
    for use in uses:
        for name in use.features:
            if len(use.features) == 1:
                own_range = IdRange((name,), 0, use.expression, use.rows, None, -use.rows, use.within)
                ranges.setdefault(name, []).append(own_range)
    for each in limits:
        key = KeyExpression.ids() if each.key is None else each.key
        ranges.setdefault(each.features[0], []).append(IdRange(each.features, 0, key, each.rows, None, each.lowest))
    found = {}
    random = np.random.default_rng(0)
    for name, own in ranges.items():
        if schema.get(name) is None or isinstance(schema[name], Dense) or fingerprinted(schema[name]) is not None:
            continue
        telling = {id_ for each in own if each.key is not None for id_ in telling_ids(each.key, each.rows)}
        most = min(each.rows for each in own)
        drawn = random.integers(0, max(1, most), _DRAWN)
        tried = np.unique(np.concatenate([np.array(sorted(telling), np.int64), drawn]))
        made = ids_made(schema[name])
        held = np.ones(len(tried), bool) if made is None else (tried >= 0) & (tried < made)
        for each in own:
            held &= each.holds(tried) & (tried >= each.within[0]) & (tried < each.within[1])
        if name in raw:
            held &= (tried >= raw[name].first_equal) & (tried < raw[name].rows)
        if held.any():
            found[name] = tried[held]
    return found


def make_rows(
    schema: Schema, uses: Sequence[Use], rows: int, ids: Mapping[str, Int64Array], *, small: bool = False
) -> Prepared:
    """Return made-up rows, prepared as the source takes them.

    Raises:
        ExportError: No ids were found that together have a row of what is computed of several.
    """
    given = {name: each[(each >= 0) & (each < _SMALL)] if small else each for name, each in ids.items()}
    made = made_rows(schema, rows, {name: each for name, each in given.items() if len(each)})
    several = [use for use in uses if len(use.features) > 1]
    random = np.random.default_rng(1)
    for shrunk in range(_SHRINKINGS):
        features = dict(made.features)
        together = list(dict.fromkeys(name for use in several for name in use.features))
        fits = np.ones(rows, bool)
        for use in several:
            fits &= use.range("").holds(use.expression.evaluate(*(_ids(features[name]) for name in use.features)))
        if fits.all():
            return made
        if fits.any():
            instead = np.where(fits, np.arange(rows), random.choice(np.flatnonzero(fits), rows))
            features |= {name: PreparedFeature(rows, _ids(features[name])[instead]) for name in together}
            return Prepared(rows, features)
        most = max(1, max(use.rows for use in several) >> shrunk)
        features |= {name: PreparedFeature(rows, random.integers(0, most, rows)) for name in together}
        made = Prepared(rows, features)
    names = ", ".join(name for use in several for name in use.features)
    raise ExportError(f"features {names}: no ids were found that together have a row of the table they look up")


def as_served(trained: Prepared, schema: Schema, raw: Mapping[str, RowKeys]) -> Prepared:
    """Return rows as serving prepares them: raw ids in the place of numbers, and what is computed of others."""
    features: dict[str, PreparedFeature] = {}
    for feature in schema.features:
        name = feature.name
        own = trained.features[name] if name in trained.features else PreparedFeature(trained.rows)
        if isinstance(feature, Computed):
            parts = [_ids(trained.features[each]) for each in feature.of]
            features[name] = PreparedFeature(trained.rows, feature.key.evaluate(*parts))
        elif name in raw:
            features[name] = PreparedFeature(trained.rows, _raw(raw[name], _ids(own)), own.offsets, own.weights)
        else:
            features[name] = own
    return Prepared(trained.rows, features)


def _raw(keys: RowKeys, numbers: Int64Array) -> Int64Array:
    known = (numbers >= keys.first) & (numbers < keys.rows)
    ids = np.full(len(numbers), keys.unkeyed_id(), np.int64)
    ids[known] = keys.prepared_ids(numbers[known])
    return ids


def _ids(feature: PreparedFeature) -> NDArray[Any]:
    assert feature.ids is not None
    return feature.ids
