"""JSON that is read in pieces says what `json.loads` says, wherever the pieces are cut."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.wire import json_reading
from ringpull.inference.wire.json_reading import MARGIN, MAX_DEPTH, MAX_NUMBER_CHARS, PIECE_CHARS, parse_json
from ringpull.ps.errors import InvalidInput

TEXTS = st.text('ab"\\,:[]{} \n1\u00e9\U0001f600\ud800', max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=8) | st.dictionaries(TEXTS, inner, max_size=6), max_leaves=40
)
INDENTS = st.sampled_from([None, 0, 1])


def outcome(read: Any, text: str) -> str:
    """Return what a text says, or that it says nothing. As a text itself: NaN is not equal to NaN."""
    try:
        return repr(read(text))
    except (ValueError, InvalidInput):
        return "an error"


@pytest.fixture(autouse=True)
def _no_text_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is longer than a piece is read in pieces."""
    monkeypatch.setattr(json_reading, "WHOLE_CHARS", PIECE_CHARS)


def in_pieces(text: str, chars: int) -> str:
    with (
        patch.object(json_reading, "WHOLE_CHARS", chars),
        patch.object(json_reading, "PIECE_CHARS", chars),
        patch.object(json_reading, "PAUSE_S", 0.0),
    ):
        return outcome(parse_json, text)


@pytest.mark.medium
@settings(max_examples=300)
@given(VALUES, INDENTS, st.booleans(), st.integers(MARGIN, 80))
def test_what_is_said_is_that_of_the_standard_library(value: Any, indent: Any, escaped: bool, chars: int) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escaped)
    assert in_pieces(text, chars) == outcome(json.loads, text)


@pytest.mark.medium
@settings(max_examples=300)
@given(VALUES, st.integers(0), st.integers(0, 3), st.text('ab",:[]{}1e-+.\n', max_size=3), st.integers(MARGIN, 80))
def test_what_is_damaged_is_refused_where_the_standard_library_does(
    value: Any, at: int, cut: int, put: str, chars: int
) -> None:
    text = json.dumps(value)
    at %= len(text) + 1
    text = text[:at] + put + text[at + cut :]
    assert in_pieces(text, chars) == outcome(json.loads, text)


@pytest.mark.parametrize(
    "text",
    ["[1,,2]", "[,1]", "[1,]", '{"a":1,}', '{"a":1,,"b":2}', '{,"a":1}', "[1 2]", '{"a" 1}', "{1:2}", "[1]]", "[1}"],
)
@pytest.mark.parametrize("space", ["", " " * 40])
def test_commas_are_where_they_belong(text: str, space: str) -> None:
    text = f"[{'1, ' * 40}{text.replace(',', space + ',' + space)}, {'1, ' * 40}1]"
    assert in_pieces(text, 40) == "an error" == outcome(json.loads, text)


@pytest.mark.parametrize("end", ["1e+5", "-0.5E-3", "123", "true", "Infinity", "-Infinity", "NaN", '"a\\u00e9"'])
def test_a_piece_may_end_within_a_value(end: str) -> None:
    for length in range(MARGIN, 2 * MARGIN):
        text = f"[[{end}], {'1, ' * length}{end}]"
        for chars in range(MARGIN, 32):
            assert in_pieces(text, chars) == outcome(json.loads, text)


@pytest.mark.parametrize(
    "value",
    [
        list(range(50_000)),
        [[1, 2]] * 40_000,
        [{"a": [1, {"b": 2}], "c": "x,]"}] * 10_000,
        ["x,]"] * 40_000,
        {str(each): [each] for each in range(20_000)},
        {"a": {"b": {"c": list(range(40_000))}}, "d": "x" * 200_000, "e": [[1] * 40_000] * 3},
        "x" * 200_000,
    ],
    ids=["numbers", "rows", "objects", "texts", "members", "deep", "text"],
)
@pytest.mark.medium
def test_long_texts_of_all_kinds(value: Any) -> None:
    text = json.dumps(value)
    assert len(text) > PIECE_CHARS
    assert parse_json(text) == value
    with pytest.raises(InvalidInput, match=r"^not JSON: "):
        parse_json(text[:-1])


def test_the_last_of_a_name_counts() -> None:
    text = "{" + ",".join(f'"a":{each}' for each in range(40)) + "}"
    assert in_pieces(text, 20) == "{'a': 39}"


def test_depth_is_limited_by_a_clear_error() -> None:
    assert in_pieces("[" * MAX_DEPTH + "]" * MAX_DEPTH, MARGIN) == outcome(
        json.loads, "[" * MAX_DEPTH + "]" * MAX_DEPTH
    )
    for text in ("[" * 200_000, "[" * 200_000 + "]" * 200_000, '{"a":' * 200_000):
        with pytest.raises(InvalidInput, match="nested too deep"):
            parse_json(text)


@pytest.mark.parametrize("before", ["", "[", '{"a":', "[1,"])
@pytest.mark.parametrize("number", ["1", "-1.", "1.5e"])
def test_a_number_has_its_length(before: str, number: str) -> None:
    """Long ones are read by one call, in which no other thread runs."""
    after = {"[": "]", "{": "}"}.get(before[:1], "")
    with pytest.raises(InvalidInput, match=r"^not JSON: a number has thousands of digits"):
        parse_json(before + number + "1" * MAX_NUMBER_CHARS + after)
    if "." in number:
        short = before + number + "0" * (PIECE_CHARS - 100) + after + " " * 200
        assert parse_json(short) == json.loads(short)


@pytest.mark.parametrize("text", [" 1 ", " [ ] ", " [ 1 , 2 ] ", ' { "a" : 1 , "b" : [ ] } ', ' { "a" ; 1 } ', " [ 1 "])
def test_space_is_read_in_pieces_like_all_else(text: str) -> None:
    long = text.replace(" ", " " * (PIECE_CHARS + 1))
    assert in_pieces(long, PIECE_CHARS) == outcome(json.loads, long)


def test_errors_say_where() -> None:
    text = json.dumps(list(range(50_000)))
    wrong = text[:200_000] + "x" + text[200_000:]
    with pytest.raises(InvalidInput) as caught:
        parse_json(wrong)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(wrong)
    assert str(caught.value) == f"not JSON: {expected.value}"
