"""What a converter writes of a two-tower with texts, made by hand: graph and description, as golden as can be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ringpull.inference.importers.savedmodel.description import Description

ITEMS = np.random.default_rng(1).standard_normal((2_000, 16)).astype(np.float32)
GENRES = np.random.default_rng(2).standard_normal((4, 16)).astype(np.float32)

DESCRIPTION: dict[str, Any] = {
    "signatures": ["serving_default", "regress"],
    "inputs": [
        {
            "name": "movieId",
            "tensor": "in_0:0",
            "dtype": "int32",
            "shape": [None, 1],
            "known": None,
            "pad": None,
            "hashed": False,
        },
        {
            "name": "genre",
            "tensor": "in_1:0",
            "dtype": "string",
            "shape": [None],
            "known": ["a", "b", "c"],
            "pad": None,
            "hashed": False,
        },
        {
            "name": "age",
            "tensor": "in_2:0",
            "dtype": "float32",
            "shape": [None, 2],
            "known": None,
            "pad": None,
            "hashed": False,
        },
        {
            "name": "title",
            "tensor": None,
            "dtype": "string",
            "shape": [None, 1],
            "known": None,
            "pad": None,
            "hashed": False,
        },
        {
            "name": "years",
            "tensor": None,
            "dtype": "int64",
            "shape": [None, 3],
            "known": None,
            "pad": None,
            "hashed": False,
        },
        {
            "name": "stars",
            "tensor": None,
            "dtype": "float32",
            "shape": [None],
            "known": None,
            "pad": None,
            "hashed": False,
        },
    ],
    "outputs": [
        {"signature": "serving_default", "name": "score", "tensor": "out_0:0"},
        {"signature": "regress", "name": "outputs", "tensor": "out_1:0"},
    ],
    "variables": [{"tensor": "items", "shape": [2_000, 16], "dtype": "float32", "file": "", "offset": 16}],
    "notes": [],
}


def converted(folder: Path) -> tuple[ModelProto, Description]:
    """Write the variable that stays outside; return the graph, and what is told of it."""
    file = folder / "variable_0.raw"
    file.write_bytes(bytes(16) + ITEMS.tobytes())
    nodes = [
        helper.make_node("Gather", ["items", "in_0:0"], ["item"]),
        helper.make_node("Squeeze", ["item", "one"], ["flat"]),
        helper.make_node("Gather", ["genres", "in_1:0"], ["genre"]),
        helper.make_node("Mul", ["flat", "genre"], ["both"]),
        helper.make_node("ReduceSum", ["both", "one"], ["dot"], keepdims=0),
        helper.make_node("ReduceSum", ["in_2:0", "one"], ["age"], keepdims=0),
        helper.make_node("Add", ["dot", "age"], ["out_0:0"]),
        helper.make_node("Unsqueeze", ["out_0:0", "one"], ["out_1:0"]),
    ]
    inputs = [
        helper.make_tensor_value_info("in_0:0", TensorProto.INT32, [None, 1]),
        helper.make_tensor_value_info("in_1:0", TensorProto.INT64, [None]),
        helper.make_tensor_value_info("in_2:0", TensorProto.FLOAT, [None, 2]),
        helper.make_tensor_value_info("items", TensorProto.FLOAT, ITEMS.shape),
    ]
    outputs = [
        helper.make_tensor_value_info("out_0:0", TensorProto.FLOAT, [None]),
        helper.make_tensor_value_info("out_1:0", TensorProto.FLOAT, [None, 1]),
    ]
    constants = [numpy_helper.from_array(GENRES, "genres"), numpy_helper.from_array(np.array([1]), "one")]
    graph = helper.make_graph(nodes, "converted", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    variables = [{**DESCRIPTION["variables"][0], "file": str(file)}]
    return model, Description.of({**DESCRIPTION, "variables": variables})


class Scorer:
    """What TensorFlow would answer: the whole graph, which also keeps what it was asked."""

    def __init__(self, model: ModelProto, *, wrong: bool = False) -> None:
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self._wrong = wrong
        self.asked: list[Mapping[str, NDArray[Any]]] = []

    def __call__(self, rows: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self.asked.append(rows)
        given = {"in_0:0": rows["movieId"], "in_1:0": rows["genre"], "in_2:0": rows["age"], "items": ITEMS}
        found = list(self._session.run(None, given))
        return [each + 0.01 for each in found] if self._wrong else found
