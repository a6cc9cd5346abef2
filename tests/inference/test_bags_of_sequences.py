"""Bags of a sequence: which of its ids are pulled, by every rule there is, against a loop over its places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ringpull.inference.head.request.lookups import FeatureLookup
from ringpull.inference.model.manifest import LookupSpec
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.features import PreparedFeature
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.kinds import IdSequence
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import Pooling, TableSpec

LENGTH = 4
TABLE = TableSpec(name="t", dim=2)
CLAMPED = KeyExpression.of("maximum", KeyExpression.ids(), KeyExpression.constant(2))


def slow_bags(padded: Any, inside: Any, spec: LookupSpec) -> list[list[int]]:
    """Return the keys of every bag, place by place."""
    bags = []
    for ids, places in zip(padded.tolist(), inside.tolist(), strict=True):
        bag = []
        for id_, is_inside in zip(ids, places, strict=True):
            compared = id_ if spec.key is None else max(id_, 2)
            if (spec.unpadded and not is_inside) or compared == spec.padding_id:
                continue
            bag.append(id_ + spec.add if spec.key is None else compared)
        bags.append(bag)
    return bags


def rows_of_a_sequence(sequence: IdSequence) -> PreparedFeature:
    """Return prepared rows of all lengths, padding among their ids."""
    random = np.random.default_rng(0)
    lengths = np.array([0, LENGTH, *random.integers(0, LENGTH + 1, 30), 0])
    ids = random.integers(0, 6, int(lengths.sum()))
    column = Ragged(ids, np.concatenate([[0], np.cumsum(lengths)]))
    return Schema([sequence]).prepare({"h": column}, len(lengths)).features["h"]


@pytest.mark.parametrize("pooling", [Pooling.SUM, Pooling.MEAN, Pooling.MAX])
@pytest.mark.parametrize("unpadded", [False, True])
@pytest.mark.parametrize("padding_id", [None, 0, 3])
@pytest.mark.parametrize("pad", [0, 3, 9])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("add", [0, 5, None], ids=["ids", "added", "expression"])
def test_bags_hold_what_their_rule_keeps(
    pooling: Pooling, unpadded: bool, padding_id: int | None, pad: int, side: Any, add: int | None
) -> None:
    sequence = IdSequence("h", LENGTH, pad=pad, pad_side=side)
    key = CLAMPED if add is None else None
    spec = LookupSpec(
        table="t", feature="h", pooling=pooling, add=add or 0, padding_id=padding_id, unpadded=unpadded, key=key
    )
    prepared = rows_of_a_sequence(sequence)
    assert prepared.offsets is not None
    lookup = FeatureLookup(spec, sequence, TABLE).lookup(prepared)
    lengths = np.diff(prepared.offsets)
    places = np.arange(LENGTH)
    inside = places < lengths[:, None] if side == "right" else places >= LENGTH - lengths[:, None]
    padded = np.full(inside.shape, pad)
    padded[inside] = prepared.ids
    assert lookup.offsets is not None
    assert lookup.pooling is pooling
    bags = [each.tolist() for each in np.split(lookup.keys.view(np.int64), lookup.offsets[1:-1])]
    assert bags == slow_bags(padded, inside, spec)
    assert lookup.offsets[0] == 0
    assert lookup.offsets[-1] == len(lookup.keys)
