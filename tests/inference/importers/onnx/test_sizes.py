"""Tensors whose sizes follow the values or the number of ids: none of them is taken for a constant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from ringpull import IdSequence, Schema
from tests.inference.importers.onnx.graphs import FLOAT, INT, graph, imported, node, rows, run, taken

pytestmark = pytest.mark.medium

N, L = 50, 3
W = rows(N, 4)
CONSTANTS = {"W": W, "zero": 0, "one": 1, "n": N, "at_0": [0], "at_1": [1], "at_2": [2], "four": [4]}


def _ones(value: float) -> dict[str, Any]:
    return {"value": numpy_helper.from_array(np.array([value], np.float32))}


def _graph(*nodes: NodeProto, shape: tuple[int, ...] = (), opset: int = 17, **more: Any) -> ModelProto:
    return graph(nodes, [("x", INT, ["b", *shape])], [("y", FLOAT, ["b", 4])], {**CONSTANTS, **more}, opset)


MODELS: dict[str, tuple[ModelProto, set[str]]] = {
    "table_as_long_as_the_highest_id": (
        _graph(
            node("ReduceMax", ["x"], ["most"], keepdims=0),
            node("Add", ["most", "one"], ["end"]),
            node("HannWindow", ["end"], ["window"]),
            node("Shape", ["window"], ["size"]),
            node("Slice", ["W", "at_0", "size"], ["cut"]),
            node("Gather", ["cut", "x"], ["y"]),
        ),
        set(),
    ),
    "table_that_grows_with_the_rows": (
        _graph(
            node("Shape", ["x"], ["size"]),
            node("Add", ["size", "n"], ["end"]),
            node("Slice", ["long", "at_0", "end"], ["cut"]),
            node("Gather", ["cut", "x"], ["y"]),
            long=rows(3 * N, 4),
        ),
        set(),
    ),
    "table_times_the_number_of_rows": (
        _graph(
            node("Shape", ["x"], ["size"]),
            node("Cast", ["size"], ["many"], to=FLOAT),
            node("Mul", ["W", "many"], ["scaled"]),
            node("Gather", ["scaled", "x"], ["e"]),
            node("Div", ["e", "many"], ["y"]),
        ),
        set(),
    ),
    "rows_that_a_constant_of_the_rows_maps_ids_to": (
        _graph(
            node("Shape", ["x"], ["size"]),
            node("Squeeze", ["size"], ["many"]),
            node("Range", ["zero", "n", "one"], ["range"]),
            node("Add", ["range", "many"], ["moved"]),
            node("Gather", ["moved", "x"], ["mapped"]),
            node("Sub", ["mapped", "many"], ["i"]),
            node("Gather", ["W", "i"], ["y"]),
        ),
        set(),
    ),
    "size_of_the_square_of_the_rows": (
        _graph(
            node("Gather", ["W", "x"], ["e"]),
            node("Unsqueeze", ["x", "at_0"], ["across"]),
            node("Unsqueeze", ["x", "at_1"], ["down"]),
            node("Equal", ["across", "down"], ["pairs"]),
            node("Reshape", ["pairs", "flat"], ["flattened"]),
            node("Shape", ["flattened"], ["size"]),
            node("ConstantOfShape", ["size"], ["zeros"], **_ones(0.0)),
            node("Shape", ["pairs"], ["square"]),
            node("Reshape", ["zeros", "square"], ["laid"]),
            node("MatMul", ["laid", "e"], ["nothing"]),
            node("Add", ["e", "nothing"], ["y"]),
            flat=[-1],
        ),
        {"W"},
    ),
    "size_that_is_all_rows_of_small_ids_only": (  # of the ids that a graph is probed with
        _graph(
            node("Gather", ["W", "x"], ["e"]),
            node("Less", ["x", "two"], ["small"]),
            node("NonZero", ["small"], ["places"]),
            node("Shape", ["places"], ["size"]),
            node("Slice", ["size", "at_1", "at_2"], ["many"]),
            node("ConstantOfShape", ["many"], ["ones"], **_ones(1.0)),
            node("Shape", ["x"], ["rows"]),
            node("ConstantOfShape", ["rows"], ["zeros"], **_ones(0.0)),
            node("Transpose", ["places"], ["turned"]),
            node("ScatterND", ["zeros", "turned", "ones"], ["mask"]),
            node("Unsqueeze", ["mask", "at_1"], ["wide"]),
            node("Mul", ["e", "wide"], ["y"]),
            two=2,
        ),
        {"W"},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_follows_sizes_is_no_constant(tmp_path: Path, name: str) -> None:
    """It stays in the graph, and comes in right: for 1 row, for other numbers of rows than it was probed with, for high
    ids."""
    model, tables = MODELS[name]
    version = imported(tmp_path, model)
    assert set(version.tables) == tables
    random = np.random.default_rng(0)
    for many in (1, 3, 64, 70):
        for high in (1, 2, N):
            ids = random.integers(0, high, many)
            ids[0] = high - 1
            (expected,) = run(model, {"x": ids})
            assert taken(version, {"x": ids}, many)
            np.testing.assert_allclose(version.score({"x": ids}, many)["y"], expected, rtol=1e-5, atol=1e-6)


def test_sequences_cut_to_the_longest_come_in_right(tmp_path: Path) -> None:
    """The rows of a batch are as long as the longest of them: how many places that is depends on values."""
    model = _graph(
        node("Cast", ["x"], ["there"], to=TensorProto.BOOL),
        node("Cast", ["there"], ["counted"], to=INT),
        node("Mul", ["counted", "places"], ["ends"]),
        node("ReduceMax", ["ends"], ["most"], keepdims=0),
        node("Unsqueeze", ["most", "at_0"], ["longest"]),
        node("Slice", ["x", "at_0", "longest", "at_1"], ["cut"]),
        node("Gather", ["W", "cut"], ["e"]),
        node("Cast", ["cut"], ["left"], to=TensorProto.BOOL),
        node("Cast", ["left"], ["mask"], to=FLOAT),
        node("Unsqueeze", ["mask", "at_2"], ["wide"]),
        node("Mul", ["e", "wide"], ["masked"]),
        node("ReduceSum", ["masked", "at_1"], ["y"], keepdims=0),
        shape=(L,),
        places=[1, 2, 3],
    )
    version = imported(tmp_path, model, Schema([IdSequence("x", L)]))
    for ids in ([[5, 0, 0]], [[5, 0, 0], [49, 7, 8]], [[0, 0, 0], [1, 1, 0], [2, 0, 0]]):
        (expected,) = run(model, {"x": np.array(ids)})
        found = version.score({"x": np.array(ids)}, len(ids))["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
