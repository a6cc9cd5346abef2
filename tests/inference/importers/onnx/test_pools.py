"""Bags that an ONNX graph pools by itself, as pooled pulls: by its own rule, empty bags and padding included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from ringpull import IdSequence, Ragged, Schema, Sparse
from ringpull.ps.spec import Pooling
from tests.inference.importers.onnx.graphs import FLOAT, INT, assert_same, graph, imported, node, rows, taken

pytestmark = pytest.mark.medium

N, L = 40, 5
W = rows(N, 4)
COUNTED = {"zero": 0, "places": [1], "last": [2], "one": np.float32(1)}


def _masked(condition: Any, divided: Any = None) -> ModelProto:
    """Return a graph that sums the rows where ids fulfil a condition, and divides the sum by how many do."""
    nodes = [
        node("Gather", ["W", "x"], ["e"]),
        condition,
        node("Cast", ["kept"], ["mask"], to=FLOAT),
        node("Unsqueeze", ["mask", "last"], ["wide"]),
        node("Mul", ["e", "wide"], ["masked"]),
        node("ReduceSum", ["masked", "places"], ["sums" if divided else "y"], keepdims=0),
    ]
    if divided:
        nodes += [
            node("ReduceSum", ["mask", "places"], ["count"], keepdims=1),
            divided,
            node("Div", ["sums", "divisor"], ["y"]),
        ]
    return graph(nodes, [("x", INT, ["b", L])], [("y", FLOAT, ["b", 4])], {"W": W, **COUNTED})


NOT_ZERO = node("Greater", ["x", "zero"], ["kept"])
POOLS = {
    "sum": (
        graph(
            [node("Gather", ["W", "x"], ["e"]), node("ReduceSum", ["e", "places"], ["y"], keepdims=0)],
            [("x", INT, ["b", L])],
            [("y", FLOAT, ["b", 4])],
            {"W": W, **COUNTED},
        ),
        Pooling.SUM,
    ),
    "mean": (
        graph(
            [node("Gather", ["W", "x"], ["e"]), node("ReduceMean", ["e"], ["y"], axes=[1], keepdims=0)],
            [("x", INT, ["b", L])],
            [("y", FLOAT, ["b", 4])],
            {"W": W},
        ),
        Pooling.MEAN,
    ),
    "max": (
        graph(
            [node("Gather", ["W", "x"], ["e"]), node("ReduceMax", ["e"], ["y"], axes=[1], keepdims=0)],
            [("x", INT, ["b", L])],
            [("y", FLOAT, ["b", 4])],
            {"W": W},
        ),
        Pooling.MAX,
    ),
    "masked_mean": (
        _masked(
            node("Cast", ["x"], ["kept"], to=TensorProto.BOOL),
            node("Max", ["count", "one"], ["divisor"]),
        ),
        Pooling.MEAN,
    ),
    "mean_of_one_too_many": (
        _masked(node("Cast", ["x"], ["kept"], to=TensorProto.BOOL), node("Add", ["count", "one"], ["divisor"])),
        Pooling.SUM,
    ),
    "sum_of_positive": (_masked(NOT_ZERO), None),
}
"""Graphs, and how they are pooled; None: in a way that no pull has (negative ids are dropped, and have rows)."""


@pytest.mark.parametrize("kind", POOLS)
def test_pools_of_padded_sequences(tmp_path: Path, kind: str) -> None:
    """Bags are pulled pooled where the graph's own pooling is one of a pull's, and else as rows."""
    model, pooling = POOLS[kind]
    version = imported(tmp_path, model, Schema([IdSequence("x", L)]))
    found = [each.pooling for each in version.manifest.lookups if each.pooling is not Pooling.NONE]
    assert found == ([] if pooling is None else [pooling])
    padded = np.array([[1, 2, 2, 39, 3], [7, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 5, 0, -1, -N], [N - 1, 1, 0, 1, 0]])
    lengths = [5, 1, 0, 5, 4]
    column = Ragged.from_lists([row[:length].tolist() for row, length in zip(padded, lengths, strict=True)])
    assert_same(version, model, {"x": column}, {"x": padded}, len(padded))


def _loop(reduce: str) -> ModelProto:
    """Return what an EmbeddingBag is in ONNX: a loop over bags, whose body gathers the rows of one."""
    body = helper.make_graph(
        [
            node("Gather", ["offsets", "step"], ["begin"]),
            node("Add", ["step", "one"], ["next"]),
            node("Gather", ["offsets", "next"], ["end"]),
            node("Unsqueeze", ["begin", "axis"], ["begins"]),
            node("Unsqueeze", ["end", "axis"], ["ends"]),
            node("Slice", ["ids", "begins", "ends", "axis"], ["bag"]),
            node("Gather", ["W", "bag"], ["vectors"]),
            node(reduce, ["vectors"], ["pooled"], axes=[0], keepdims=0),
            node("Identity", ["going"], ["go_on"]),
        ],
        "body",
        [helper.make_tensor_value_info("step", INT, []), helper.make_tensor_value_info("going", TensorProto.BOOL, [])],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("pooled", FLOAT, [4]),
        ],
    )
    nodes = [
        node("Clip", ["x", "low", "high"], ["ids"]),
        node("Identity", ["x_offsets"], ["offsets"]),
        node("Shape", ["x_offsets"], ["size"]),
        node("Sub", ["size", "ones"], ["bags"]),
        node("Squeeze", ["bags"], ["count"]),
        node("Loop", ["count", "always"], ["y"], body=body),
    ]
    constants = {"W": W, "one": 1, "ones": [1], "axis": [0], "low": 0, "high": N - 1, "always": np.array(True)}
    inputs = [("x", INT, ["n"]), ("x_offsets", INT, ["b_and_1"])]
    return graph(nodes, inputs, [("y", FLOAT, ["b", 4])], constants, opset=13 if reduce == "ReduceMean" else 17)


def _summing_loop() -> ModelProto:
    model = _loop("ReduceMean")
    for each in model.graph.node[-1].attribute[0].g.node:
        if each.op_type == "ReduceMean":
            each.CopyFrom(node("ReduceSum", ["vectors", "axis"], ["pooled"], keepdims=0))
    return model


@pytest.mark.parametrize("kind", ["mean", "sum", "max"])
def test_bags_that_a_loop_pools(tmp_path: Path, kind: str) -> None:
    """Loops over bags are pulls; ids keep what is done to them before the loop, and so do empty bags."""
    model = {"mean": _loop("ReduceMean"), "sum": _summing_loop(), "max": _loop("ReduceMax")}[kind]
    version = imported(tmp_path, model)
    (lookup,) = version.manifest.lookups
    assert (lookup.feature, lookup.pooling.value) == ("x", kind)
    assert not [each for each in version.manifest.inputs if each.argument], "the loop is gone"
    lists = [[1, 2, 2], [39], [-5, 45, 3]]
    offsets = np.array([0, 3, 4, 7])
    columns = {"x": Ragged.from_lists(lists)}
    assert_same(version, model, columns, {"x": np.concatenate(lists), "x_offsets": offsets}, 3)
    empty = {"x": Ragged.from_lists([[1], []])}
    feature = version.schema["x"]
    assert isinstance(feature, Sparse)
    if not feature.never_empty:
        assert taken(version, empty, 2)
        np.testing.assert_array_equal(version.score(empty, 2)["y"][1], np.zeros(4))
        assert_same(version, model, empty, {"x": np.array([1]), "x_offsets": np.array([0, 1, 1])}, 2)
