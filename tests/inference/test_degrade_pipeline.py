"""Degraded requests in a batch: each answer equals that of a request which was so from the start, and says so.

The slow truth is `small_requests.expected_vectors`, one row at a time in plain loops: bags cut by slicing lists, rows
by slicing the request, and ids that take default vectors looked up in tables without rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.degrade.levels import Degradation, check_steps, levels
from ringpull.inference.degrade.steps import CapCandidates, CutBags, Step, UseDefault, UseVersion
from ringpull.inference.head.outputs import with_rows
from ringpull.inference.head.pipeline import Pipeline, Scores
from ringpull.inference.head.request.partial_lookup import PartialLookup
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.head.request.received import ReceivedColumns
from ringpull.inference.prediction import Filled
from ringpull.inference.schema.columns import Ragged
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import Pooling
from ringpull.router.lookup import Lookup
from tests.inference.fakes import EchoProgram, ReferenceRouter
from tests.inference.small_model import (
    ARGUMENTS,
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
LISTS = ("genres", "tags", "history", "recent")
LOOKED_UP = sorted({spec.feature for spec in LOOKUPS})
OUTPUTS = [f"input{place}" for place in range(len(LOOKUPS) + len(ARGUMENTS))]


def level_of(*steps: Step) -> Degradation:
    """All the steps, in force."""
    level = levels(check_steps(steps, SCHEMA, LOOKED_UP, 3), SCHEMA)[-1]
    assert level is not None
    return level


def make_pipeline() -> tuple[Pipeline, ReferenceRouter, EchoProgram]:
    router, program = ReferenceRouter(make_tables()), EchoProgram()
    return Pipeline(make_manifest(), SCHEMA, program, router), router, program


async def answers_of(pipeline: Pipeline, requests: Sequence[ReceivedColumns]) -> dict[int, Scores]:
    ready = PREPARATION.prepare(requests)
    assert ready.refused == {}
    return pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9))


def received(rows: Sequence[Row], context: Collection[str] = (), level: Degradation | None = None) -> ReceivedColumns:
    features = columns_of(rows, [name for name in rows[0] if name not in context])
    return replace(received_of(features, columns_of(rows[:1], list(context))), degradation=level)


# -- the slow truth ----------------------------------------------------------------------------------------------------


def degraded(rows: Sequence[Row], level: Degradation | None) -> tuple[list[Row], Collection[str]]:
    """What is left of rows, and the features whose ids are in no table."""
    if level is None:
        return list(rows), ()
    left = rows[: level.cap.most] if level.cap is not None else rows
    cuts = {name: step.most for name, step in level.cuts.items()}
    return [
        {name: row[name][-cuts[name] :] if name in cuts else row[name] for name in row} for row in left
    ], level.defaults


def phrases_of(rows: Sequence[Row], level: Degradation | None) -> set[str]:
    """What must be said: of the steps that changed something."""
    if level is None:
        return set()
    left = rows if level.cap is None else rows[: level.cap.most]
    said = {step.phrase for name, step in level.cuts.items() if any(len(row[name]) > step.most for row in left)}
    said |= {
        step.phrase for name, step in level.defaults.items() if name not in LISTS or any(row[name] for row in left)
    }
    if level.cap is not None and len(left) < len(rows):
        said.add(level.cap.phrase)
    return said


def check(rows: Sequence[Row], level: Degradation | None, scores: Scores) -> None:
    left, unknown = degraded(rows, level)
    expected = [expected_vectors(row, unknown) for row in left]
    for place, name in enumerate(OUTPUTS):
        values = with_rows(scores.outputs[name], len(rows))
        assert_close(values[: len(left)], np.stack([vectors[place] for vectors in expected]))
        assert len(values) == len(rows)
        assert np.isnan(values[len(left) :]).all()


# -- properties --------------------------------------------------------------------------------------------------------

some_steps = st.builds(
    lambda *steps: level_of(*[step for step in steps if step is not None]),
    st.sampled_from([None, CutBags(1), CutBags(2), CutBags(2, "tags"), CutBags(1, "history", "recent")]),
    st.sets(st.sampled_from(LOOKED_UP)).map(lambda names: UseDefault(*sorted(names)) if names else None),
    st.sampled_from([CapCandidates(1), CapCandidates(2), CapCandidates(3)]),
)


@pytest.mark.medium
@settings(max_examples=30, deadline=None)
@given(
    batch=st.lists(st.tuples(requests(), st.integers(0, 2)), min_size=1, max_size=5), level=some_steps, other=some_steps
)
async def test_batch_of_any_levels_equals_the_slow_truth_row_by_row(batch, level, other):
    pipeline, router, program = make_pipeline()
    kinds = (None, level, other)
    answers = await answers_of(pipeline, [received(rows, context, kinds[kind]) for (rows, context), kind in batch])
    assert sorted(answers) == list(range(len(batch)))
    for place, ((rows, _), kind) in enumerate(batch):
        check(rows, kinds[kind], answers[place])
        assert set(answers[place].degraded) == phrases_of(rows, kinds[kind])
    assert len(router.pulls) <= 1
    assert [rows for _, rows in program.runs] == [sum(len(degraded(rows, kinds[kind])[0]) for (rows, _), kind in batch)]


# -- cases -------------------------------------------------------------------------------------------------------------


async def test_ids_that_take_default_vectors_are_not_pulled():
    pipeline, router, _ = make_pipeline()
    rows = [plain_row(user=1, item=item) for item in (5, 7)]
    whole, part = received(rows), received(rows, level=level_of(UseDefault("history", "genres")))
    await answers_of(pipeline, [whole, part])
    both = dict(zip([(spec.feature, place) for place, spec in enumerate(LOOKUPS)], router.pulls[0], strict=True))
    assert {feature: len(lookup.keys) for (feature, _), lookup in both.items() if feature in ("history", "user")} == {
        "history": 2,
        "user": 4,
    }
    await answers_of(pipeline, [part])
    left = [spec.table for spec in LOOKUPS if spec.feature not in ("history", "genres")]
    assert [each.table for each in router.pulls[1]] == left


def test_weights_of_one_bag_change_no_other():
    weights = np.array([3e38, 1.0, 1.0, 1.0], np.float32)
    whole = Lookup("item", Pooling.SUM, np.arange(4, dtype=np.uint64), np.array([0, 1, 2, 4]), weights)
    result = PartialLookup(whole, np.ones(4, bool), None, np.array([0.5], np.float32)).completed(None)
    assert result.values[1:, 0].tolist() == [0.5, 1.0]


async def test_when_all_ids_take_default_vectors_nothing_is_pulled():
    pipeline, router, _ = make_pipeline()
    rows = [plain_row(user=1, item=5)]
    level = level_of(UseDefault(*LOOKED_UP))
    answers = await answers_of(pipeline, [received(rows, level=level)])
    check(rows, level, answers[0])
    assert router.pulls == []


async def test_the_reply_names_the_features_and_counts_their_ids_request_by_request():
    pipeline, _, _ = make_pipeline()
    level = level_of(UseDefault("history", "genres", "user_item"))
    first = [{**plain_row(1, 5), "history": [1, 2, 3], "genres": []}] * 2
    second = [{**plain_row(1, 5), "history": [], "genres": []}]
    answers = await answers_of(
        pipeline, [received(first, ["history"], level), received(second, ["history"], level), received(second)]
    )
    assert answers[0].filled == (
        Filled("history", "degraded", 3),
        Filled("user_item", "degraded", 2),
    )
    assert answers[1].filled == (Filled("user_item", "degraded", 1),)
    assert answers[2].filled == ()
    assert answers[2].degraded == ()


async def test_what_a_step_did_not_change_is_not_said_to_be_degraded():
    pipeline, _, _ = make_pipeline()
    level = level_of(CutBags(2), CapCandidates(2), UseDefault("history"))
    short = [{**plain_row(1, 5), "history": [], "genres": [1, 2]}]
    long = [{**plain_row(1, 5), "history": [4], "genres": [1, 2, 3]}] * 3
    answers = await answers_of(pipeline, [received(short, level=level), received(long, level=level)])
    assert answers[0].degraded == ()
    assert answers[1].degraded == ("cut bags to 2", "scored the first 2 candidates", "default vectors for history")


async def test_rows_of_equal_length_are_cut_like_lists():
    pipeline, _, _ = make_pipeline()
    rows = [{**plain_row(1, item), "genres": [1, 2, 3]} for item in (5, 7)]
    columns = columns_of(rows)
    columns["genres"] = np.array([row["genres"] for row in rows])
    level = level_of(CutBags(2, "genres"))
    answers = await answers_of(pipeline, [replace(received_of(columns), degradation=level)])
    check(rows, level, answers[0])
    assert answers[0].degraded == ("cut genres to 2",)


async def test_a_bad_request_fails_alone_and_by_the_feature():
    pipeline, _, _ = make_pipeline()
    level = level_of(CutBags(1), CapCandidates(1))
    rows = [{**plain_row(1, 5), "genres": [1, 2, 3]}] * 2
    bad = columns_of(rows)
    bad["item"] = Ragged.from_lists([[1], [2]], np.int64)
    unknown = {**columns_of(rows), "colour": np.array([1, 2])}
    sent = [received(rows, level=level)] + [replace(received_of(each), degradation=level) for each in (bad, unknown)]
    ready = PREPARATION.prepare(sent)
    assert sorted(ready.refused) == [1, 2]
    with pytest.raises(InvalidInput, match="feature item"):
        raise ready.refused[1]
    with pytest.raises(InvalidInput, match="feature colour: the model has no such feature"):
        raise ready.refused[2]
    answers = pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9))
    check(rows, level, answers[0])


async def test_a_lighter_version_leaves_out_what_only_the_other_takes():
    pipeline, _, _ = make_pipeline()
    rows = [plain_row(1, item) for item in (5, 7)]
    level = Degradation(
        steps=(CutBags(1, "colours"), UseVersion(3)),
        sent=frozenset([*rows[0], "colours"]),
        cuts={"colours": CutBags(1, "colours")},
        other=UseVersion(3),
    )
    columns = {**columns_of(rows), "colours": Ragged.from_lists([[1, 2], [3]], np.int64)}
    answers = await answers_of(pipeline, [replace(received_of(columns), degradation=level)])
    check(rows, None, answers[0])
    assert answers[0].degraded == ("answered by version 3",)
