"""Direct ids: features that are looked up as they came get what they would get one by one, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ringpull.inference.head.pipeline import Pipeline, Scores
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.head.request.received import ReceivedColumns
from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.flat_inputs import FlatInputs
from ringpull.inference.model.manifest import IdLimit, LookupSpec, Manifest, ProgramInput, TableEntry
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.kinds import Cross, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Hash
from ringpull.ps.errors import InvalidInput
from ringpull.ps.ring import Ring
from ringpull.ps.spec import OnUnavailable, Pooling
from tests.inference.fakes import EchoProgram
from tests.inference.small_model import make_manifest, received_of
from tests.router.cases import KNOWN, Tables, tables
from tests.router.fakes import MODEL, VERSION, FakeCluster

DIMS = {"users": 3, "items": 5}
X, at, of = KeyExpression.ids(), KeyExpression.constant, KeyExpression.of
FROM_END_OF_11 = of("where", of("lt", X, at(0)), of("add", X, at(11)), X)
SCHEMA = Schema(
    [
        Sparse("user"),
        Sparse("item"),
        Sparse("shop", dtype="uint64"),
        Sparse("bucket", transforms=(Hash(KNOWN),), missing=7),
        Sparse("part"),
        Sparse("limited"),
        Sparse("tags", many=True, missing=()),
        Sparse("basket", many=True, beyond=1),
        Sparse("recent", many=True, missing=(), max_length=2),
        Cross("made", of=("part", "bucket"), buckets=KNOWN),
    ],
    stacks={"pair": ("user", "shop")},
)
LOOKUPS = (
    LookupSpec(table="users", feature="tags", pooling=Pooling.MEAN),
    LookupSpec(table="users", feature="user", pooling=Pooling.NONE),
    LookupSpec(table="items", feature="item", pooling=Pooling.SUM, add=-3),
    LookupSpec(table="items", feature="bucket", pooling=Pooling.NONE),
    LookupSpec(table="users", feature="item", pooling=Pooling.SUM, padding_id=4),
    LookupSpec(table="users", feature="shop", pooling=Pooling.NONE, add=2),
    LookupSpec(table="items", feature="part", pooling=Pooling.NONE),
    LookupSpec(table="items", feature="limited", pooling=Pooling.NONE),
    LookupSpec(table="items", feature="made", pooling=Pooling.NONE),
    LookupSpec(table="items", feature="basket", pooling=Pooling.SUM, add=1),
    LookupSpec(table="users", feature="basket", pooling=Pooling.MAX, key=of("minimum", of("maximum", X, at(1)), at(9))),
    LookupSpec(table="items", feature="recent", pooling=Pooling.MEAN),
    LookupSpec(table="users", feature="item", pooling=Pooling.NONE, key=of("remainder", X, at(7))),
    LookupSpec(table="users", feature="limited", pooling=Pooling.NONE, key=FROM_END_OF_11),
    LookupSpec(table="items", feature="item", pooling=Pooling.NONE, key=of("abs", X)),
)
ARGUMENTS = ("pair", "user")
DIRECT = {"user", "item", "shop", "limited", "tags", "basket"}
"""Features that are direct when they are sent in their own type: all others are transformed, cut, or parts."""


def manifest_of(made: Tables) -> Manifest:
    whole = make_manifest(LOOKUPS, ())
    entries = [TableEntry(spec=spec, path=name, rows=KNOWN, bytes=1) for name, (spec, _) in made.items()]
    inputs = (*whole.inputs, *[ProgramInput(kind="argument", argument=name) for name in ARGUMENTS])
    limits = (
        IdLimit(feature="limited", low=-11, high=2 * KNOWN),
        IdLimit(feature="basket", low=0, high=2 * KNOWN),
    )
    return replace(whole, model=MODEL, version=VERSION, tables=tuple(entries), inputs=inputs, limits=limits)


def preparations(manifest: Manifest) -> tuple[Preparation, Preparation]:
    """The preparation, and one that prepares each feature by itself."""
    one_by_one = Preparation(manifest, SCHEMA)
    one_by_one._direct._types.clear()
    return Preparation(manifest, SCHEMA), one_by_one


ids = st.integers(0, 2 * KNOWN - 1)


@st.composite
def requests(draw: st.DrawFn) -> ReceivedColumns:
    """A request: any number of rows, any features as context, one of them absent at times."""
    rows = draw(st.integers(1, 3))
    optional = draw(st.sampled_from([["bucket", "tags"], ["recent"], []]))
    names = ["user", "item", "shop", "part", "limited", "basket", *optional]
    context = draw(st.sets(st.sampled_from(names), max_size=len(names) - 1))
    hostile = draw(st.sampled_from([*names, *[None] * 9]))

    def column(name: str, rows: int) -> Column:
        some = st.integers(-(2**63), 2**63 - 1) if name == hostile and name != "shop" else ids
        if name in ("tags", "basket", "recent"):
            bags = draw(st.lists(st.lists(some, max_size=3), min_size=rows, max_size=rows))
            return Ragged(np.array([each for bag in bags for each in bag], np.int64), np.cumsum([0, *map(len, bags)]))
        given = draw(st.lists(some, min_size=rows, max_size=rows))
        own = "uint64" if name == "shop" and draw(st.booleans()) else "int64"
        return np.array(given, own)

    return received_of(
        {name: column(name, rows) for name in names if name not in context},
        {name: column(name, 1) for name in context},
    )


class FlatProgram(EchoProgram):
    """Takes vectors where they were put, and holds them side by side against what each is alone."""

    takes_flat = True

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]:
        outputs = super().run(inputs, rows)
        if isinstance(inputs, FlatInputs):
            places = np.flatnonzero(inputs.begins >= 0)[::-1].copy()
            found = inputs.side_by_side(places, inputs.dims[places])
            assert found is not None
            assert found.tobytes() == np.concatenate([outputs[f"input{at}"] for at in places], axis=1).tobytes()
            assert inputs.side_by_side(places, inputs.dims[places] + 1) is None
            assert [each.values.tobytes() for each in inputs[:3]] == [inputs[at].values.tobytes() for at in range(3)]
        return outputs


async def answers_of(
    cluster: FakeCluster,
    manifest: Manifest,
    preparation: Preparation,
    received: Sequence[ReceivedColumns],
    program: EchoProgram,
) -> tuple[dict[int, Scores], dict[int, str]]:
    """Return the answers, and what is said to those who get none."""
    pipeline = Pipeline(manifest, SCHEMA, program, cluster.router)
    ready = preparation.prepare(received)
    refused = {place: str(error) for place, error in ready.refused.items()}
    if len(refused) == len(received):
        return {}, refused
    return pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9)), refused


def same(direct: Scores, expected: Scores) -> None:
    assert direct.outputs.keys() == expected.outputs.keys()
    for name, values in expected.outputs.items():
        assert direct.outputs[name].tobytes() == values.tobytes(), name
    assert (direct.filled, direct.degraded) == (expected.filled, expected.degraded)
    told = [
        [(each.feature, each.ids, each.by_row.tolist()) for each in scores.unknown] for scores in (direct, expected)
    ]
    assert sorted(told[0]) == sorted(told[1])


@pytest.mark.medium
@settings(max_examples=40, deadline=None)
@given(batch=st.lists(requests(), min_size=1, max_size=3), alike=st.booleans(), down=st.booleans())
async def test_direct_ids_get_what_they_would_get_one_by_one(batch, alike, down):
    """Also with several layouts in a batch, ids unknown or beyond limits, and a shard that is gone, whose keys are
    lost."""
    made = tables(DIMS, OnUnavailable.DEFAULT)
    manifest = manifest_of(made)
    if alike:
        batch = [batch[0]] * len(batch)
    answers, counted = [], []
    direct_way, one_by_one = preparations(manifest)
    ways = ((direct_way, EchoProgram()), (direct_way, FlatProgram()), (one_by_one, EchoProgram()))
    for preparation, program in ways:
        cluster = FakeCluster(Ring.even((0, 1), 1), made)
        cluster.shards[1].up = not down
        answers.append(await answers_of(cluster, manifest, preparation, batch, program))
        counted.append(cluster.router.counters().tables)
        await cluster.router.close()
    assert counted[0] == counted[1] == counted[2]
    *others, (expected, refused) = answers
    for direct, also_refused in others:
        assert refused == also_refused
        assert direct.keys() == expected.keys() == set(range(len(batch))) - refused.keys()
        for place, scores in expected.items():
            same(direct[place], scores)


async def test_vectors_stay_where_they_were_put_for_a_program_that_takes_them_so():
    made = tables(DIMS)
    manifest = manifest_of(made)
    preparation, _ = preparations(manifest)
    program, cluster = FlatProgram(), FakeCluster(Ring.even((0, 1), 1), made)
    await answers_of(cluster, manifest, preparation, [sent(), sent()], program)
    [(inputs, rows)] = program.runs
    assert isinstance(inputs, FlatInputs)
    assert (rows, len(inputs)) == (4, len(LOOKUPS) + len(ARGUMENTS))
    assert 0 < len(inputs.others) < len(inputs)
    await cluster.router.close()


def sent(**other: Column) -> ReceivedColumns:
    columns = {name: np.arange(2) for name in ("user", "item", "part", "limited", "bucket")}
    bags = {name: Ragged(np.arange(3), np.array([0, 2, 3])) for name in ("tags", "basket", "recent")}
    return received_of({**columns, **bags, "shop": np.arange(2, dtype=np.uint64), **other})


def test_only_plain_ids_of_the_right_type_are_direct():
    preparation, one_by_one = preparations(manifest_of(tables(DIMS)))
    direct = preparation.prepare([sent()]).work.direct
    assert direct is not None
    assert direct.features.places.keys() == DIRECT
    assert direct.features.others.keys() == {"bucket", "part", "recent", "made"}
    other_type = preparation.prepare([sent(shop=np.arange(2))]).work.direct
    assert other_type is not None
    assert other_type.features.places.keys() == DIRECT - {"shop"}
    assert one_by_one.prepare([sent()]).work.direct is None


@pytest.mark.parametrize("column", [Ragged(np.arange(2), np.arange(3), np.ones(2, np.float32)), np.arange(2)])
def test_what_is_no_plain_bag_is_read_as_ever(column: Column):
    told = [each.prepare([sent(basket=column)]) for each in preparations(manifest_of(tables(DIMS)))]
    assert str(told[0].refused[0]) == str(told[1].refused[0])


def test_ids_beyond_a_limit_take_the_other_way_for_their_batch_alone():
    preparation, _ = preparations(manifest_of(tables(DIMS)))
    beyond = sent(basket=Ragged(np.array([1, 2 * KNOWN]), np.array([0, 2, 2])))
    assert preparation.prepare([sent(), beyond]).work.direct is None
    assert preparation.prepare([sent()]).work.direct is not None


def test_the_plan_of_a_layout_is_made_once():
    preparation, _ = preparations(manifest_of(tables(DIMS)))
    first, second = (preparation.prepare([sent()]).work.direct for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.features is second.features


@pytest.mark.parametrize(
    "columns",
    [
        {"stranger": np.arange(2)},
        {"user": np.arange(2.0)},
        {"user": np.array(["a", "b"])},
        {"limited": np.full(2, 999)},
    ],
    ids=["unknown", "floats", "strings", "beyond"],
)
def test_what_is_wrong_is_told_as_ever(columns: dict[str, Column]):
    told = [each.prepare([sent(**columns)]).refused for each in preparations(manifest_of(tables(DIMS)))]
    assert isinstance(told[0][0], InvalidInput)
    assert str(told[0][0]) == str(told[1][0])
