"""Preparing columns: against a slow row-by-row reference, and what a column may not hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.head.request.batch import concatenate
from ringpull.inference.prediction import Filled
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.kinds import Cross, Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Bucketize, Clip, Fingerprint, Hash, Log, Vocabulary
from ringpull.ps.errors import InvalidInput
from tests.reference import key_of_string

ROWS = st.lists(st.lists(st.integers(-5, 5), max_size=6), min_size=1, max_size=6)


def prepare_one(feature, column, rows=None):
    """Prepare a schema of one feature; return it and the fills."""
    rows = len(column) if rows is None else rows
    prepared = Schema([feature]).prepare({} if column is None else {feature.name: column}, rows)
    return prepared.features[feature.name], prepared.filled


def lists_of(ready) -> list[list[int]]:
    """The rows of a ragged feature as lists."""
    return [row.tolist() for row in np.split(ready.ids, ready.offsets[1:-1])]


# -- ids ---------------------------------------------------------------------------------------------------------------


def test_ids_of_each_type() -> None:
    signed, _ = prepare_one(Sparse("a"), np.array([1, -1, 2**63 - 1]))
    assert signed.ids.tolist() == [1, -1, 2**63 - 1]
    unsigned, _ = prepare_one(Sparse("a", dtype="uint64"), np.array([1, 2**64 - 1], np.uint64))
    assert unsigned.ids.tolist() == [1, -1]
    strings, _ = prepare_one(Sparse("a", dtype="string"), np.array(["x", "größe"]))
    assert strings.ids.view(np.uint64).tolist() == [key_of_string("x"), key_of_string("größe")]
    assert {each.ids.dtype for each in (signed, unsigned, strings)} == {np.dtype(np.int64)}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64, np.bool_])
@pytest.mark.parametrize("value_type", ["int64", "uint64"])
def test_any_integer_that_fits_is_taken(dtype, value_type) -> None:
    ready, _ = prepare_one(Sparse("a", dtype=value_type), np.array([0, 1], dtype))
    assert ready.ids.tolist() == [0, 1]


def test_transforms_apply_in_order() -> None:
    feature = Sparse("a", dtype="float32", transforms=[Clip(0, 50), Bucketize([10, 20, 60])])
    assert prepare_one(feature, np.array([-1, 15, 99.0]))[0].ids.tolist() == [0, 1, 2]


def test_columns_that_are_not_contiguous() -> None:
    ready, _ = prepare_one(Sparse("a"), np.arange(6)[::2])
    assert ready.ids.tolist() == [0, 2, 4]
    assert ready.ids.flags.c_contiguous


@given(ROWS, st.integers(1, 4))
def test_many_keeps_the_last_values_of_each_row(rows, most) -> None:
    ready, _ = prepare_one(Sparse("a", many=True, max_length=most), Ragged.from_lists(rows))
    assert lists_of(ready) == [row[-most:] for row in rows]
    assert ready.offsets[-1] == len(ready.ids)


@given(ROWS, st.integers(1, 4))
def test_weights_stay_with_their_values(rows, most) -> None:
    column = Ragged.from_lists(rows)
    column = Ragged(column.values, column.offsets, column.values * 0.5)
    ready, _ = prepare_one(Sparse("a", many=True, weighted=True, max_length=most, missing=9), column)
    expected = [row[-most:] or [9] for row in rows]
    assert lists_of(ready) == expected
    weights = [value * 0.5 for row in rows for value in (row[-most:] or [2])]  # an empty row's stand-in weighs 1
    assert ready.weights.tolist() == weights


@given(ROWS, st.sampled_from(["right", "left"]))
def test_sequence_pads_to_its_length(rows, side) -> None:
    schema = Schema([IdSequence("h", length=3, pad=-7, pad_side=side)])
    arguments = schema.arguments(schema.prepare({"h": Ragged.from_lists(rows)}, len(rows)))
    kept = [row[-3:] for row in rows]
    pads = [[-7] * (3 - len(row)) for row in kept]
    expected = [row + pad if side == "right" else pad + row for row, pad in zip(kept, pads, strict=True)]
    assert arguments["h"].tolist() == expected
    assert arguments["h_lengths"].tolist() == [len(row) for row in kept]


def test_a_two_dimensional_column_is_rows_of_equal_length() -> None:
    ready, _ = prepare_one(Sparse("a", many=True), np.array([[1, 2], [3, 4]]))
    assert lists_of(ready) == [[1, 2], [3, 4]]


def test_values_without_a_type_fit_any_feature() -> None:
    """All rows are empty: numpy, or a client, has to guess a type."""
    column = Ragged(np.empty(0), [0, 0, 0])
    for value_type in ("int64", "uint64", "string"):
        assert lists_of(prepare_one(Sparse("a", many=True, dtype=value_type), column)[0]) == [[], []]
    weighted, _ = prepare_one(Sparse("a", many=True, weighted=True), column)
    assert weighted.weights.shape == (0,)


# -- plain values ------------------------------------------------------------------------------------------------------


def test_lists_and_tensors_are_prepared_as_the_arrays_that_they_are() -> None:
    """What training holds need not be numpy's."""
    schema = Schema(
        [
            Sparse("item", dtype="uint64"),
            Sparse("word", dtype="string", transforms=[Vocabulary(["x", "y"])]),
            Sparse("bag", many=True),
            IdSequence("seen", length=2),
            Dense("price"),
            Dense("vector", width=2),
        ]
    )
    plain = {
        "item": [1, 2**63 + 5],
        "word": ("y", "x"),
        "bag": [torch.tensor([1, 2, 3]), torch.tensor([], dtype=torch.int64)],
        "seen": [[1, 2, 3], []],
        "price": torch.tensor([0.5, 2.0]),
        "vector": [[1, 2.5], [3, 4]],
    }
    columns = {
        "item": np.array([1, 2**63 + 5], np.uint64),
        "word": np.array(["y", "x"], object),
        "bag": Ragged([1, 2, 3], [0, 3, 3]),
        "seen": Ragged([1, 2, 3], [0, 3, 3]),
        "price": np.array([0.5, 2.0], np.float32),
        "vector": np.array([[1, 2.5], [3, 4]], np.float32),
    }
    found, expected = (schema.arguments(schema.prepare(each, 2)) for each in (plain, columns))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
        assert found[name].dtype == values.dtype


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1, "x"], "feature a: values of type int, str"),
        (None, "feature a: NoneType is no value"),
        ({"x": 1}, "feature a: dict is no value"),
        (torch.ones(2, requires_grad=True), "feature a: Tensor cannot be read as an array"),
        ([[1], [2]], "feature a: takes one value per row"),
        ([1, 2, 3], "feature a: has 3 rows"),
        (torch.tensor([0.5, 1.0]), "feature a: takes int64 values, not floats"),
        ([1, 2**63 + 5], "feature a: .* over the largest int64"),
    ],
)
def test_what_is_no_column_is_refused_by_the_feature(column, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        Schema([Sparse("a")]).prepare({"a": column}, 2)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_dense_of_any_width_and_form() -> None:
    for column in (np.array([1, 2]), np.array([[1.0], [2.0]]), Ragged([1, 2], [0, 1, 2])):
        ready, _ = prepare_one(Dense("x"), column)
        assert ready.dense.tolist() == [[1], [2]]
        assert ready.dense.dtype == np.float32
    for column in (np.array([[1, 2], [3, 4]]), Ragged([1, 2, 3, 4.0], [0, 2, 4])):
        assert prepare_one(Dense("x", width=2), column)[0].dense.tolist() == [[1, 2], [3, 4]]


# -- missing values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        (Sparse("a", missing=5), [5, 5]),
        (Sparse("a", dtype="uint64", missing=2**64 - 1), [-1, -1]),
        (Sparse("a", dtype="string", missing="?", transforms=[Vocabulary(["x", "?"])]), [2, 2]),
        (Sparse("a", dtype="float32", missing=1.5, transforms=[Bucketize([1])]), [1, 1]),
    ],
)
def test_an_absent_feature_is_its_missing_value(feature, expected) -> None:
    ready, filled = prepare_one(feature, None, rows=2)
    assert ready.ids.tolist() == expected
    assert filled == (Filled("a", "absent", 2),)


@pytest.mark.parametrize(
    "feature",
    [Sparse("a", many=True, never_empty=True), IdSequence("a", length=2, never_empty=True)],
)
def test_an_empty_row_of_what_is_never_empty_is_refused_by_name(feature) -> None:
    rows = [[3], [1, 2, 5], [], [4], []]
    with pytest.raises(InvalidInput, match="feature a: row 2 has no values; the feature is declared never_empty"):
        prepare_one(feature, Ragged.from_lists(rows))
    with pytest.raises(InvalidInput, match="feature a: row 0 has no values"):
        prepare_one(feature, np.empty((2, 0), np.int64))
    with pytest.raises(InvalidInput, match="feature a: absent"):
        prepare_one(feature, None, rows=2)
    assert lists_of(prepare_one(feature, Ragged.from_lists([[3], [4, 1]]))[0]) == [[3], [4, 1]]
    # Its missing rule, if it has one, comes first.
    ready, filled = prepare_one(replace(feature, missing=9), Ragged.from_lists(rows))
    assert [row[-2:] for row in lists_of(ready)] == [[3], [2, 5], [9], [4], [9]]
    assert filled == (Filled("a", "missing", 2),)


def test_an_empty_row_of_a_request_is_its_own_row_and_its_own_error() -> None:
    schema = Schema([IdSequence("a", length=3, never_empty=True), Sparse("b")])
    with pytest.raises(InvalidInput, match="feature a: row 0 has no values"):
        schema.prepare_requests({"b": np.arange(3)}, {"a": Ragged.from_lists([[]], np.int64)}, (3,))


@pytest.mark.parametrize("feature", [Sparse("a", many=True, missing=()), IdSequence("a", length=3, missing=())])
def test_an_absent_bag_may_be_empty(feature) -> None:
    ready, filled = prepare_one(feature, None, rows=2)
    assert lists_of(ready) == [[], []]
    assert filled == (Filled("a", "absent", 2),)


def test_an_absent_bag_may_hold_one_value() -> None:
    ready, _ = prepare_one(Sparse("a", many=True, weighted=True, missing=4), None, rows=2)
    assert lists_of(ready) == [[4], [4]]
    assert ready.weights.tolist() == [1, 1]


def test_an_absent_number_goes_through_the_transforms() -> None:
    ready, _ = prepare_one(Dense("x", width=2, missing=1.0, transforms=[Log()]), None, rows=1)
    assert ready.dense == pytest.approx(np.log([[2, 2]]))


def test_nan_and_empty_strings_are_filled_and_counted() -> None:
    ready, filled = prepare_one(Dense("x", missing=7), np.array([1, np.nan, np.nan]))
    assert ready.dense.tolist() == [[1], [7], [7]]
    assert filled == (Filled("x", "missing", 2),)
    words = Sparse("w", dtype="string", missing="b", transforms=[Vocabulary(["a", "b"])])
    for column in (np.array(["a", ""]), np.array(["a", ""], object)):
        ready, filled = prepare_one(words, column)
        assert ready.ids.tolist() == [1, 2]
        assert filled == (Filled("w", "missing", 1),)


def test_a_long_stand_in_is_not_cut_to_the_width_of_a_numpy_string() -> None:
    feature = Sparse("w", dtype="string", many=True, missing="unknown", transforms=[Vocabulary(["a", "unknown"])])
    ready, filled = prepare_one(feature, Ragged(np.array(["a", ""]), [0, 2, 2]))
    assert lists_of(ready) == [[1, 2], [2]]
    assert filled == (Filled("w", "missing", 2),)


def test_an_empty_string_without_a_rule_is_a_string() -> None:
    ready, filled = prepare_one(Sparse("w", dtype="string"), np.array([""]))
    assert ready.ids.view(np.uint64).tolist() == [key_of_string("")]
    assert filled == ()


@given(ROWS)
def test_empty_rows_of_a_bag_are_filled(rows) -> None:
    ready, filled = prepare_one(Sparse("a", many=True, missing=99), Ragged.from_lists(rows))
    empty = sum(not row for row in rows)
    assert lists_of(ready) == [row or [99] for row in rows]
    assert filled == ((Filled("a", "missing", empty),) if empty else ())


# -- crosses -----------------------------------------------------------------------------------------------------------


def crossed(*columns, buckets=1000):
    names = [f"f{place}" for place in range(len(columns))]
    schema = Schema([*map(Sparse, names), Cross("c", of=tuple(names), buckets=buckets)])
    return schema.prepare(dict(zip(names, columns, strict=True)), len(columns[0])).features["c"].ids.tolist()


def test_cross_golden_values() -> None:
    """These never change: a model trained with them is served with them."""
    assert crossed(np.array([1, 2, -1]), np.array([2, 1, 0])) == [409, 71, 908]
    assert crossed(np.array([1]), np.array([2]), np.array([3])) == [166]


def test_a_cross_does_not_change_when_its_part_is_served_by_raw_id() -> None:
    columns = {"user": np.array([30, 10, 99]), "zip": np.array(["a", "b", "a"], object)}
    trained = Schema(
        [
            Cross("c", of=("user", "zip"), buckets=1000),
            Sparse("user", transforms=[Vocabulary([10, 20, 30])]),
            Sparse("zip", dtype="string", transforms=[Vocabulary(["a", "b"])]),
        ]
    )
    served = trained.for_serving(["user", "zip"])
    ids = [schema.prepare(columns, 3).features["c"].ids.tolist() for schema in (trained, served)]
    assert ids[0] == ids[1]
    assert trained.prepare(columns, 3).features["user"].ids.tolist() == [3, 1, 0]
    assert served.prepare(columns, 3).features["user"].ids.tolist() == [30, 10, 99]


# -- requests: context and candidates ----------------------------------------------------------------------------------

REQUEST = Schema(
    [
        Sparse("user"),
        Sparse("segment"),
        Sparse("item"),
        IdSequence("history", length=3),
        Dense("price", missing=0.0),
        Cross("user_x_item", of=("user", "item"), buckets=500),
        Cross("item_x_user", of=("item", "user"), buckets=500),
        Cross("user_x_segment", of=("user", "segment"), buckets=500),
    ]
)


def test_each_feature_is_prepared_in_the_part_it_was_sent_in() -> None:
    context = {"user": np.array([7]), "segment": np.array([1]), "history": Ragged([1, 2], [0, 2])}
    request = REQUEST.prepare_requests({"item": np.array([1, 2, 3])}, context, [3])
    assert set(request.candidates.features) == {"item", "user_x_item", "item_x_user"}
    assert set(request.context.features) == {"user", "segment", "history", "price", "user_x_segment"}
    assert (request.candidates.rows, request.context.rows) == (3, 1)
    assert request.context.filled == (Filled("price", "absent", 1),)
    assert {each.rows for each in request.context.features.values()} == {1}


def test_a_request_equals_its_rows_written_out() -> None:
    items = np.array([1, 2, 3])
    context = {"user": np.array([7]), "segment": np.array([1]), "history": Ragged([1, 2], [0, 2])}
    request = REQUEST.prepare_requests({"item": items}, context, [3])
    flat = REQUEST.prepare(
        {
            "user": np.repeat(7, 3),
            "segment": np.repeat(1, 3),
            "item": items,
            "history": Ragged([1, 2] * 3, [0, 2, 4, 6]),
        },
        3,
    )
    for name, ready in flat.features.items():
        part = request.candidates if name in request.candidates.features else request.context
        once = part.features[name]
        whole = concatenate([once] * 3) if part is request.context else once
        for field in ("ids", "offsets", "dense"):
            np.testing.assert_array_equal(getattr(whole, field), getattr(ready, field))


def test_a_request_refuses_a_feature_sent_twice_and_a_context_of_more_rows() -> None:
    schema = Schema([Sparse("user")])
    with pytest.raises(InvalidInput, match="feature user: sent both per row and as context"):
        schema.prepare_requests({"user": np.array([1])}, {"user": np.array([1])}, [1])
    with pytest.raises(InvalidInput, match="feature user: has 2 rows"):
        REQUEST.prepare_requests({"item": np.array([1])}, {"user": np.array([1, 2])}, [1])


@given(st.lists(ROWS, min_size=1, max_size=3))
def test_concatenate_is_preparing_all_rows_at_once(requests) -> None:
    feature = IdSequence("a", length=3)
    parts = [prepare_one(feature, Ragged.from_lists(rows))[0] for rows in requests]
    whole, _ = prepare_one(feature, Ragged.from_lists([row for rows in requests for row in rows]))
    joined = concatenate(parts)
    assert joined.rows == whole.rows
    np.testing.assert_array_equal(joined.ids, whole.ids)
    np.testing.assert_array_equal(joined.offsets, whole.offsets)


def test_concatenate_weights_and_numbers() -> None:
    column = Ragged([1, 2], [0, 2], [0.5, 2])
    ready, _ = prepare_one(Sparse("a", many=True, weighted=True), column)
    assert concatenate([ready, ready]).weights.tolist() == [0.5, 2, 0.5, 2]
    dense, _ = prepare_one(Dense("x"), np.array([1.0, 2.0]))
    assert concatenate([dense, dense]).dense.tolist() == [[1], [2], [1], [2]]


# -- what is refused ---------------------------------------------------------------------------------------------------

BAG = Sparse("a", many=True)


@pytest.mark.parametrize(
    ("feature", "column", "message"),
    [
        (Sparse("a"), np.array([1.0, 2.0]), "takes int64 values, not floats"),
        (Sparse("a"), np.array(["x", "y"]), "takes int64 values, not strings"),
        (Sparse("a"), np.array(["x", "y"], object), "takes int64 values, not strings"),
        (Sparse("a"), np.array([2**63, 1], np.uint64), "over the largest int64"),
        (Sparse("a", dtype="uint64"), np.array([-1, 1]), "-1 is negative"),
        (Sparse("a", dtype="string"), np.array([1, 2]), "takes string values, not integers"),
        (Sparse("a", dtype="string"), np.array(["x", None], object), "objects of type NoneType, str"),
        (Sparse("a"), np.array([1, 2, 3]), "has 3 rows; the others, or the request, have 2"),
        (Sparse("a"), Ragged([1, 2], [0, 1, 2]), "takes one value per row"),
        (Sparse("a"), np.array([[1], [2]]), "takes one value per row"),
        (BAG, np.array([1, 2]), "takes a list per row"),
        (BAG, Ragged([1, 2], [0, 1, 3]), "offsets must start at 0"),
        (BAG, Ragged([1, 2], [1, 1, 2]), "offsets must start at 0"),
        (BAG, Ragged([1, 2, 3], [0, 4, 3]), "offsets must start at 0"),
        (BAG, Ragged([[1], [2]], [0, 1, 2]), "one-dimensional"),
        (BAG, Ragged([1, 2], [0, 1, 2], [1, 1]), "takes no weights"),
        (IdSequence("a", length=2), Ragged([1, 2], [0, 1, 2], [1, 1]), "takes no weights"),
        (Sparse("a", many=True, weighted=True), Ragged([1, 2], [0, 1, 2]), "needs a weight for every value"),
        (Sparse("a", many=True, weighted=True), Ragged([1, 2], [0, 1, 2], [1]), "1 weights for 2 values"),
        (Sparse("a", many=True, weighted=True), Ragged([1, 2], [0, 1, 2], [1, np.nan]), "weight is NaN"),
        (Dense("a"), np.array([1, np.nan]), "holds NaN"),
        (Dense("a"), np.array([1, np.inf]), "infinite"),
        (Dense("a", missing=0), np.array([np.nan, -np.inf]), "infinite"),
        (Dense("a"), np.array([1, 1e300]), "too large for float32"),
        (Dense("a"), np.array([[1, 2], [3, 4]]), r"its shape is \(2, 2\); it takes 1"),
        (Dense("a", width=2), np.array([1, 2]), r"its shape is \(2,\); it takes 2"),
        (Dense("a", width=2), Ragged([1, 2, 3], [0, 2, 3]), "takes 2 numbers per row"),
        (Dense("a", width=2), Ragged([1, 2, 3, 4], [0, 2, 4], [1, 1, 1, 1]), "takes no weights"),
        (Dense("a"), np.array(["x", "y"]), "takes float32 values, not strings"),
        (Sparse("a", many=True, dtype="float32", transforms=[Bucketize([1])]), Ragged([np.nan], [0, 1, 1]), "NaN"),
    ],
)
def test_a_column_that_does_not_fit_is_refused_by_name(feature, column, message) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        prepare_one(feature, column, rows=2)
    assert str(caught.value).startswith("feature a: ")


def test_offsets_whose_differences_wrap_around_are_refused() -> None:
    hostile = Ragged([1, 2], [0, 2**63 - 1, -2, 2])
    assert (np.diff(hostile.offsets) >= 0).all(), "each difference looks like a length"
    with pytest.raises(InvalidInput, match="offsets must start at 0"):
        prepare_one(BAG, hostile)


def test_names_and_rows_are_checked() -> None:
    schema = Schema([Sparse("a"), Sparse("b", missing=1), Cross("c", of=("a", "b"), buckets=5)])
    with pytest.raises(InvalidInput, match=r"feature x: the model has no such feature; it takes a, b$"):
        schema.prepare({"x": np.array([1])}, 1)
    with pytest.raises(InvalidInput, match="feature c: made of a, b by the server"):
        schema.prepare({"a": np.array([1]), "c": np.array([1])}, 1)
    with pytest.raises(InvalidInput, match="feature a: absent"):
        schema.prepare({"b": np.array([1])}, 1)
    with pytest.raises(InvalidInput, match="no rows"):
        schema.prepare({"a": np.empty(0, np.int64)}, 0)


HALF = "bad\ud83d"


@pytest.mark.parametrize("transforms", [[], [Hash(7)], [Fingerprint()], [Vocabulary(["a"])]], ids=range(4))
@pytest.mark.parametrize("made", ["array", "objects"])
def test_half_a_character_in_training_is_refused_by_feature_and_row(transforms: list[Any], made: str) -> None:
    """A program that trains would end without a word, were it hashed. What a vocabulary has not is unknown."""
    schema = Schema(
        [
            Sparse("town", dtype="string", transforms=transforms),
            Sparse("tags", dtype="string", many=True),
            Sparse("user"),
            Cross("town_user", of=("town", "user"), buckets=9),
        ]
    )
    texts: Any = np.array(["a", "b", HALF], object if made == "objects" else None)
    columns: dict[str, Any] = {"town": np.array(["a"] * 3), "tags": Ragged.from_lists([["a"], [], ["b", "c"]])}
    columns["user"] = np.array([1, 2, 3])
    schema.prepare(columns, 3)
    with pytest.raises(InvalidInput, match=r"^feature town: row 2: 'bad\\ud83d' is no text: it holds half a character"):
        schema.prepare(columns | {"town": texts}, 3)
    with pytest.raises(InvalidInput, match=r"^feature tags: row 2: .* half a character"):
        schema.prepare(columns | {"tags": Ragged.from_lists([["a"], [], ["b", HALF]])}, 3)


def test_a_schema_puts_no_half_character_for_what_is_missing() -> None:
    with pytest.raises(InvalidInput, match=r"^feature town: missing\[0\]: .* half a character"):
        Sparse("town", dtype="string", missing=HALF)
