"""Schemas that are guessed of a graph: which inputs are ids, sequences, numbers, and columns of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ringpull import Dense, IdSequence, Schema, Sparse
from ringpull.inference.importers.onnx.guess import guess_schema
from ringpull.inference.importers.onnx.source import read_source
from ringpull.inference.schema.transforms import Vocabulary
from tests.inference.importers.onnx.graphs import FLOAT, INT, STRING, graph, imported, node, rows

pytestmark = pytest.mark.medium

W = rows(50, 4)
MIXED = graph(
    [
        node("Gather", ["W", "history"], ["h"]),
        node("ReduceSum", ["h", "one"], ["hs"], keepdims=0),
        node("Add", ["fields", "offsets"], ["rows"]),
        node("Gather", ["W", "rows"], ["f"]),
        node("ReduceSum", ["f", "one"], ["fs"], keepdims=0),
        node("Gather", ["W", "user:0"], ["u"]),
        node("Equal", ["word", "words"], ["same"]),
        node("Cast", ["same"], ["w"], to=FLOAT),
        node("Sum", ["hs", "fs", "u", "numbers", "w"], ["y"]),
    ],
    [
        ("history", INT, ["b", 5]),
        ("fields", INT, ["b", 2]),
        ("user:0", INT, ["b"]),
        ("numbers", FLOAT, ["b", 4]),
        ("word", STRING, ["b", 1]),
    ],
    [("y", FLOAT, ["b", 4])],
    {"W": W, "one": [1], "offsets": [0, 20], "words": np.array([["a", "b", "a", "c"]], object)},
    opset=19,
)


def test_a_schema_is_guessed_and_can_be_given_back(tmp_path: Path) -> None:
    guess = guess_schema(read_source(MIXED))
    assert guess.schema == Schema(
        [
            IdSequence("history", 5),
            Sparse("fields_0"),
            Sparse("fields_1"),
            Sparse("user"),
            Dense("numbers", 4),
            Sparse("word", "string", transforms=(Vocabulary(("a", "b", "c")),)),
        ],
        {"fields": ["fields_0", "fields_1"]},
    )
    assert guess.arguments == {"user:0": "user"}
    assert "vocabulary" in guess.notes[0]
    given_back = Schema.from_json(guess.text)
    assert given_back == guess.schema
    version = imported(tmp_path, MIXED, given_back, arguments=guess.arguments)
    assert [each.feature for each in version.manifest.lookups] == ["fields_0", "fields_1", "user", "history"]


def test_parts_of_a_feature_are_no_features() -> None:
    """Lengths, offsets and weights are what a schema gives beside ids."""
    nodes = [
        node("Gather", ["W", "bag"], ["e"]),
        node("Gather", ["W", "seen"], ["s"]),
        node("ReduceSum", ["e"], ["t"]),
        node("ReduceSum", ["s", "one"], ["q"], keepdims=0),
        node("Cast", ["seen_lengths"], ["l"], to=FLOAT),
        node("Unsqueeze", ["l", "one"], ["m"]),
        node("Cast", ["bag_offsets"], ["o"], to=FLOAT),
        node("ReduceSum", ["o"], ["os"]),
        node("Squeeze", ["os"], ["z"]),
        node("Squeeze", ["t"], ["tt"]),
        node("Sum", ["q", "m", "tt", "z"], ["y"]),
    ]
    inputs = [
        ("bag", INT, ["n"]),
        ("bag_offsets", INT, ["b_and_1"]),
        ("seen", INT, ["b", "any"]),
        ("seen_lengths", INT, ["b"]),
    ]
    guess = guess_schema(read_source(graph(nodes, inputs, [("y", FLOAT, ["b", 4])], {"W": W, "one": [1]})))
    assert guess.schema == Schema([Sparse("bag", many=True), IdSequence("seen", 50)])
    assert any("any length" in note for note in guess.notes)


@pytest.mark.parametrize("shape", [["b"], ["b", 1]])
def test_a_float_that_becomes_an_id_is_one(shape: list[str | int]) -> None:
    nodes = [node("Cast", ["x"], ["i"], to=INT), node("Gather", ["W", "i"], ["e"]), node("Flatten", ["e"], ["f"])]
    added = [node("Reshape", ["n", "column"], ["c"]), node("Add", ["f", "c"], ["y"])]
    inputs = [("x", FLOAT, shape), ("n", FLOAT, shape)]
    model = graph([*nodes, *added], inputs, [("y", FLOAT, ["b", 4])], {"W": W, "column": [-1, 1]})
    assert guess_schema(read_source(model)).schema == Schema([Sparse("x"), Dense("n")])
