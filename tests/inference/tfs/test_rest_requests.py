"""Requests in JSON, against an oracle: rows of Python values, written in every form, come out as the same rows."""

from __future__ import annotations

import base64
import json
import tracemalloc
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull import Dense, IdSequence, Ragged, Schema, Sparse
from ringpull.inference.head.frontends.tensors import columns_of
from ringpull.inference.head.frontends.tfs.rest import read_question
from ringpull.inference.head.frontends.tfs.rest_paths import RestPath
from ringpull.inference.head.frontends.tfs.rest_requests import example_tensors, predict_tensors
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.ps.errors import InvalidInput, LimitExceeded, RingpullError

FEW = settings(max_examples=25)
"""Examples of each form of a request: what they have in common is the oracle."""

LIMITS = Limits(max_candidates=20, max_values_per_row=20, max_columns=30)
SCHEMA = Schema(
    [
        Sparse("user"),
        Sparse("zip", dtype="string", missing="00000"),
        Sparse("genres", many=True),
        Sparse("words", dtype="string", many=True),
        Sparse("tags", many=True, weighted=True),
        IdSequence("history", length=4),
        Dense("age", width=2),
        Dense("price"),
    ]
)
FEATURES = {feature.name: feature for feature in SCHEMA.features}

IDS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows: each feature's value, or list of values; tags are of pairs."""
    return [
        {
            "user": draw(IDS),
            "zip": draw(TEXTS),
            "genres": draw(st.lists(IDS, max_size=3)),
            "words": draw(st.lists(TEXTS, max_size=3)),
            "tags": draw(st.lists(st.tuples(IDS, NUMBERS), max_size=3)),
            "history": draw(st.lists(IDS, max_size=3)),
            "age": [draw(NUMBERS), draw(NUMBERS)],
            "price": draw(NUMBERS),
        }
        for _ in range(draw(st.integers(1, 4)))
    ]


def sent(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a client sends it: pairs are two lists."""
    tags = row["tags"]
    return {**row, "tags": [tag for tag, _ in tags], "tags_weights": [weight for _, weight in tags]}


def rows_of(received: ReceivedColumns) -> list[dict[str, Any]]:
    """Columns as the rows they were made of, those of the context in each."""
    found: list[dict[str, Any]] = [{} for _ in range(received.rows)]
    for part in received.columns():
        for name, column in part.items():
            for place, row in enumerate(found):
                at = place if len(column) == received.rows else 0
                if isinstance(column, Ragged):
                    begin, end = column.offsets[at], column.offsets[at + 1]
                    value: Any = column.values[begin:end].tolist()
                    if column.weights is not None:
                        value = list(zip(value, column.weights[begin:end].tolist(), strict=True))
                else:
                    value = column[at].tolist() if isinstance(column[at], np.generic | np.ndarray) else column[at]
                row[name] = value
    return found


def predicted(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows that the head gets of a request to predict, as it travels."""
    tensors, _ = predict_tensors(json.loads(json.dumps(body)), FEATURES, LIMITS)
    return rows_of(columns_of(tensors, SCHEMA.features, LIMITS))


@FEW
@given(rows())
def test_rows_come_out_as_they_were(rows: list[dict[str, Any]]) -> None:
    assert predicted({"instances": [sent(row) for row in rows]}) == rows


@FEW
@given(rows())
def test_columns_come_out_as_they_were(rows: list[dict[str, Any]]) -> None:
    columns = {name: [sent(row)[name] for row in rows] for name in sent(rows[0])}
    assert predicted({"inputs": columns}) == rows


@FEW
@given(rows())
def test_flat_columns_with_offsets_come_out_as_they_were(rows: list[dict[str, Any]]) -> None:
    columns: dict[str, Any] = {}
    for name in sent(rows[0]):
        values = [sent(row)[name] for row in rows]
        if isinstance(values[0], list) and name != "age":
            columns[name] = [each for value in values for each in value]
            if name != "tags_weights":
                columns[f"{name}_offsets"] = np.cumsum([0, *map(len, values)]).tolist()
        else:
            columns[name] = values
    assert predicted({"inputs": columns}) == rows


@FEW
@given(rows(), st.sets(st.sampled_from(sorted(FEATURES))))
def test_what_is_in_the_context_stands_for_all_rows(rows: list[dict[str, Any]], names: set[str]) -> None:
    names.discard("user")  # one is of the rows
    context = {name: sent(rows[0])[name] for name in names}
    if "tags" in names:
        context["tags_weights"] = sent(rows[0])["tags_weights"]
    own = [{name: value for name, value in sent(row).items() if name not in context} for row in rows]
    columns = {name: [row[name] for row in own] for name in own[0]}
    expected = [{**row, **{name: rows[0][name] for name in names}} for row in rows]
    assert predicted({"instances": own, "context": context}) == expected
    assert predicted({"inputs": columns, "context": context}) == expected


@FEW
@given(rows())
def test_examples_come_out_as_they_were(rows: list[dict[str, Any]]) -> None:
    """A value may be a list of one, and an empty bag be left out."""
    examples = [
        {
            name: [value] if place % 2 and not isinstance(value, list) else value
            for name, value in sent(row).items()
            if value != [] or place == 0
        }
        for place, row in enumerate(rows)
    ]
    tensors, _ = example_tensors({"examples": examples}, FEATURES, LIMITS)
    assert rows_of(columns_of(tensors, SCHEMA.features, LIMITS)) == rows


@FEW
@given(rows())
def test_base64_is_the_text_it_stands_for(rows: list[dict[str, Any]]) -> None:
    def coded(text: str) -> dict[str, str]:
        return {"b64": base64.b64encode(text.encode()).decode()}

    instances = [
        {**sent(row), "zip": coded(row["zip"]), "words": [coded(word) for word in row["words"]]} for row in rows
    ]
    assert predicted({"instances": instances}) == rows


@pytest.mark.parametrize("coded", ["aMOpbGxv", "aMOpbGxvIQ==", "aMOpbGxvIQ", " aMOp\nbGxv IQ == "], ids=repr)
def test_base64_as_it_is_commonly_written(coded: str) -> None:
    bare = "".join(coded.split()).rstrip("=")
    text = base64.b64decode(bare + "=" * (-len(bare) % 4)).decode()
    tensors, _ = predict_tensors({"inputs": {"zip": {"b64": coded}}}, FEATURES, LIMITS)
    assert tensors["zip"].tolist() == [text]


@pytest.mark.parametrize("coded", ["A", "A===", "AA=", "AAAA=", "AA=A", "é", "A-_B", "AAAA===="], ids=repr)
def test_what_is_no_base64(coded: str) -> None:
    with pytest.raises(InvalidInput, match="input zip: Unable to base64 decode"):
        predict_tensors({"inputs": {"zip": {"b64": coded}}}, FEATURES, LIMITS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": [{"zip": {"b64": "//8="}}]}, "input zip: what is in base64 is not UTF-8"),
        ({"instances": [{"zip": {"b64": 3}}]}, "not formatted correctly for base64"),
        ({"instances": [{"zip": {"b64": "AAAA", "c": 1}}]}, "not formatted correctly for base64"),
        ({"instances": [{"user": 2**64}]}, "input user: its integers fit neither int64 nor uint64"),
        ({"instances": [{"user": -(2**63) - 1}]}, "input user: its integers fit neither"),
        ({"instances": [{"user": 2**63}, {"user": -1}]}, "input user: its integers fit neither"),
        ({"instances": [{"price": 10**400}]}, "input price: holds a number too large"),
        ({"instances": [{"user": 1}, {"user": "a"}]}, "input user: values of JSON type Number, String"),
        ({"instances": [{"user": None}]}, "input user: values of JSON type Null"),
        ({"instances": [{"age": [1, 2]}, {"age": [1]}]}, "Expecting tensor size: 2 but got: 1"),
        ({"instances": [{"genres": [[1]]}]}, "input genres: takes one list of values per row"),
        ({"instances": [{"genres": [1]}, {"genres": 2}]}, "input genres: has values beside lists"),
        ({"instances": [{"colour": 1}]}, "does not have named input: colour; the model has user, zip"),
        ({"instances": [{"user_weights": [1]}]}, "does not have named input: user_weights"),
        ({"instances": [{"genres": [1]}, {"user": 2}]}, "element: 1 of 'instances' list"),
        ({"instances": [{"genres": [1]}, 2]}, "Expecting object but got Number at item 1"),
        ({"instances": [{"tags": [1, 2], "tags_weights": [1.0]}]}, "input tags_weights: its rows are not as long"),
        ({"instances": [{"genres": [1], "genres_offsets": [0, 1]}]}, "input genres_offsets: offsets go with 'inputs'"),
        # A number each: as the offsets of one bag, that all rows would have in common.
        ({"instances": [{"genres": 1, "genres_offsets": 0}, {"genres": 2, "genres_offsets": 2}]}, "offsets go with"),
        ({"inputs": {"genres": [[1], [2]], "genres_offsets": [0, 0, 2]}}, "offsets"),
        ({"inputs": {"genres": [1, 2], "genres_offsets": [0, 3]}}, "offsets"),
        ({"inputs": {"genres": [1, 2], "genres_offsets": [0, "2"]}}, "genres_offsets"),
        ({"inputs": {"genres": [1, 2], "genres_offsets": [0, 2.0]}}, "genres_offsets"),
        ({"inputs": {"genres": [1, 2], "genres_offsets": [0, 2**64]}}, "genres_offsets"),
        ({"inputs": {"genres_offsets": [0, 2]}}, "genres"),
        ({"inputs": {"user": [1, 2], "price": [1.0, 2.0, 3.0]}}, "rows"),
        ({"instances": [{"user": 1}], "context": {"user": 1}}, "context: user is in the rows, too"),
        ({"instances": [{"user": 1}], "context": [1]}, "context: must be a JSON object"),
        ({"instances": [{"user": 1}], "context": None}, "context: must be a JSON object"),
        ({"instances": {"user": 1}}, "Expecting 'instances' to be an list/array"),
        ({"inputs": 3}, "inputs is a plain value/list, but expecting an object"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        predicted(body)
    assert message in str(caught.value)


def test_numbers_of_dense_features_may_be_of_any_kind() -> None:
    assert predicted({"instances": [{"user": 1, "price": 1 << 70}, {"user": 2, "price": True}]}) == [
        {"user": 1, "price": float(1 << 70)},
        {"user": 2, "price": 1.0},
    ]


def test_too_many_rows_are_refused_before_they_are_read() -> None:
    with pytest.raises(LimitExceeded, match="the request has 21 rows; max_candidates is 20"):
        predicted({"instances": [None] * 21})
    for name, column in (("user", [None] * 21), ("zip", [{"b64": "!"}] * 21), ("genres", [["x", 1]] * 21)):
        with pytest.raises(LimitExceeded, match="the request has 21 rows; max_candidates is 20"):
            predicted({"inputs": {name: column}})
    with pytest.raises(LimitExceeded, match="input genres: a list has 21 values; max_values_per_row is 20"):
        predicted({"instances": [{"user": 1, "genres": [1] * 21}]})


@pytest.mark.parametrize("key", ["instances", "inputs", "context", "examples"])
def test_too_many_columns_are_refused_before_they_are_made(key: str) -> None:
    names = {f"x{place}": 1 for place in range(100_000)}
    body = {"instances": [{"user": 1}]} if key == "context" else {}
    body[key] = [names] * 2 if key in ("instances", "examples") else names
    tracemalloc.start()
    with pytest.raises(LimitExceeded, match="max_columns is 30"):
        (example_tensors if key == "examples" else predict_tensors)(body, FEATURES, LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("count", [16_384, 16_385, 50_000])
def test_long_lists_are_read_in_chunks(count: int) -> None:
    wide = Limits(max_candidates=100_000, max_values_per_row=100_000)
    values = [*range(count - 1), 2**63 - 1]
    texts = [str(value) for value in values]
    rows = [values[at : at + 7] for at in range(0, count, 7)]
    tensors, _ = predict_tensors({"inputs": {"user": values, "zip": texts, "price": values}}, FEATURES, wide)
    assert (tensors["user"].tolist(), tensors["zip"].tolist()) == (values, texts)
    assert tensors["price"].tolist() == [float(value) for value in values]
    tensors, _ = predict_tensors({"inputs": {"genres": rows}}, FEATURES, wide)
    assert tensors["genres"].tolist() == values
    assert tensors["genres_offsets"].tolist() == [*range(0, count, 7), count]
    unsigned, _ = predict_tensors({"inputs": {"user": [*values, 2**64 - 1]}}, FEATURES, wide)
    assert unsigned["user"].tolist() == [*values, 2**64 - 1]
    with pytest.raises(InvalidInput, match="input user: values of JSON type Number, String"):
        predict_tensors({"inputs": {"user": [*values, "x"]}}, FEATURES, wide)


@pytest.mark.medium
def test_what_examples_leave_out_takes_no_room() -> None:
    """A name that only one of many examples has is known to the model, or refused before the others are looked at."""
    many = Limits(max_candidates=16_384, max_values_per_row=20, max_columns=4_096)
    names = {f"x{place}": 1 for place in range(4_000)}
    tracemalloc.start()
    with pytest.raises(InvalidInput, match="does not have named input: x0"):
        example_tensors({"examples": [{}] * 16_383 + [names]}, FEATURES, many)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    bags = {"genres": [1], "words": ["a"], "history": [2]}
    tensors, _ = example_tensors({"examples": [{"user": 1}] * 16_383 + [{"user": 2, **bags}]}, FEATURES, many)
    assert tensors["genres_offsets"].tolist() == [0] * 16_384 + [1]


# -- fuzz --------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just({"b64": "AAAA"}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FEATURES, "b64", "x"]), inner),
    max_leaves=12,
)
NAMES = st.sampled_from([*FEATURES, *(f"{name}{part}" for name in FEATURES for part in ("_offsets", "_weights")), "x"])
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "instances": JSON | st.lists(st.dictionaries(NAMES, JSON, max_size=3), max_size=3),
        "inputs": JSON | st.dictionaries(NAMES, JSON, max_size=3),
        "examples": JSON | st.lists(st.dictionaries(NAMES, JSON, max_size=3), max_size=3),
        "context": JSON | st.dictionaries(NAMES, JSON, max_size=3),
        "signature_name": JSON | st.sampled_from(["", "score", "classes", "serving_default"]),
    },
)
OUTPUTS = (ProgramOutput(name="score", shape=()), ProgramOutput(name="classes", shape=(3,)))
SERVED: Any = SimpleNamespace(
    key=("ranker", 1),
    outputs=frozenset(each.name for each in OUTPUTS),
    loaded=SimpleNamespace(name="ranker/1", program=object(), schema=SCHEMA, manifest=SimpleNamespace(outputs=OUTPUTS)),
)


@pytest.mark.medium
@given(st.sampled_from(["predict", "classify", "regress"]), BODIES | JSON)
def test_whatever_is_sent_is_read_or_refused_by_an_error_of_ours(verb: str, body: Any) -> None:
    """And what is read passes the schema, or is refused by that."""
    path = RestPath("ranker", 0, "", verb)
    with suppress(RingpullError):
        columns = read_question(path, SERVED, json.dumps(body).encode(), LIMITS).request.columns
        SCHEMA.prepare_requests(*columns.columns(), columns.row_counts)


@pytest.mark.parametrize("verb", ["predict", "classify", "regress"])
def test_a_version_of_tables_alone_says_how_it_is_asked(verb: str) -> None:
    alone: Any = SimpleNamespace(
        key=("vectors", 1),
        rows=SimpleNamespace(tables={"items": None}),
        loaded=SimpleNamespace(name="vectors/1", program=None, schema=Schema.without_features()),
    )
    with pytest.raises(InvalidInput, match="vectors/1 has tables only, and predicts nothing"):
        read_question(RestPath("vectors", 0, "", verb), alone, b"{}", LIMITS)
