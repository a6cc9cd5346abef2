"""Named tensors as columns: compared with the same columns written out and packed the ordinary way."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from ringpull.inference.head.frontends.tensors import columns_of
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.kinds import Cross, Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import InvalidInput, LimitExceeded, RingpullError

LIMITS = Limits(max_candidates=50, max_values_per_row=20, max_columns=30)
SCHEMA = Schema(
    [
        Sparse("user"),
        Sparse("big", dtype="uint64", missing=0),
        Sparse("city", dtype="string", missing=""),
        Sparse("genres", many=True, missing=()),
        Sparse("words", dtype="string", many=True, missing=()),
        Sparse("tags", many=True, weighted=True, missing=()),
        IdSequence("history", length=4, missing=()),
        Dense("age", width=2, missing=1.5),
        Dense("price", missing=0.5),
        Cross("user_city", of=("user", "city"), buckets=7),
    ]
)
FEATURES = SCHEMA.features


def prepared(columns: ReceivedColumns):
    """What the head makes of columns: of every feature its ids or numbers, its offsets and weights, for every row."""
    return SCHEMA.prepare_requests(*columns.columns(), columns.row_counts)


def same(columns: ReceivedColumns, features, context) -> bool:
    """Whether columns mean the same as these."""
    expected = ReceivedColumns.of_columns(features, context, LIMITS)
    assert columns.row_counts == expected.row_counts
    found, wanted = prepared(columns), prepared(expected)
    return repr(found) == repr(wanted)


def take(**tensors) -> ReceivedColumns:
    return columns_of({name: np.asarray(values) for name, values in tensors.items()}, FEATURES, LIMITS)


def texts(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


USER = np.array([1, 2, 3])
ONE = np.array([7])
BIG = np.array([2**64 - 1, 0, 1], np.uint64)
SIX = np.arange(6).reshape(3, 2)
STARTS = np.array([0, 0, 3, 3])
HALVES = np.array([0.5, 1, 2], np.float32)


@pytest.mark.parametrize(
    ("tensors", "columns"),
    [
        ({"user": USER}, {"user": USER}),
        ({"user": USER.reshape(3, 1)}, {"user": USER}),
        ({"user": USER.astype(np.int32)}, {"user": USER}),
        ({"user": USER.astype(np.uint8)}, {"user": USER}),
        ({"user": USER.astype(np.uint64)}, {"user": USER}),
        ({"user": np.array([True, False, True])}, {"user": np.array([1, 0, 1])}),
        ({"user": np.array(7)}, {"user": ONE}),
        (
            {"user": ONE, "tags": np.array(7), "tags_weights": np.array(0.5)},
            {"user": ONE, "tags": Ragged(ONE, np.array([0, 1]), HALVES[:1])},
        ),
        ({"user": USER[::-1]}, {"user": np.array([3, 2, 1])}),
    ],
    ids=range(9),
)
def test_tensors_mean_what_the_columns_mean(tensors, columns) -> None:
    assert same(columns_of(tensors, FEATURES, LIMITS), columns, {})


@pytest.mark.parametrize(
    ("tensors", "column"),
    [
        ({"big": BIG}, BIG),
        ({"city": texts("a", "", "é")}, texts("a", "", "é")),
        ({"city": texts(b"a", b"", "é".encode())}, texts("a", "", "é")),
        ({"city": np.array(["a", "", "é"])}, texts("a", "", "é")),
        ({"city": texts(b"a", b"", b"b").reshape(3, 1)}, texts("a", "", "b")),
        ({"genres": USER}, Ragged(USER, [0, 1, 2, 3])),
        ({"genres": SIX}, Ragged(np.arange(6), [0, 2, 4, 6])),
        ({"genres": np.zeros((3, 0), int)}, Ragged(np.zeros(0, int), [0, 0, 0, 0])),
        ({"genres": USER, "genres_offsets": STARTS}, Ragged(USER, STARTS)),
        ({"genres": USER, "genres_offsets": STARTS.astype(np.int32)}, Ragged(USER, STARTS)),
        ({"words": texts(b"a", b"bc", b""), "words_offsets": STARTS}, Ragged(texts("a", "bc", ""), STARTS)),
        ({"words": texts(*b"a b c d e f".split()).reshape(3, 2)}, Ragged(texts(*"abcdef"), [0, 2, 4, 6])),
        ({"tags": USER, "tags_offsets": STARTS, "tags_weights": HALVES}, Ragged(USER, STARTS, HALVES)),
        ({"tags": USER, "tags_weights": HALVES}, Ragged(USER, [0, 1, 2, 3], HALVES)),
        (
            {"tags": SIX, "tags_weights": SIX / 2},
            Ragged(np.arange(6), [0, 2, 4, 6], np.arange(6, dtype=np.float32) / 2),
        ),
        ({"history": np.arange(18).reshape(3, 6)}, np.arange(18).reshape(3, 6)),
        ({"price": np.array([1.5, 2, 3])}, np.array([1.5, 2, 3], np.float32)),
        ({"price": np.array([[1], [2], [3]])}, np.array([1, 2, 3])),
        ({"price": np.array([1, 2, 3], np.float16)}, np.array([1, 2, 3])),
        ({"age": SIX.astype(float)}, SIX.astype(float)),
    ],
    ids=range(20),
)
def test_of_every_kind_of_feature(tensors, column) -> None:
    columns = columns_of({"user": USER, **tensors}, FEATURES, LIMITS)
    assert same(columns, {"user": USER, next(iter(tensors)): column}, {})


@pytest.mark.parametrize(
    ("tensors", "context"),
    [
        ({"city": texts(b"a")}, {"city": texts("a")}),
        ({"city": np.array("a")}, {"city": texts("a")}),
        ({"age": np.array([[1.0, 2.0]])}, {"age": np.array([[1.0, 2.0]])}),
        ({"age": np.array([1.0, 2.0])}, {"age": np.array([[1.0, 2.0]])}),
        ({"genres": np.array([[4, 5, 6]])}, {"genres": np.array([[4, 5, 6]])}),
        ({"genres": np.arange(3), "genres_offsets": np.array([0, 3])}, {"genres": Ragged(np.arange(3), [0, 3])}),
        ({"genres": np.zeros((1, 0), int)}, {"genres": Ragged(np.zeros(0, int), [0, 0])}),
    ],
    ids=range(7),
)
def test_one_row_beside_others_is_context(tensors, context) -> None:
    assert same(columns_of({"user": USER, **tensors}, FEATURES, LIMITS), {"user": USER}, context)


def test_context_that_is_repeated_gives_the_same() -> None:
    once = take(user=ONE, price=[1.0, 2.0, 3.0], genres=[[4, 5]])
    repeated = take(user=[7, 7, 7], price=[1.0, 2.0, 3.0], genres=[[4, 5]] * 3)
    whole = take(user=[7, 7, 7], price=[1.0, 2.0, 3.0], genres=[4, 5] * 3, genres_offsets=[0, 2, 4, 6])
    assert repr(prepared(repeated)) == repr(prepared(whole))
    assert once.rows == repeated.rows == 3


def test_one_row_alone_is_no_context() -> None:
    assert same(take(user=[7], genres=[[1, 2]]), {"user": ONE, "genres": np.array([[1, 2]])}, {})


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"what": USER}, "input what: the model has no such feature; it has user, big, city"),
        ({"user_city": USER}, "input user_city: the model has no such feature"),
        ({"user": [[1, 2], [3, 4]]}, "input user: its shape is (2, 2); it takes one value a row, (B,) or (B, 1)"),
        ({"user": [[[1]]]}, "input user: its shape is (1, 1, 1)"),
        ({"user": np.zeros((3, 0), int)}, "input user: its shape is (3, 0)"),
        ({"age": [[1.0], [2.0]]}, "input age: its shape is (2, 1); it takes 2 values a row, (B, 2)"),
        ({"age": [1.0, 2.0, 3.0]}, "input age: its shape is (3,)"),
        ({"age": np.zeros((2, 0))}, "input age: its shape is (2, 0)"),
        ({"genres": [[[1]]]}, "genres_offsets (B+1,)"),
        ({"genres_offsets": [0, 1]}, "input genres_offsets: goes with genres, which is not there"),
        ({"user": USER, "user_offsets": [0, 1]}, "input user_offsets: feature user has one value a row"),
        ({"user": USER, "user_weights": [0, 1]}, "input user_weights: feature user has one value a row"),
        ({"age": [[1.0, 2.0]], "age_offsets": [0, 1]}, "input age_offsets: feature age has one value a row"),
        ({"genres": [[1]], "genres_offsets": [0, 1]}, "beside genres_offsets it takes (N,)"),
        ({"genres": [1], "genres_offsets": [[0, 1]]}, "input genres_offsets: is int64 of shape (1, 2)"),
        ({"genres": [1], "genres_offsets": [0.0, 1.0]}, "input genres_offsets: is float64"),
        ({"genres": [], "genres_offsets": np.zeros(0, int)}, "input genres_offsets: is int64 of shape (0,)"),
        ({"genres": [1], "genres_offsets": [0, 2]}, "offsets must start at 0"),
        ({"genres": [1], "genres_offsets": np.array([0, 2**64 - 1], np.uint64)}, "offsets must start at 0"),
        ({"tags": [1, 2], "tags_offsets": [0, 2], "tags_weights": [1.0]}, "input tags_weights: is float64"),
        ({"tags": [1], "tags_offsets": [0, 1], "tags_weights": texts("a")}, "input tags_weights: is object"),
        ({"tags": [1, 2], "tags_weights": [[1.0], [2.0]]}, "input tags_weights: goes with tags_offsets"),
        ({"city": texts(b"a", "b")}, "input city: values of numpy type object"),
        ({"city": texts(1, 2)}, "input city: values of numpy type object"),
        ({"user": np.zeros(2, complex)}, "input user: values of numpy type complex128"),
        ({"user": [1, 2], "price": [1.0, 2.0, 3.0]}, "the others, or the request, have 3"),
        ({}, "there are no candidate columns"),
        ({"user": np.zeros(0, int)}, "there are no rows"),
    ],
    ids=range(28),
)
def test_what_does_not_fit_is_named(tensors, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        take(**tensors)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"user": [1.5]}, "feature user: takes int64 values, not floats"),
        ({"user": np.array([2**63], np.uint64)}, "feature user: 9223372036854775808 is over the largest int64"),
        ({"user": [1], "big": [-1]}, "feature big: -1 is negative"),
        ({"user": [1], "price": [1e39]}, "feature price: holds an infinite number, or one too large for float32"),
        ({"user": [1], "city": texts(b"\xff")}, "feature city: row 0: a string is not UTF-8"),
        ({"user": [1], "city": [1]}, "feature city: takes string values, not integers"),
        ({"user": texts("a")}, "feature user: takes int64 values, not strings"),
        ({"user": [1], "tags": [1], "tags_offsets": [0, 1], "tags_weights": [1e39]}, "a weight is NaN or infinite"),
        ({"user": [1], "tags": [[1]]}, "feature tags: needs a weight for every value"),
        ({"user": [1], "genres": [1], "genres_offsets": [0, 1], "genres_weights": [1]}, "genres: takes no weights"),
    ],
    ids=range(10),
)
def test_no_value_is_changed_to_fit(tensors, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        prepared(take(**tensors))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "tensors",
    [
        {"user": np.arange(51)},
        {"user": [1], "genres": [range(21)]},
        {"user": [1], "genres": np.arange(21), "genres_offsets": [0, 21]},
        {f"f{i}": [1] for i in range(31)},
    ],
    ids=["rows", "width", "bag", "columns"],
)
def test_limits_hold(tensors) -> None:
    with pytest.raises(LimitExceeded):
        take(**tensors)


@pytest.mark.parametrize("name", ["genres", "words", "tags", "user", "age"])
def test_rows_of_nothing_take_no_memory(name: str) -> None:
    tensors = {name: np.zeros((2**31 - 1, 0), np.int64), f"{name}_weights": np.zeros((2**31 - 1, 0), np.float32)}
    tracemalloc.start()
    for each in ({name: tensors[name]}, tensors):
        with pytest.raises(RingpullError):
            columns_of(each, FEATURES, LIMITS)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 16


def test_what_is_a_feature_by_itself_is_no_offsets_of_another() -> None:
    features = [Sparse("a", many=True), Sparse("a_offsets")]
    columns = columns_of({"a": np.array([[1, 2], [3, 4]]), "a_offsets": np.array([5, 6])}, features, LIMITS)
    own, _ = columns.columns()
    assert own["a_offsets"].tolist() == [5, 6]
    assert np.asarray(own["a"]).tolist() == [[1, 2], [3, 4]]
