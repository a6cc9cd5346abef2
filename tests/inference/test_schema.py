"""The schema as a value: what can be declared, what cannot, its JSON form, and what is served."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.schema.arguments import Argument
from ringpull.inference.schema.kinds import Cross, Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Bucketize, Clip, Hash, Log, Normalize, Vocabulary
from ringpull.ps.errors import InvalidInput

FULL = Schema(
    [
        Cross("user_x_zip", of=("user_id", "zip"), buckets=1000),
        Sparse("user_id", transforms=[Vocabulary([10, 20, 30])]),
        Sparse("zip", dtype="string", transforms=[Hash(100)], missing="?"),
        Sparse("age_bucket", dtype="float32", transforms=[Clip(0, 99.5), Bucketize([18, 35.5])]),
        Sparse("device", dtype="uint64", missing=2**64 - 1),
        Sparse("genres", dtype="string", many=True, missing=(), max_length=5, transforms=[Vocabulary(["drama"])]),
        Sparse("tags", many=True, weighted=True, include_last_offset=False),
        IdSequence("history", length=4, pad=-1, pad_side="left", missing=7),
        Dense("price", transforms=[Log(), Normalize(0.5, 2)], missing=0.0),
        Dense("vector", width=3, transforms=[Normalize((1, 2, 3), (1, 1, 1))]),
    ],
    stacks={"fields": ["user_id", "zip", "user_x_zip"], "numbers": ["price", "vector"]},
)


def test_json_reads_back_equal() -> None:
    assert Schema.from_json(FULL.to_json()) == FULL
    assert Schema.from_json(FULL.to_json().encode()).to_json() == FULL.to_json()


def test_json_leaves_out_defaults() -> None:
    assert json.loads(Schema([Sparse("a", many=True)]).to_json()) == {
        "format": 1,
        "features": [{"kind": "sparse", "name": "a", "many": True}],
        "stacks": {},
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.medium
@given(st.integers(0, 9), st.sampled_from(["kind", "name", "dtype", "transforms", "missing", "of", "width", "x"]), JSON)
def test_damaged_json_is_refused_or_read_as_a_schema(place: int, field: str, value: object) -> None:
    """Whatever stands in a field, reading raises InvalidInput or gives a schema: never another error."""
    body = json.loads(FULL.to_json())
    body["features"][place][field] = value
    try:
        Schema.from_json(json.dumps(body))
    except InvalidInput:
        return


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "must be a JSON object of format 1"),
        ('{"format":2,"features":[]}', "format 1"),
        ('{"format":1,"features":{}}', "features must be a list"),
        ('{"format":1,"features":[7]}', r"features\[0\]: must be an object with a kind"),
        ('{"format":1,"features":[{"kind":"sparse"}]}', "field 'name' is missing"),
        ('{"format":1,"features":[{"kind":"sparse","name":"a","size":1}]}', "feature a: sparse has no field 'size'"),
        (
            '{"format":1,"features":[{"kind":"dense","name":"a","transforms":[{"kind":"hash"}]}]}',
            "feature a.*'buckets'",
        ),
        ('{"format":1,"features":[{"kind":"dense","name":"a","transforms":{}}]}', "feature a: transforms must be"),
        ('{"format":1,"features":[{"kind":"dense","name":"a"}],"stacks":{"s":"a"}}', "stacks must map"),
    ],
)
def test_json_errors_name_the_place(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Schema.from_json(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sparse("../a"), "feature name"),
        (lambda: Sparse("a", dtype="int32"), "feature a: dtype is 'int32'"),
        (lambda: Sparse("a", dtype="float32"), "feature a: float32 values are not ids"),
        (lambda: Sparse("a", weighted=True), "many=True"),
        (lambda: Sparse("a", max_length=3), "many=True"),
        (lambda: Sparse("a", many=True, max_length=0), "max_length is 0"),
        (lambda: Sparse("a", many="yes"), "many is 'yes'"),
        (lambda: Sparse("a", missing="x"), "missing is 'x'; it must be a int64 value"),
        (lambda: Sparse("a", missing=()), "missing is"),
        (lambda: Sparse("a", dtype="uint64", missing=-1), "missing is -1"),
        (lambda: Sparse("a", transforms=[Log()]), r"Log\(\) does not take int64"),
        (lambda: Sparse("a", transforms=["hash"]), "must be a list of transforms"),
        (lambda: Sparse("a", transforms=[Vocabulary([1]), Hash(5)]), "Vocabulary must be the last"),
        (lambda: Sparse("a", transforms=[Vocabulary(["x"])]), "does not take int64"),
        (lambda: Dense("a", width=0), "width is 0"),
        (lambda: Dense("a", missing=float("inf")), "missing is inf"),
        (lambda: Sparse("a", dtype="float32", missing=float("nan"), transforms=[Bucketize([1])]), "missing is nan"),
        (lambda: Dense("a", missing=10**400), "missing is 1000.*; it must be a float32 value"),
        (lambda: Dense("a", width=2, transforms=[Normalize((1, 2, 3), 1)]), "width is 2"),
        (lambda: IdSequence("a", length=0), "length is 0"),
        (lambda: IdSequence("a", length=5, pad_side="top"), "pad_side is 'top'"),
        (lambda: IdSequence("a", length=5, never_empty=1), "never_empty is 1; it must be true or false"),
        (lambda: IdSequence("a", length=5, never_empty=True, missing=()), "missing=.. .*never_empty refuses"),
        (lambda: Sparse("a", never_empty=True), "never_empty are for features with many=True"),
        (lambda: Sparse("a", many=True, never_empty="yes"), "never_empty is 'yes'"),
        (lambda: IdSequence("a", length=5, pad="x"), "pad is 'x'"),
        (lambda: Cross("a", of=("b",), buckets=5), "two or more"),
        (lambda: Cross("a", of="bc", buckets=5), "list of feature names"),
        (lambda: Cross("a", of=("b", "c"), buckets=0), "buckets is 0"),
        (lambda: Schema([]), "at least one feature"),
        (lambda: Schema([Sparse("a"), Dense("a")]), "feature a: declared twice"),
        (lambda: Schema([Sparse("a"), Cross("c", ("a", "b"), 5)]), "feature c: crosses 'b'"),
        (lambda: Schema([Sparse("a"), Sparse("b", many=True), Cross("c", ("a", "b"), 5)]), "crosses 'b'"),
        (lambda: Schema([Sparse("a")], {"s": ["b"]}), "stack s: no feature is called 'b'"),
        (lambda: Schema([Sparse("a")], {"s": []}), "stack s: has no features"),
        (lambda: Schema([Sparse("a"), Dense("b")], {"s": ["a", "b_lengths"]}), "stack s: no feature is called 'b_len"),
        (lambda: Schema([Sparse("a", many=True)], {"s": ["a"]}), "any number of ids per row.*declare it IdSequence"),
        (lambda: Dense("a", width=2, flat=True), "feature a: flat is for a width of 1; width is 2"),
        (lambda: Dense("a", flat=1), "feature a: flat is 1; it must be true or false"),
        (
            lambda: Schema([Sparse("a", many=True), Dense("a_offsets")]),
            "argument a_offsets: made by a_offsets and by a",
        ),
        (lambda: Schema([Sparse("a")], {"a": ["a"]}), "argument a: made by"),
    ],
)
def test_what_cannot_be_declared(make, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


def test_argument_names_tell_what_each_is_made_of() -> None:
    assert FULL.argument_names() == {
        argument.name: argument
        for argument in [
            Argument("user_x_zip", "id", ("user_x_zip",)),
            Argument("user_id", "id", ("user_id",)),
            Argument("zip", "id", ("zip",)),
            Argument("age_bucket", "id", ("age_bucket",)),
            Argument("device", "id", ("device",)),
            Argument("genres", "values", ("genres",)),
            Argument("genres_offsets", "offsets", ("genres",)),
            Argument("tags", "values", ("tags",)),
            Argument("tags_offsets", "offsets", ("tags",)),
            Argument("tags_weights", "weights", ("tags",)),
            Argument("history", "sequence", ("history",)),
            Argument("history_lengths", "lengths", ("history",)),
            Argument("price", "dense", ("price",)),
            Argument("vector", "dense", ("vector",)),
            Argument("fields", "id_stack", ("user_id", "zip", "user_x_zip")),
            Argument("numbers", "dense_stack", ("price", "vector")),
        ]
    }


def test_for_serving_drops_the_vocabulary_of_raw_features() -> None:
    served = FULL.for_serving(["user_id", "genres"])
    assert served["user_id"] == Sparse("user_id")
    assert served["genres"] == Sparse("genres", dtype="string", many=True, missing=(), max_length=5)
    assert served["zip"] == FULL["zip"]
    assert served.stacks == FULL.stacks


def test_for_serving_gives_row_numbers_the_type_of_their_raw_ids() -> None:
    schema = Schema([Sparse("item"), IdSequence("history", length=3)])
    served = schema.for_serving({"item": "string", "history": "string"})
    assert served == Schema([Sparse("item", dtype="string"), IdSequence("history", length=3, dtype="string")])
    assert schema.for_serving(["item"]) == schema


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no Sparse or IdSequence feature"),
        ("price", "no Sparse or IdSequence feature"),
        ("zip", "its ids come from Hash"),
        ("device", "its missing rule was made for row numbers"),
        ("plain", "the cross both was made for row numbers"),
    ],
)
def test_for_serving_refuses_what_raw_ids_would_change(name: str, message: str) -> None:
    schema = Schema([*FULL.features, Sparse("plain"), Cross("both", of=("plain", "zip"), buckets=9)])
    with pytest.raises(InvalidInput, match=message):
        schema.for_serving([name])


def test_nan_stands_for_what_is_missing_where_a_feature_says_so() -> None:
    """A request's NaN, and a column that it leaves out, reach the dense program as NaN, and are counted as filled."""
    schema = Schema([Dense("a", missing=float("nan")), Dense("b", 2, missing=float("nan"))])
    assert Schema.from_json(schema.to_json()) == schema
    assert "NaN" not in schema.to_json()
    prepared = schema.prepare({"b": np.array([[1, np.nan], [2, 3]], np.float32)}, 2)
    np.testing.assert_array_equal(prepared.features["a"].dense, [[np.nan], [np.nan]])
    np.testing.assert_array_equal(prepared.features["b"].dense, [[1, np.nan], [2, 3]])
    assert [(each.feature, each.reason, each.values) for each in prepared.filled] == [
        ("a", "absent", 2),
        ("b", "missing", 1),
    ]
