"""A DLRM as an ONNX graph, its tables inside: what other frameworks' exporters hand over, and what it is asked."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema

TABLES: Final = 26
DIM: Final = 16
DENSE: Final = 13
BOTTOM: Final = (512, 256, DIM)
TOP: Final = (512, 256, 1)
NAMES: Final = tuple(f"c{number}" for number in range(TABLES))
OUTPUT: Final = "score"
_OPSET: Final = 17
_IR_VERSION: Final = 9


def schema() -> Schema:
    """Return the schema of its features: an id of each table, and numbers."""
    return Schema([Dense("dense", width=DENSE), *(Sparse(name) for name in NAMES)])


def make_model(rows: int, seed: int = 0) -> ModelProto:
    """Return the graph with so many rows in each table."""
    random = np.random.default_rng(seed)
    weights: dict[str, NDArray[Any]] = {}
    nodes: list[NodeProto] = []

    def layers(value: str, width: int, widths: tuple[int, ...], name: str, last: str) -> str:
        for place, size in enumerate(widths):
            weight, bias = f"{name}_w{place}", f"{name}_b{place}"
            weights[weight] = (random.standard_normal((width, size)) / np.sqrt(width)).astype(np.float32)
            weights[bias] = np.zeros(size, np.float32)
            nodes.append(helper.make_node("Gemm", [value, weight, bias], [f"{name}_{place}"]))
            operator = last if place == len(widths) - 1 else "Relu"
            nodes.append(helper.make_node(operator, [f"{name}_{place}"], [f"{name}_out{place}"]))
            value, width = f"{name}_out{place}", size
        return value

    bottom = layers("dense", DENSE, BOTTOM, "bottom", "Relu")
    weights["one"] = np.array([1])
    vectors = [bottom]
    for name in NAMES:
        weights[f"{name}_table"] = (random.standard_normal((rows, DIM)) / DIM).astype(np.float32)
        nodes.append(helper.make_node("Gather", [f"{name}_table", name], [f"{name}_vector"]))
        vectors.append(f"{name}_vector")
    nodes += [helper.make_node("Unsqueeze", [each, "one"], [f"{each}_row"]) for each in vectors]
    pairs = [row * len(vectors) + column for row in range(len(vectors)) for column in range(row)]
    weights["pairs"], weights["flat"] = np.array(pairs), np.array([0, len(vectors) ** 2])
    nodes += [
        helper.make_node("Concat", [f"{each}_row" for each in vectors], ["all"], axis=1),
        helper.make_node("Transpose", ["all"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["all", "turned"], ["products"]),
        helper.make_node("Reshape", ["products", "flat"], ["flat_products"]),
        helper.make_node("Gather", ["flat_products", "pairs"], ["interactions"], axis=1),
        helper.make_node("Concat", [bottom, "interactions"], ["joined"], axis=1),
    ]
    score = layers("joined", DIM + len(pairs), TOP, "top", "Sigmoid")
    nodes.append(helper.make_node("Identity", [score], [OUTPUT]))
    graph = helper.make_graph(
        nodes,
        "dlrm",
        [
            helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["rows", DENSE]),
            *(helper.make_tensor_value_info(name, TensorProto.INT64, ["rows"]) for name in NAMES),
        ],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def make_columns(count: int, rows: int, candidates: int, seed: int = 1) -> list[dict[str, NDArray[Any]]]:
    """Return the columns of `count` requests of so many rows each, with uniform ids below `rows`."""
    random = np.random.default_rng(seed)
    return [
        {
            "dense": random.standard_normal((candidates, DENSE)).astype(np.float32),
            **{name: random.integers(0, rows, candidates) for name in NAMES},
        }
        for _ in range(count)
    ]
