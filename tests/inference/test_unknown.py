"""Unknown ids: an answer says how many of its request's ids were scored on default vectors, and in which rows if asked.

The slow truth counts them id by id, from the rows as Python values.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.degrade.levels import check_steps, levels
from ringpull.inference.degrade.steps import CapCandidates, UseDefault
from ringpull.inference.head.pipeline import Pipeline, Scores
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.head.request.received import ReceivedColumns
from ringpull.inference.model.manifest import LookupSpec
from ringpull.inference.prediction import Prediction, Unknown
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.wire.codec import decode_response, encode_response
from ringpull.ps.spec import Pooling
from ringpull.router.lookup import LookupResult
from tests.inference.fakes import EchoProgram, ReferenceRouter
from tests.inference.served import ROWS, Served
from tests.inference.small_model import (
    LOOKUPS,
    SCHEMA,
    Row,
    columns_of,
    make_manifest,
    make_tables,
    plain_row,
    received_of,
)
from tests.inference.small_requests import requests

PREPARATION = Preparation(make_manifest(), SCHEMA)
PADS = {"history": 0, "recent": 9}

Told = dict[str, tuple[int, list[int]]]
"""Feature -> unknown ids of the request, and candidate rows that have some."""


def ids_of(row: Row) -> dict[str, list[int]]:
    cross = SCHEMA.prepare(columns_of([row]), 1).features["user_item"].ids
    assert cross is not None
    return {
        "user": [row["user"]],
        "item": [row["item"]],
        "user_item": [int(cross[0])],
        "genres": row["genres"],
        "tags": [tag for tag, _ in row["tags"]],
        "history": row["history"][-4:],
        "recent": row["recent"][-3:],
    }


def unknown_of(row: Row, withheld: Collection[str]) -> dict[str, int]:
    """Feature -> unknown ids of one row: of the look-up that lacks most, as that one drops ids."""
    tables, counts = make_tables(), {}
    for spec in LOOKUPS:
        ids = [each for each in ids_of(row)[spec.feature] if each not in (spec.padding_id, PADS.get(spec.feature))]
        lacking = [each for each in ids if each + spec.add not in tables[spec.table].rows or spec.feature in withheld]
        counts[spec.feature] = max(counts.get(spec.feature, 0), len(lacking))
    return counts


def slow_truth(rows: Sequence[Row], context: Collection[str], withheld: Collection[str] = ()) -> Told:
    told: Told = {}
    per_row = [unknown_of(row, withheld) for row in rows]
    for feature in per_row[0]:
        parts = ("user", "item") if feature == "user_item" else (feature,)
        counts = [each[feature] for each in per_row]
        total = counts[0] if set(parts) <= set(context) else sum(counts)
        if total:
            told[feature] = total, [place for place, count in enumerate(counts) if count]
    return told


def told(scores: Scores) -> Told:
    found = [each.told(with_rows=True) for each in scores.unknown]
    assert all(each.rows is not None and each.rows.dtype == np.int64 for each in found)
    assert [(each.feature, each.ids) for each in found] == [
        (each.feature, each.ids) for each in (each.told(with_rows=False) for each in scores.unknown)
    ]
    return {each.feature: (each.ids, each.rows.tolist()) for each in found if each.rows is not None}


def received(rows: Sequence[Row], context: Collection[str]) -> ReceivedColumns:
    features = columns_of(rows, [name for name in rows[0] if name not in context])
    return received_of(features, columns_of(rows[:1], sorted(context)))


async def answers_of(
    requests: Sequence[ReceivedColumns], router: ReferenceRouter | None = None
) -> tuple[Pipeline, dict[int, Scores]]:
    pipeline = Pipeline(make_manifest(), SCHEMA, EchoProgram(), router or ReferenceRouter(make_tables()))
    ready = PREPARATION.prepare(requests)
    assert ready.refused == {}
    return pipeline, pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9))


@pytest.mark.medium
@settings(max_examples=80, deadline=None)
@given(batch=st.lists(requests(), min_size=1, max_size=5))
async def test_each_request_is_told_of_its_own_unknown_ids(batch):
    """Whatever else is in its batch, and whatever it sent as context."""
    _, answers = await answers_of([received(rows, context) for rows, context in batch])
    assert {place: told(scores) for place, scores in answers.items()} == {
        place: slow_truth(rows, context) for place, (rows, context) in enumerate(batch)
    }


@pytest.mark.medium
@settings(max_examples=40, deadline=None)
@given(
    batch=st.lists(requests(), min_size=1, max_size=4),
    withheld=st.sets(st.sampled_from(["user", "item", "genres", "tags", "history", "recent"]), min_size=1),
    most=st.integers(1, 3),
)
async def test_ids_that_are_not_looked_up_under_load_count_as_unknown(batch, withheld, most):
    """In the rows that are scored; beside requests that are not degraded."""
    steps = [*(UseDefault(feature) for feature in sorted(withheld)), CapCandidates(most)]
    looked_up = sorted({spec.feature for spec in LOOKUPS})
    level = levels(check_steps(steps, SCHEMA, looked_up, 3), SCHEMA)[-1]
    plain = [received(rows, context) for rows, context in batch]
    degraded = [replace(each, degradation=level) for each in plain]
    _, answers = await answers_of([*degraded, *plain])
    for place, (rows, context) in enumerate(batch):
        assert told(answers[place]) == slow_truth(rows[:most], context, withheld)
        assert told(answers[len(batch) + place]) == slow_truth(rows, context)


@pytest.mark.medium
@settings(max_examples=30, deadline=None)
@given(batch=st.lists(requests(), min_size=2, max_size=4), data=st.data())
async def test_a_part_of_a_batch_is_told_the_same(batch, data):
    """As when the dense program failed for all together."""
    received_ = [received(rows, context) for rows, context in batch]
    pipeline = Pipeline(make_manifest(), SCHEMA, EchoProgram(), ReferenceRouter(make_tables()))
    pulled = await pipeline.pull(PREPARATION.prepare(received_).work, deadline_s=1e9)
    places = data.draw(st.lists(st.sampled_from(range(len(batch))), min_size=1, unique=True))
    answers = pipeline.compute(pipeline.split(pulled, places))
    assert {new: told(scores) for new, scores in answers.items()} == {
        new: slow_truth(*batch[place]) for new, place in enumerate(places)
    }


class Losing(ReferenceRouter):
    """Has no live shard for the keys of one table: its default vectors stand for them, as the router merges them."""

    def _answer(self, lookup):
        result = super()._answer(lookup)
        if lookup.table != "users" or lookup.pooling is not Pooling.NONE:
            return result
        return LookupResult(result.values, 0, np.zeros(len(lookup.keys), bool), len(lookup.keys))


async def test_ids_that_no_live_shard_answers_for_are_unknown_too():
    rows = [plain_row(1, 2), plain_row(2, 4)]
    _, answers = await answers_of([received(rows, ())], Losing(make_tables()))
    unknown = told(answers[0])
    assert unknown["user"] == (2, [0, 1])
    assert ("user", "unavailable") in [(each.feature, each.reason) for each in answers[0].filled]


@pytest.mark.parametrize("unpadded", [False, True])
async def test_ids_whose_key_is_that_of_the_padding_count_and_the_padding_does_not(unpadded):
    """Key 0, of ids 0 and 12 and 24, has no row; 0 is the padding, at padded places and where it was sent."""
    key = KeyExpression.of("remainder", KeyExpression.ids(), KeyExpression.constant(12))
    spec = LookupSpec(table="users", feature="history", pooling=Pooling.MEAN, key=key, unpadded=unpadded)
    manifest = make_manifest([spec], ["history"])
    rows = [plain_row(1, 2) | {"history": history} for history in ([12, 0, 5, 24], [0, 5], [12], [])]
    ready = Preparation(manifest, SCHEMA).prepare([received(rows, ())])
    pipeline = Pipeline(manifest, SCHEMA, EchoProgram(), ReferenceRouter(make_tables()))
    answers = pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9))
    assert told(answers[0]) == {"history": (3, [0, 2])}


async def test_nothing_is_told_where_every_id_has_a_row():
    rows = [plain_row(1, 2)]
    router = ReferenceRouter(make_tables())
    for table in router.tables.values():
        table.rows.update({key: np.zeros(table.dim, np.float32) for key in range(200)})
    assert (await answers_of([received(rows, ())], router))[1][0].unknown == ()


# -- as callers see it -------------------------------------------------------------------------------------------------


def plainly(prediction: Prediction) -> list[tuple[str, int, list[int] | None]]:
    return [(each.feature, each.ids, None if each.rows is None else each.rows.tolist()) for each in prediction.unknown]


@pytest.mark.net
async def test_callers_are_told_how_many_always_and_which_rows_when_they_ask(served: Served, client: AsyncClient):
    rows = [{**row, "user": 3} for row in ROWS]  # items 0, 1, 2; neither 0 nor 3 has a row
    features, context = columns_of(rows, ["item"]), columns_of(rows[:1], [name for name in rows[0] if name != "item"])
    expected = slow_truth(rows, [name for name in rows[0] if name != "item"])
    assert expected["user"] == (1, [0, 1, 2])
    told_always = plainly(await client.predict("ranker", features, context))
    assert sorted(told_always) == sorted((feature, ids, None) for feature, (ids, _) in expected.items())
    asked = plainly(await client.predict("ranker", features, context, with_unknown=True))
    assert sorted(asked) == sorted((feature, ids, which) for feature, (ids, which) in expected.items())


def test_the_wire_keeps_what_is_told():
    unknown = (Unknown("user", 1), Unknown("item", 3, np.array([0, 7])))
    back = decode_response(encode_response(Prediction(outputs={}, version=1, unknown=unknown)))
    assert plainly(back) == [("user", 1, None), ("item", 3, [0, 7])]
