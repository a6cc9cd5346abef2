"""Made-up rows to hold an import against its source: ids at which look-ups go wrong among them, all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.made_lists import ids_made, lengths_of, lists, many
from ringpull.inference.schema.features import Prepared, PreparedFeature
from ringpull.inference.schema.kinds import Computed, Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Fingerprint

Int64Array = NDArray[np.int64]

UNBOUND_IDS = 8
"""Upper bound of ids that are made up where nothing says how large they may be."""
_TEXTS = 64
"""Raw values whose fingerprints are taken for ids: nothing gives a value back of its fingerprint."""


def made_rows(schema: Schema, rows: int, ids: Mapping[str, Int64Array] | None = None, seed: int = 0) -> Prepared:
    """Return made-up rows, prepared.

    Args:
        schema: Schema of the features.
        rows: Number of rows.
        ids: Prepared ids that a feature may have, by its name: each is taken once before one is taken twice. Of other
            features they are what their transforms make, or 0 to 7.
        seed: Of what is random.
    """
    random = np.random.default_rng(seed)
    made: dict[str, PreparedFeature] = {}
    for feature in schema.features:
        if isinstance(feature, Dense):
            made[feature.name] = PreparedFeature(rows, dense=random.standard_normal((rows, feature.width), np.float32))
        elif not isinstance(feature, Computed):
            bound = ids_made(feature)
            given = (ids or {}).get(feature.name)
            if (raw := fingerprinted(feature)) is not None:
                given = Fingerprint().apply(raw)
            elif given is None:
                given = np.arange(UNBOUND_IDS) if bound is None else _spread(bound, random)
            deck = _Deck(np.asarray(given, np.int64), random)
            if many(feature):
                assert isinstance(feature, Sparse | IdSequence)
                made[feature.name] = lists(feature, deck, lengths_of(feature, rows, None, random), random)
            else:
                made[feature.name] = PreparedFeature(rows, deck.ids(rows))
    for feature in schema.features:
        if isinstance(feature, Computed):
            parts = [made[each].ids for each in feature.of]
            made[feature.name] = PreparedFeature(
                rows, feature.key.evaluate(*(each for each in parts if each is not None))
            )
    return Prepared(rows, made)


def fingerprinted(feature: Feature) -> NDArray[np.object_] | None:
    """Return raw values for made-up rows of a feature whose ids are fingerprints of them; None: they are not."""
    transforms = getattr(feature, "transforms", ())
    if not transforms or not isinstance(transforms[-1], Fingerprint):
        return None
    assert isinstance(feature, Sparse | IdSequence)
    if feature.dtype == "string":
        return np.array(["", *(f"text {number}" * (1 + number % 11) for number in range(1, _TEXTS))], object)
    return np.array([-1, -(2**31), 2**31 - 1, *range(_TEXTS - 3)], object)  # as many bits as the source may have


@dataclass(frozen=True, slots=True, eq=False)
class _Deck:
    """Ids that are taken in any order, all of them before one comes again."""

    of: Int64Array
    random: np.random.Generator

    def ids(self, size: int) -> Int64Array:
        rounds = -(-size // len(self.of))
        found = [self.random.permutation(self.of) for _ in range(rounds)]
        return np.concatenate([*found, np.empty(0, np.int64)])[:size].astype(np.int64)

    def takes(self, ids: Int64Array) -> NDArray[np.bool_]:
        return np.ones(len(ids), np.bool_)


def _spread(bound: int, random: np.random.Generator) -> Int64Array:
    """Return ids below a bound, the first and the last among them."""
    return np.unique(np.concatenate([[0, bound - 1], random.integers(0, bound, min(bound, 64))])).astype(np.int64)
