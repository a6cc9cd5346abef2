"""A batch through the pipeline equals its rows one by one, whatever is context in which request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.head.pipeline import Pipeline, Scores
from ringpull.inference.head.request.batch import row_index
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.head.request.received import ReceivedColumns
from ringpull.inference.model.manifest import LookupSpec
from ringpull.inference.prediction import Filled
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.schema import Cross, Dense, IdSequence, Schema, Sparse
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import Pooling
from tests.inference.fakes import EchoProgram, ReferenceRouter
from tests.inference.small_model import (
    ARGUMENTS,
    DIM,
    LOOKUPS,
    SCHEMA,
    Row,
    columns_of,
    make_manifest,
    make_tables,
    plain_row,
    received_of,
)
from tests.inference.small_requests import expected_vectors, requests
from tests.reference import assert_close

PREPARATION = Preparation(make_manifest(), SCHEMA)


def make_pipeline() -> tuple[Pipeline, ReferenceRouter, EchoProgram]:
    router, program = ReferenceRouter(make_tables()), EchoProgram()
    return Pipeline(make_manifest(), SCHEMA, program, router), router, program


async def answers_of(
    pipeline: Pipeline, requests: Sequence[ReceivedColumns], preparation: Preparation = PREPARATION
) -> dict[int, Scores]:
    """The way of a batch, all of whose requests are taken."""
    ready = preparation.prepare(requests)
    assert ready.refused == {}
    return pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9))


def check(rows: Sequence[Row], scores: Scores) -> None:
    expected = [expected_vectors(row) for row in rows]
    for place in range(len(LOOKUPS) + len(ARGUMENTS)):
        assert_close(scores.outputs[f"input{place}"], np.stack([vectors[place] for vectors in expected]))


# -- properties --------------------------------------------------------------------------------------------------------


@pytest.mark.medium
@settings(max_examples=60, deadline=None)
@given(batch=st.lists(requests(), min_size=1, max_size=4))
async def test_batch_of_any_requests_equals_the_slow_truth_row_by_row(batch):
    pipeline, router, program = make_pipeline()
    received = [
        received_of(columns_of(rows, [name for name in rows[0] if name not in context]), columns_of(rows[:1], context))
        for rows, context in batch
    ]
    answers = await answers_of(pipeline, received)
    assert sorted(answers) == list(range(len(batch)))
    for place, (rows, _) in enumerate(batch):
        check(rows, answers[place])
    assert len(router.pulls) == 1
    assert [rows for _, rows in program.runs] == [sum(len(rows) for rows, _ in batch)]


@given(sizes=st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=6))
def test_row_index_points_every_batch_row_to_its_own_row(sizes):
    expected, start = [], 0
    for rows, broadcast in sizes:
        expected += [start] * rows if broadcast else range(start, start + rows)
        start += 1 if broadcast else rows
    actual = row_index([1 if broadcast else rows for rows, broadcast in sizes], [rows for rows, _ in sizes])
    assert actual.dtype == np.int64
    assert actual.tolist() == expected


# -- what is pulled ----------------------------------------------------------------------------------------------------


async def test_context_is_pulled_once_per_request_and_broadcast_by_index():
    pipeline, router, program = make_pipeline()
    rows = [plain_row(1, item) for item in range(8)]
    request = received_of(
        columns_of(rows, ["item"]), columns_of(rows[:1], [name for name in rows[0] if name != "item"])
    )
    await answers_of(pipeline, [request, request])
    assert [each.keys.tolist() for each in router.pulls[0] if each.table == "users"].count([1, 1]) == 1
    assert max(len(each.keys) for each in router.pulls[0]) == 16
    await answers_of(pipeline, [request])
    inputs, _ = program.runs[-1]
    assert inputs[0].values.shape == (1, DIM)
    assert inputs[0].row_index.tolist() == [0] * 8
    assert inputs[1].row_index is None


async def test_padding_is_dropped_before_the_pull_and_empty_bags_stay():
    pipeline, router, _ = make_pipeline()
    rows = [{**plain_row(1, 2), "genres": genres} for genres in ([0, 5, 0], [0], [], [6])]
    await answers_of(pipeline, [received_of(columns_of(rows))])
    mean = next(each for each in router.pulls[0] if each.pooling is Pooling.MEAN and each.table == "genres")
    assert mean.keys.tolist() == [5, 6]
    assert mean.offsets.tolist() == [0, 1, 1, 1, 2]


async def test_filled_says_what_the_rules_and_the_shards_did_not_give():
    pipeline, router, _ = make_pipeline()
    router.lost["genres"] = 2
    columns = columns_of([plain_row(1, 2), plain_row(2, 3)])
    del columns["price"]
    scores = (await answers_of(pipeline, [received_of(columns)]))[0]
    assert [(each.feature, each.reason) for each in scores.filled] == [("price", "absent"), ("genres", "unavailable")]
    assert scores.filled[1].values == 4  # two look-ups of it, two lost keys each


async def test_model_without_look_ups_pulls_nothing():
    router, program = ReferenceRouter({}), EchoProgram()
    manifest = make_manifest(lookups=(), arguments=("numbers",))
    pipeline, preparation = Pipeline(manifest, SCHEMA, program, router), Preparation(manifest, SCHEMA)
    scores = (await answers_of(pipeline, [received_of(columns_of([plain_row(1, 2)]))], preparation))[0]
    assert scores.outputs["input0"].tolist() == [[1.0, 2.0, 3.0]]
    assert router.pulls == []


def test_rehearsal_runs_the_program_once_without_a_pull():
    pipeline, router, program = make_pipeline()
    pipeline.rehearse(PREPARATION.plain_batch())
    assert len(program.runs) == 1
    assert router.pulls == []
    assert "ranker/3" in repr(pipeline)


def test_rehearsal_builds_the_vocabularies():
    """A large one takes seconds, on the event loop: no request may be the one to pay."""
    near, far, words = Vocabulary([5, 6, 9]), Vocabulary([1, 10**12]), Vocabulary(["a", "b"])
    features = [
        Sparse("near", transforms=[near]),
        Sparse("far", many=True, missing=7, transforms=[far]),
        Sparse("words", dtype="string", transforms=[words]),
        Dense("age", width=2),
        Cross("near_x_words", of=("near", "words"), buckets=10),
    ]
    Preparation(make_manifest((), ("age",)), Schema(features)).plain_batch()
    assert "_direct" in vars(near)
    assert "_sorted" in vars(far)
    assert "_numbers" in vars(words)


@pytest.mark.parametrize("pad", [0, -1, 5])
def test_sequences_of_a_rehearsal_are_not_all_padding(pad: int):
    """A model that takes the last id which is no padding, and finds none, would be refused for it."""
    features = [IdSequence("history", length=3, pad=pad, never_empty=True), Dense("age", width=2)]
    batch = Preparation(make_manifest((), ("age",)), Schema(features)).plain_batch()
    ids = batch.groups[0].candidates.features["history"].ids
    assert ids is not None
    assert len(ids) == batch.groups[0].candidates.rows
    assert pad not in ids


def test_rehearsal_has_no_empty_list():
    """A model may fail on these: who sends one is told, and the version serves others."""
    batch = PREPARATION.plain_batch()
    for name in ("genres", "tags", "history", "recent"):
        assert batch.feature(name).prepared.offsets.tolist() == list(range(batch.rows + 1))


def test_rehearsal_of_a_program_that_does_not_take_its_inputs_is_corrupt_data():
    class Refusing(EchoProgram):
        def run(self, inputs, rows):
            raise RuntimeError("expected width 64")

    pipeline = Pipeline(make_manifest(), SCHEMA, Refusing(), ReferenceRouter(make_tables()))
    with pytest.raises(CorruptData, match=r"ranker/3.*expected width 64"):
        pipeline.rehearse(PREPARATION.plain_batch())


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_what_only_one_request_breaks_it_breaks_alone():
    pipeline, _, _ = make_pipeline()
    rows = [[plain_row(user, 2)] for user in range(6)]
    columns = [columns_of(each) for each in rows]
    columns[1]["tags"] = Ragged([1], [0, 1], [np.inf])
    columns[2]["colour"] = np.array([1])
    columns[4]["price"] = np.array([np.inf], np.float32)
    ready = PREPARATION.prepare([received_of(each) for each in columns])
    assert {place: str(error) for place, error in ready.refused.items()} == {
        place: refusal_alone(columns[place]) for place in (1, 2, 4)
    }
    assert all(isinstance(error, InvalidInput) for error in ready.refused.values())
    answers = pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9))
    assert sorted(answers) == [0, 3, 5]
    for place, scores in answers.items():
        check(rows[place], scores)


def refusal_alone(columns: dict[str, Column]) -> str:
    with pytest.raises(InvalidInput) as caught:
        SCHEMA.prepare_requests(columns, {}, [1])
    return str(caught.value)


async def test_what_was_filled_is_told_to_the_request_it_was_filled_in():
    pipeline, _, _ = make_pipeline()
    columns = [columns_of([plain_row(1, 2), plain_row(2, 3)]) for _ in range(3)]
    columns[1]["age"] = np.array([[1, np.nan], [np.nan, np.nan]], np.float32)
    columns[2]["price"] = np.array([np.nan, 1], np.float32)
    answers = await answers_of(pipeline, [received_of(each) for each in columns])
    assert [answers[place].filled for place in range(3)] == [
        (),
        (Filled("age", "missing", 3),),
        (Filled("price", "missing", 1),),
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (LookupSpec(table="users", feature="nobody", pooling=Pooling.NONE), "nobody"),
        (LookupSpec(table="users", feature="age", pooling=Pooling.SUM), "age.*no ids"),
        (LookupSpec(table="users", feature="genres", pooling=Pooling.NONE), "genres.*pool"),
        (LookupSpec(table="users", feature="genres", pooling=Pooling.SUM, weighted=True), "genres.*no weights"),
    ],
)
def test_look_up_that_does_not_fit_the_schema_is_corrupt_data(spec, message):
    with pytest.raises(CorruptData, match=message):
        Pipeline(make_manifest((spec,)), SCHEMA, EchoProgram(), ReferenceRouter({}))


@pytest.mark.parametrize(("argument", "message"), [("nothing", "nothing"), ("genres_offsets", "any length")])
def test_argument_that_does_not_fit_the_schema_is_corrupt_data(argument, message):
    with pytest.raises(CorruptData, match=message):
        Pipeline(make_manifest(arguments=(argument,)), SCHEMA, EchoProgram(), ReferenceRouter({}))


async def test_a_matrix_of_context_and_candidates_has_the_columns_of_every_row():
    """Sequences among them: one of these requests has the history as context, the other one with its candidates."""
    schema = Schema(SCHEMA.features, {"X": ("history_lengths", "user", "history", "age")})
    manifest = make_manifest((), ("X",))
    rows = [plain_row(1, 2) | {"history": [7, 8]}, plain_row(3, 4) | {"history": [5]}]
    names = [name for name in rows[0] if name != "history"]
    requests = [
        received_of(columns_of([rows[0]] * 2, names), columns_of(rows[:1], ["history"])),
        received_of(columns_of([rows[1], rows[0]])),
    ]
    pipeline = Pipeline(manifest, schema, EchoProgram(), ReferenceRouter(make_tables()))
    work = Preparation(manifest, schema).prepare(requests).work
    answers = pipeline.compute(await pipeline.pull(work, deadline_s=1e9))
    of_row = [[2, 1, 0, 0, 7, 8, 1, 2], [1, 3, 0, 0, 0, 5, 1, 2]]
    assert answers[0].outputs["input0"].tolist() == [of_row[0], of_row[0]]
    assert answers[1].outputs["input0"].tolist() == [of_row[1], of_row[0]]
