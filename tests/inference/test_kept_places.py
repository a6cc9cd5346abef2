"""Bags whose places another sequence keeps, through the head: any of both may be context, and rows differ in length.

The slow truth goes through one row's places in Python.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.head.pipeline import Pipeline
from ringpull.inference.head.request.lookups import FeatureLookup
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.model.manifest import KeptBy, LookupSpec
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.kinds import Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData
from ringpull.ps.spec import Pooling, TableSpec
from tests.inference.fakes import EchoProgram, ReferenceRouter
from tests.inference.small_model import IDS, make_manifest, make_tables, received_of
from tests.reference import assert_close

LENGTH: Final = 4
TABLE: Final = "shared"

Rows = list[tuple[list[int], list[int]]]
"""Items and categories of each row of a request."""


def laid_out(ids: list[int], sequence: IdSequence) -> list[tuple[int, bool]]:
    """Return what stands at each place, and whether it is an id and no padding."""
    given, padding = [(each, True) for each in ids], [(sequence.pad, False)] * (LENGTH - len(ids))
    return given + padding if sequence.pad_side == "right" else padding + given


def bag_of(spec: LookupSpec, categories: list[int], items: list[int], schema: Schema) -> list[int]:
    """Return the ids that one bag holds."""
    own, other = schema["categories"], schema["items"]
    assert isinstance(own, IdSequence)
    assert isinstance(other, IdSequence)
    rule, bag = spec.kept_by, []
    for (id_, inside), (item, item_inside) in zip(laid_out(categories, own), laid_out(items, other), strict=True):
        dropped = id_ == spec.padding_id or (spec.unpadded and not inside)
        if rule is not None:
            dropped = dropped or item == rule.padding_id or (rule.unpadded and not item_inside)
        if not dropped:
            bag.append(id_)
    return bag


def unknown_in(bag: list[int], pad: int) -> int:
    rows = make_tables()[TABLE].rows
    return sum(each not in rows and each != pad for each in bag)


IDS_OF_ROW = st.lists(st.integers(0, IDS - 1), max_size=LENGTH)
SPECS = st.builds(
    LookupSpec,
    table=st.just(TABLE),
    feature=st.just("categories"),
    pooling=st.sampled_from([Pooling.SUM, Pooling.MEAN, Pooling.MAX]),
    padding_id=st.sampled_from([None, 0, 3, 5]),
    unpadded=st.booleans(),
    kept_by=st.sampled_from(
        [None, *(KeptBy(feature="items", padding_id=id_, unpadded=un) for id_ in (None, 0, 3, 4) for un in (True, False) if un or id_ is not None)]  # noqa: E501
    ),
)  # fmt: skip
SEQUENCES = st.tuples(st.sampled_from([0, 3]), st.sampled_from(["left", "right"]))
REQUESTS = st.lists(
    st.tuples(
        st.lists(st.tuples(IDS_OF_ROW, IDS_OF_ROW), min_size=1, max_size=4),
        st.sets(st.sampled_from(["items", "categories"])),
    ),
    min_size=1,
    max_size=4,
)


def columns_of(rows: Rows, context: Collection[str]) -> Any:
    """Return a request as it is received: a feature of the context has the one row that all others then repeat."""
    names = ("items", "categories")
    columns = {name: Ragged.from_lists([row[at] for row in rows], np.int64) for at, name in enumerate(names)}
    once = {name: Ragged.from_lists([rows[0][at]], np.int64) for at, name in enumerate(names)}
    features = {name: column for name, column in columns.items() if name not in context}
    features["user"] = np.zeros(len(rows), np.int64)  # type: ignore[assignment]
    return received_of(features, {name: once[name] for name in context})


def as_seen(rows: Rows, context: Collection[str]) -> Rows:
    """Return rows as the model sees them."""
    items, categories = rows[0]
    return [(items if "items" in context else a, categories if "categories" in context else b) for a, b in rows]


@pytest.mark.medium
@settings(max_examples=150, deadline=None)
@given(specs=st.lists(SPECS, min_size=1, max_size=3), own=SEQUENCES, other=SEQUENCES, requests=REQUESTS)
async def test_bags_hold_the_places_that_are_kept_whatever_is_context(
    specs: list[LookupSpec], own: Any, other: Any, requests: Sequence[tuple[Rows, set[str]]]
) -> None:
    sequences: list[Feature] = [
        IdSequence(name, LENGTH, pad=pad, pad_side=side, missing=())
        for name, (pad, side) in {"items": other, "categories": own}.items()
    ]
    schema = Schema([*sequences, Sparse("user")])
    manifest = make_manifest(specs, ("user",))
    pipeline = Pipeline(manifest, schema, EchoProgram(), ReferenceRouter(make_tables()))  # type: ignore[arg-type]
    received = [columns_of(rows, context) for rows, context in requests]
    ready = Preparation(manifest, schema).prepare(received)
    scores = pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9))
    table = make_tables()[TABLE]
    for place, (rows, context) in enumerate(requests):
        seen = as_seen(rows, context)
        lacking = np.zeros((len(specs), len(rows)), np.int64)
        for number, spec in enumerate(specs):
            bags = [bag_of(spec, categories, items, schema) for items, categories in seen]
            lacking[number] = [unknown_in(bag, own[0]) for bag in bags]
            keys = np.array(list(chain.from_iterable(bags)), np.int64).view(np.uint64)
            offsets = np.concatenate([[0], np.cumsum([len(bag) for bag in bags])])
            expected = table.pull_bags(keys, offsets, spec.pooling, None)
            assert_close(scores[place].outputs[f"input{number}"], expected.astype(np.float32))
        # Of a context row, which several candidates see through different items, the most that one of them lacks.
        most = lacking.max(0)
        total = most.max() if "categories" in context else most.sum()
        told = {each.feature: each.ids for each in scores[place].unknown}
        assert told.get("categories", 0) == total


def test_a_withheld_sequence_is_default_vectors_at_the_places_that_are_kept() -> None:
    spec = LookupSpec(
        table=TABLE, feature="categories", pooling=Pooling.SUM, kept_by=KeptBy(feature="items", padding_id=0)
    )
    schema = Schema([IdSequence("items", LENGTH), IdSequence("categories", LENGTH), Sparse("user")])
    manifest = make_manifest([spec], ("user",))
    rows: Rows = [([1, 2], [5, 6, 7]), ([], [8]), ([3, 4, 5, 6], [])]
    received = [columns_of(rows, {"categories"})]
    ready = Preparation(manifest, schema).prepare(received)
    (group,) = ready.work.groups
    context = group.context.features["categories"]
    group.context.features["categories"] = replace(context, withheld=np.ones(context.rows, bool))
    default = make_tables()[TABLE].default
    router = ReferenceRouter(make_tables())
    pipeline = Pipeline(manifest, schema, EchoProgram(), router)  # type: ignore[arg-type]

    async def scored() -> Any:
        return pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9))

    scores = asyncio.run(scored())[0]
    assert_close(scores.outputs["input0"], np.outer([2, 0, 4], default).astype(np.float32))
    assert router.pulls == []


SPEC: Final = LookupSpec(table=TABLE, feature="c", pooling=Pooling.SUM, kept_by=KeptBy(feature="h", padding_id=0))


@pytest.mark.parametrize(
    "features",
    [
        [IdSequence("c", LENGTH)],
        [IdSequence("c", LENGTH), IdSequence("h", LENGTH + 1)],
        [IdSequence("c", LENGTH), Sparse("h")],
        [IdSequence("c", LENGTH), Sparse("h", many=True)],
        [IdSequence("c", LENGTH), Dense("h", width=LENGTH)],
        [Sparse("c", many=True), IdSequence("h", LENGTH)],
        [Sparse("c"), IdSequence("h", LENGTH)],
    ],
    ids=lambda features: "-".join(f"{type(each).__name__}" for each in features),
)
def test_what_keeps_places_must_be_a_sequence_as_long(features: list[Feature]) -> None:
    schema = Schema(features)
    table = TableSpec(name=TABLE, dim=2)
    with pytest.raises(
        CorruptData, match=r"feature c in table shared are kept by h: both must be sequences .* one leng"
    ):
        FeatureLookup(SPEC, schema["c"], table, schema.get("h"))
    with pytest.raises(CorruptData, match="are kept by h"):
        Pipeline(make_manifest([SPEC], ()), schema, EchoProgram(), ReferenceRouter({}))  # type: ignore[arg-type]
