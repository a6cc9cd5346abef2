"""Ids beyond the rows of a dense program: refused by name before they are batched, or replaced; others never notice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.degrade.levels import check_steps, levels
from ringpull.inference.degrade.steps import CapCandidates, CutBags, UseDefault
from ringpull.inference.head.pipeline import Pipeline
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.head.request.received import ReceivedColumns
from ringpull.inference.model.manifest import IdLimit
from ringpull.inference.prediction import Filled
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.kinds import Computed
from ringpull.inference.schema.schema import Cross, Dense, IdSequence, Schema, Sparse
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.errors import CorruptData, InvalidInput
from tests.inference.fakes import EchoProgram, ReferenceRouter
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

INT64 = st.integers(-(2**63), 2**63 - 1)


def limits_of(**bounds: tuple[int, int]) -> tuple[IdLimit, ...]:
    return tuple(IdLimit(feature=name, low=low, high=high) for name, (low, high) in bounds.items())


def preparation_of(schema: Schema = SCHEMA, **bounds: tuple[int, int]) -> Preparation:
    return Preparation(replace(make_manifest(), limits=limits_of(**bounds)), schema)


def declared(**beyond: int) -> Schema:
    """The small model's schema with stand-ins for ids beyond."""
    features = [replace(each, beyond=beyond[each.name]) if each.name in beyond else each for each in SCHEMA.features]
    return Schema(features, SCHEMA.stacks)


def refused_by(preparation: Preparation, *requests: ReceivedColumns) -> dict[int, str]:
    refused = preparation.prepare(requests).refused
    assert all(type(error) is InvalidInput for error in refused.values())
    return {place: str(error) for place, error in refused.items()}


def rows_of(items: Sequence[int], **others: object) -> list[Row]:
    return [{**plain_row(1, item), **others} for item in items]


# -- what is refused, and how it is said -------------------------------------------------------------------------------


def test_id_beyond_is_refused_by_feature_row_value_and_limit() -> None:
    preparation = preparation_of(item=(0, 1000))
    assert refused_by(preparation, received_of(columns_of(rows_of([5, 999, 0, 1_000_000, 2_000_000])))) == {
        0: "feature item: row 3 has the id 1000000; the model takes ids from 0 to 999; a feature that declares"
        " beyond=ID takes others, too, as that one"
    }


def test_rows_are_those_of_the_request_whatever_group_it_is_prepared_in() -> None:
    preparation = preparation_of(item=(0, 10))
    group = [received_of(columns_of(rows_of(items))) for items in ([1, 2, 3], [4, -1, 11], [5], [6, 7, 10])]
    told = refused_by(preparation, *group)
    assert {place: message.partition(";")[0] for place, message in told.items()} == {
        1: "feature item: row 1 has the id -1",
        3: "feature item: row 2 has the id 10",
    }


def test_context_is_named_as_such() -> None:
    rows = rows_of([1, 2])
    columns = columns_of(rows, [name for name in rows[0] if name != "history"])
    sent = received_of(columns, columns_of(rows_of([1], history=[3, 77]), ["history"]))
    fine = received_of(columns, columns_of(rows_of([1], history=[3, 7]), ["history"]))
    told = refused_by(preparation_of(history=(0, 20)), fine, sent, fine)
    assert list(told) == [1]
    assert told[1].startswith("feature history: the context has the id 77; the model takes ids from 0 to 19;")


def test_unsigned_ids_are_told_as_they_were_sent() -> None:
    schema = Schema([Sparse("item", dtype="uint64"), Dense("price")])
    preparation = Preparation(replace(make_manifest((), ("item",)), limits=limits_of(item=(0, 10))), schema)
    sent = received_of({"item": np.array([1, 2**63 + 5], np.uint64), "price": np.zeros(2, np.float32)})
    assert refused_by(preparation, sent)[0].startswith(f"feature item: row 1 has the id {2**63 + 5};")


def test_cross_beyond_is_refused_without_the_advice_that_it_cannot_follow() -> None:
    told = refused_by(preparation_of(user_item=(20, 30)), received_of(columns_of(rows_of([1]))))
    assert re.fullmatch(r"feature user_item: row 0 has the id \d+; the model takes ids from 20 to 29", told[0])


def test_only_ids_that_the_model_is_given_count() -> None:
    """A sequence's padding, and what is cut from its front, are not ids of the request."""
    preparation = preparation_of(recent=(0, 9))  # its padding is 9
    sent = received_of(columns_of(rows_of([1, 2], recent=[500, 1, 2, 3])))
    empty = received_of(columns_of(rows_of([1, 2], recent=[])))
    assert refused_by(preparation, sent, empty) == {}
    assert list(refused_by(preparation, received_of(columns_of(rows_of([1], recent=[1, 9]))))) == [0]


@given(st.lists(INT64 | st.integers(-3, 12), min_size=1, max_size=8), INT64 | st.integers(-2, 3), st.data())
def test_limits_are_exact_to_the_ends_of_int64(ids, low, data) -> None:
    high = data.draw(st.integers(low + 1, 2**63 - 1) if low < 2**63 - 1 else st.nothing())
    told = refused_by(preparation_of(item=(low, high)), received_of(columns_of(rows_of(ids))))
    beyond = [row for row, each in enumerate(ids) if not low <= each < high]
    assert bool(told) == bool(beyond)
    if beyond:
        assert told[0].startswith(f"feature item: row {beyond[0]} has the id {ids[beyond[0]]};")


# -- others of the batch -----------------------------------------------------------------------------------------------


@pytest.mark.medium
@settings(max_examples=60, deadline=None)
@given(batch=st.lists(requests(), min_size=1, max_size=6), high=st.integers(1, 12))
async def test_requests_within_limits_are_answered_as_if_the_others_were_not_there(batch, high):
    received = [
        received_of(columns_of(rows, [name for name in rows[0] if name not in context]), columns_of(rows[:1], context))
        for rows, context in batch
    ]
    bounds = {"item": (0, high), "history": (1, 12)}

    def beyond(rows: Sequence[Row]) -> bool:
        histories = [each for row in rows for each in row["history"][-4:]]
        return any(row["item"] >= high for row in rows) or 0 in histories

    pipeline = Pipeline(make_manifest(), SCHEMA, EchoProgram(), ReferenceRouter(make_tables()))
    ready = preparation_of(**bounds).prepare(received)
    assert sorted(ready.refused) == [place for place, (rows, _) in enumerate(batch) if beyond(rows)]
    answers = pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9)) if ready.work.groups else {}
    assert sorted(answers) == [place for place, (rows, _) in enumerate(batch) if not beyond(rows)]
    for place, scores in answers.items():
        alone = preparation_of().prepare([received[place]])
        expected = pipeline.compute(await pipeline.pull(alone.work, deadline_s=1e9))[0]
        for name, values in expected.outputs.items():
            np.testing.assert_array_equal(scores.outputs[name], values)


def test_a_group_with_a_bad_request_is_prepared_twice_not_one_by_one(monkeypatch) -> None:
    """A caller who sends such ids all the time costs the others little."""
    preparation, sizes = preparation_of(item=(0, 10)), []
    prepared = preparation._prepared
    monkeypatch.setattr(preparation, "_prepared", lambda group: sizes.append(len(group)) or prepared(group))
    requests = [received_of(columns_of(rows_of([place]))) for place in range(12)]
    assert list(refused_by(preparation, *requests)) == [10, 11]
    assert sizes == [12, 10]


def test_other_errors_of_a_group_stay_their_own() -> None:
    preparation = preparation_of(item=(0, 10))
    bad = columns_of(rows_of([1]))
    bad["tags"] = Ragged([1], [0, 1], [np.nan])
    told = refused_by(
        preparation, *(received_of(each) for each in (columns_of(rows_of([3])), bad, columns_of(rows_of([30]))))
    )
    assert [(place, message.partition(":")[0]) for place, message in sorted(told.items())] == [
        (1, "feature tags"),
        (2, "feature item"),
    ]


def test_empty_row_of_what_is_never_empty_is_refused_alone_by_its_own_row() -> None:
    never = [
        replace(each, never_empty=True, missing=None) if each.name == "history" else each for each in SCHEMA.features
    ]
    fine, bad = columns_of(rows_of([1, 2])), columns_of([*rows_of([1]), *rows_of([2], history=[])])
    told = refused_by(preparation_of(Schema(never, SCHEMA.stacks)), *(received_of(each) for each in (fine, bad, fine)))
    assert list(told) == [1]
    assert told[1].startswith("feature history: row 1 has no values;")


# -- stand-ins ---------------------------------------------------------------------------------------------------------


async def outputs_of(preparation: Preparation, schema: Schema, rows: Sequence[Row]) -> Mapping[str, np.ndarray]:
    pipeline = Pipeline(make_manifest(), schema, EchoProgram(), ReferenceRouter(make_tables()))
    ready = preparation.prepare([received_of(columns_of(rows))])
    assert not ready.refused
    return pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9))[0].outputs


async def test_id_beyond_is_replaced_before_look_ups_and_dense_program():
    schema = declared(item=7, history=2)
    preparation = preparation_of(schema, item=(0, 10), history=(1, 10))
    sent = [*rows_of([3, 10, -5, 2**62], history=[5, 0, 2**40]), *rows_of([4], history=[])]
    replaced = [*rows_of([3, 7, 7, 7], history=[5, 2, 2]), *rows_of([4], history=[])]
    # What crosses are made of is the id that was sent: they have buckets of their own.
    cross = f"input{[spec.feature for spec in LOOKUPS].index('user_item')}"
    found = await outputs_of(preparation, schema, sent)
    expected = await outputs_of(preparation_of(), SCHEMA, replaced)
    assert {name for name in found if not np.array_equal(found[name], expected[name])} <= {cross}


async def test_context_is_replaced_too():
    schema = declared(user=3)
    preparation = preparation_of(schema, user=(0, 10))
    rows = rows_of([1, 2])
    sent = received_of(
        columns_of(rows, [name for name in rows[0] if name != "user"]), {"user": np.array([99], np.int64)}
    )
    work = preparation.prepare([sent, sent]).work
    assert work.feature("user").prepared.ids.tolist() == [3, 3]
    assert [group.filled() for group in work.groups] == [[(Filled("user", "beyond", 1),)] * 2]


def test_replies_count_the_ids_that_were_replaced() -> None:
    preparation = preparation_of(declared(item=7, history=2), item=(0, 10), history=(1, 10))
    sent = [*rows_of([3, 10, -5], history=[5, 0, 2**40]), *rows_of([4], history=[])]
    [group] = preparation.prepare([received_of(columns_of(each)) for each in (rows_of([1]), sent)]).work.groups
    assert group.filled() == [(), (Filled("item", "beyond", 2), Filled("history", "beyond", 6))]


@pytest.mark.parametrize("context", [(), ("user",), ("item",)])
def test_what_is_computed_of_ids_is_computed_of_their_stand_ins(context) -> None:
    """As the model would, given these ids; a cross is made of what was sent."""
    key = KeyExpression.of(
        "add", KeyExpression.of("mul", KeyExpression.ids(), KeyExpression.constant(1000)), KeyExpression.ids(1)
    )
    schema = Schema(
        [Sparse("user", beyond=4), Sparse("item", beyond=7), Computed("pair", of=("user", "item"), key=key)]
    )
    manifest = replace(make_manifest((), ("user",)), limits=limits_of(user=(0, 5), item=(0, 10)))
    users, items = ([3, 3, 3] if "user" in context else [1, 99, 2]), ([50] * 3 if "item" in context else [5, 6, -1])
    columns = {"user": np.array(users), "item": np.array(items)}
    sent = received_of(
        {name: column for name, column in columns.items() if name not in context},
        {name: columns[name][:1] for name in context},
    )
    work = Preparation(manifest, schema).prepare([sent, sent]).work
    expected = [
        (user if 0 <= user < 5 else 4) * 1000 + (item if 0 <= item < 10 else 7)
        for user, item in zip(users, items, strict=True)
    ]
    assert work.every_row("pair").ids.tolist() == expected * 2


@pytest.mark.parametrize("first", ["user", "pair"])
def test_what_is_computed_of_stand_ins_is_held_against_its_own_limit(first) -> None:
    """Whichever limit the manifest has first: 10 * 99 + 3 would be beyond, 10 * 4 + 3 is not, 10 * 4 + 9 is."""
    key = KeyExpression.of(
        "add", KeyExpression.of("mul", KeyExpression.ids(), KeyExpression.constant(10)), KeyExpression.ids(1)
    )
    schema = Schema([Sparse("user", beyond=4), Sparse("item"), Computed("pair", of=("user", "item"), key=key)])
    both = sorted(limits_of(user=(0, 5), pair=(0, 49)), key=lambda each: each.feature != first)
    preparation = Preparation(replace(make_manifest((), ("pair",)), limits=tuple(both)), schema)
    sent = [received_of({"user": np.array([user]), "item": np.array([item])}) for user, item in ((99, 3), (-1, 9))]
    ready = preparation.prepare(sent)
    assert ready.work.every_row("pair").ids.tolist() == [43]
    assert {place: str(error) for place, error in ready.refused.items()} == {
        1: "feature pair: row 0 has the id 49; the model takes ids from 0 to 48"
    }


def test_stand_ins_are_ids_after_transforms() -> None:
    schema = Schema([Sparse("word", dtype="string", transforms=[Vocabulary(["a", "b", "c", "d"])], beyond=1)])
    manifest = replace(make_manifest((), ("word",)), limits=limits_of(word=(0, 4)))
    work = Preparation(manifest, schema).prepare([received_of({"word": np.array(["d", "a", "?"], object)})]).work
    plain = schema.prepare({"word": np.array(["d", "a", "?"], object)}, 3).features["word"].ids
    assert plain.tolist() == [4, 1, 0]
    assert work.feature("word").prepared.ids.tolist() == [1, 1, 0]


# -- degraded, plain ---------------------------------------------------------------------------------------------------


def test_what_a_degradation_leaves_out_is_not_held_against_limits() -> None:
    steps = (CapCandidates(2), CutBags(1, "history"), UseDefault("user"))
    looked_up = sorted({spec.feature for spec in LOOKUPS})
    level = levels(check_steps(steps, SCHEMA, looked_up, 3), SCHEMA)[-1]
    preparation = preparation_of(item=(0, 10), history=(1, 10))
    light = received_of(columns_of(rows_of([1, 2, 30], history=[50, 5])))
    bad = received_of(columns_of(rows_of([1, 20, 3], history=[5])))
    told = refused_by(preparation, *(replace(each, degradation=level) for each in (light, bad)))
    assert list(told) == [1]
    assert told[1].startswith("feature item: row 1 has the id 20;")


def test_rehearsal_gives_the_program_ids_that_it_takes() -> None:
    preparation = preparation_of(item=(5, 8), history=(3, 9))
    work = preparation.plain_batch()
    assert work.feature("item").prepared.ids.tolist() == [5] * 4
    never = [
        replace(each, never_empty=True, missing=None) if each.name in ("history", "tags") else each
        for each in SCHEMA.features
    ]
    work = preparation_of(Schema(never, SCHEMA.stacks), history=(3, 9)).plain_batch()
    assert work.feature("history").prepared.ids.tolist() == [3] * 4
    assert work.feature("tags").prepared.offsets.tolist() == [0, 1, 2, 3, 4]


# -- limits that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "schema", "message"),
    [
        (limits_of(colour=(0, 3)), SCHEMA, "manifest: .*colour.* not in the schema"),
        (limits_of(price=(0, 3)), SCHEMA, "manifest: .*price.* no ids"),
        (limits_of(item=(0, 3)) * 2, SCHEMA, "manifest: .*item have two limits"),
        (limits_of(item=(0, 3)), declared(item=3), "feature item: beyond is 3; the model takes ids from 0 to 2"),
        (limits_of(item=(1, 3)), declared(item=0), "feature item: beyond is 0; the model takes ids from 1 to 2"),
    ],
)
def test_limits_that_do_not_fit_the_schema_are_corrupt_data_at_load(limits, schema, message) -> None:
    with pytest.raises(CorruptData, match=message):
        Preparation(replace(make_manifest(), limits=limits), schema)


def test_stand_in_without_a_limit_does_nothing() -> None:
    work = preparation_of(declared(item=3)).prepare([received_of(columns_of(rows_of([2**60])))]).work
    assert work.feature("item").prepared.ids.tolist() == [2**60]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sparse("a", beyond=2**63), f"feature a: beyond is {2**63}; it must be an int64"),
        (lambda: Sparse("a", beyond=True), "feature a: beyond is True"),
        (lambda: IdSequence("a", length=3, beyond=1.5), "feature a: beyond is 1.5"),
        (lambda: IdSequence("a", length=3, beyond="x"), "feature a: beyond is 'x'"),
    ],
)
def test_stand_ins_that_are_no_ids_are_refused(make, message) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        make()


def test_stand_ins_travel_with_the_schema() -> None:
    schema = Schema(
        [Sparse("a", beyond=4), Sparse("b"), IdSequence("c", length=3, beyond=0), Cross("d", ("a", "b"), 5)]
    )
    assert Schema.from_json(schema.to_json()) == schema
    assert schema.to_json().count("beyond") == 2
