"""Answers in JSON, against a slow printer that puts one token after the other as TensorFlow Serving's does."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ringpull.inference.head.frontends.tfs import rest_answers
from ringpull.inference.head.frontends.tfs.rest_answers import numbers

FLOATS = st.floats(width=32)


def one(value: np.float32) -> str:
    """A number as TensorFlow Serving prints it: six digits if they are enough, else nine; never without a point."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{float(value):.6g}"
    with np.errstate(over="ignore"):
        if np.float32(text) != value:
            text = f"{float(value):.9g}"
    return text if "." in text or "e" in text else f"{text}.0"


class Printer:
    """A printer with a stack of levels, four blanks each, and a switch: lists on one line or not."""

    def __init__(self) -> None:
        self.text = ""
        self.levels: list[list[Any]] = []
        self.single_line = False

    def _before(self) -> None:
        if not self.levels:
            return
        level = self.levels[-1]
        kind, count = level
        level[1] += 1
        if kind == "[":
            if count:
                self.text += ", " if self.single_line else ","
            if not self.single_line:
                self._new_line()
        elif count % 2:
            self.text += ": "
        else:
            self.text += "," if count else ""
            self._new_line()

    def _new_line(self) -> None:
        self.text += "\n" + "    " * len(self.levels)

    def put(self, token: str) -> None:
        self._before()
        self.text += token

    def open(self, kind: str) -> None:
        self.put(kind)
        self.levels.append([kind, 0])

    def close(self) -> None:
        kind, count = self.levels.pop()
        if count and not (kind == "[" and self.single_line):
            self._new_line()
        self.text += "]" if kind == "[" else "}"

    def array(self, values: Any) -> None:
        if np.ndim(values) == 0:
            self.put(one(values))
            return
        self.open("[")
        for value in values:
            self.array(value)
        self.close()


def printed_rows(outputs: dict[str, Any]) -> str:
    printer = Printer()
    printer.open("{")
    printer.put('"predictions"')
    printer.open("[")
    for row in range(len(next(iter(outputs.values())))):
        if len(outputs) > 1:
            printer.open("{")
        printer.single_line = True
        for name, values in outputs.items():
            if len(outputs) > 1:
                printer.put(f'"{name}"')
            printer.array(values[row])
        printer.single_line = False
        if len(outputs) > 1:
            printer.close()
    printer.close()
    printer.close()
    return printer.text


def printed_columns(outputs: dict[str, Any]) -> str:
    printer = Printer()
    printer.open("{")
    printer.put('"outputs"')
    if len(outputs) > 1:
        printer.open("{")
    for name, values in outputs.items():
        if len(outputs) > 1:
            printer.put(f'"{name}"')
        printer.array(values)
    if len(outputs) > 1:
        printer.close()
    printer.close()
    return printer.text


@st.composite
def outputs(draw: st.DrawFn) -> dict[str, Any]:
    rows, count = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    shapes = [draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)) for _ in range(count)]
    return {
        f"output {place}": draw(arrays.arrays(np.float32, (rows, *shape), elements=FLOATS))
        for place, shape in enumerate(shapes)
    }


@settings(max_examples=30)
@given(arrays.arrays(np.float32, st.integers(0, 30), elements=FLOATS))
def test_numbers_are_printed_as_one_by_one(values: np.ndarray) -> None:
    assert numbers(values) == [one(value) for value in values]


@settings(max_examples=30)
@given(arrays.arrays(np.float32, st.integers(0, 30), elements=FLOATS))
def test_numbers_are_read_back_to_the_bit(values: np.ndarray) -> None:
    read = np.array(json.loads(f"[{', '.join(numbers(values))}]"), np.float32)
    assert np.array_equal(read, values, equal_nan=True)
    assert np.array_equal(np.signbit(read), np.signbit(values) & ~np.isnan(values))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.5, "2.5"),
        (3.0, "3.0"),
        (-0.0, "-0.0"),
        (0.2, "0.2"),
        (1 / 3, "0.333333343"),
        (9_000_000, "9e+06"),
        (0.00003, "3e-05"),
        (16_777_216, "16777216.0"),
        (1_234_567, "1234567.0"),
        (3.4028235e38, "3.40282347e+38"),
        (1e-45, "1.4013e-45"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
    ],
    ids=str,
)
def test_numbers_of_note(value: float, text: str) -> None:
    assert numbers(np.array([value], np.float32)) == [text]


def test_more_numbers_than_are_formatted_at_a_time() -> None:
    values = np.random.default_rng(0).normal(size=5_000).astype(np.float32)
    values[4_999] = np.nan
    assert numbers(values) == [one(value) for value in values]


@settings(max_examples=30)
@given(outputs())
def test_rows_are_laid_out_token_by_token(given: dict[str, Any]) -> None:
    assert rest_answers.predictions(given) == printed_rows(given)


@settings(max_examples=30)
@given(outputs())
def test_columns_are_laid_out_token_by_token(given: dict[str, Any]) -> None:
    assert rest_answers.columns(given) == printed_columns(given)


@settings(max_examples=30)
@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 3)), elements=FLOATS))
def test_classes_are_pairs_of_label_and_score(scores: np.ndarray) -> None:
    labels = ["", 'a "b"', "é"][: scores.shape[1]]
    printer = Printer()
    printer.open("{")
    printer.put('"results"')
    printer.open("[")
    for row in scores:
        printer.single_line = True
        printer.open("[")
        for label, score in zip(labels, row, strict=True):
            printer.open("[")
            printer.put(json.dumps(label, ensure_ascii=False))
            printer.put(one(score))
            printer.close()
        printer.close()
        printer.single_line = False
    printer.close()
    printer.close()
    assert rest_answers.classes(scores, labels) == printer.text


def test_regressions_are_on_one_line() -> None:
    assert rest_answers.regressions(np.array([3.5, 4.0], np.float32)) == '{\n    "results": [3.5, 4.0]\n}'
