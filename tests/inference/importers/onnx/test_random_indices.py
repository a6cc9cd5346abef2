"""Indices made of random operators: each id alone gives what the graph gives, or is refused where the graph fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto

from tests.inference.importers.onnx.graphs import FLOAT, INT, INT32, assert_edges, graph, imported, node, rows

pytestmark = pytest.mark.medium

N = 20
W = rows(N, 3)
IDS = (*range(-25, 26), 45, 100, -100, 2**24 + 1, 2**31 - 1, -(2**31))
OPERATORS = ("Add", "Sub", "Mul", "Mod", "fmod", "Div", "Clip", "Min", "Max", "Where", "Cast", "Abs", "Neg")


def _random_graph(seed: int) -> ModelProto:
    """Return a graph of up to four random operators on int32 ids, then one that keeps them within the table."""
    random = np.random.default_rng(seed)
    nodes: list[NodeProto] = []
    constants: dict[str, Any] = {"W": W}
    kind = INT32

    def constant(value: int) -> str:
        name = f"c{len(constants)}"
        constants[name] = np.array(value, {INT32: np.int32, INT: np.int64, FLOAT: np.float32}[kind])
        return name

    def add(operator: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(node(operator, list(inputs), [f"t{len(nodes)}"], **attributes))
        return f"t{len(nodes) - 1}"

    last = "x"
    for operator in random.choice(OPERATORS, random.integers(1, 5)):
        value = int(random.integers(2, 40)) * int(random.choice([1, -1]))
        if operator in ("Abs", "Neg"):
            last = add(operator, last)
        elif operator == "Cast":
            kind = int(random.choice([INT, INT32, FLOAT]))
            last = add("Cast", last, to=kind)
        elif operator == "Clip":
            last = add("Clip", last, constant(-5), constant(25))
        elif operator == "Where":
            last = add("Where", add("Less", last, constant(value)), last, constant(7))
        elif operator == "fmod" or (operator == "Mod" and kind == FLOAT):
            last = add("Mod", last, constant(value), fmod=1)
        else:
            last = add(str(operator), last, constant(value))
    if kind == FLOAT:
        kind = INT
        last = add("Cast", last, to=INT)
    last = add("Mod", last, constant(N)) if seed % 2 else add("Clip", last, constant(-N), constant(N - 1))
    nodes.append(node("Gather", ["W", last], ["y"]))
    return graph(nodes, [("x", INT32, ["b"])], [("y", FLOAT, ["b", 3])], constants)


@pytest.mark.parametrize("seed", range(12))
def test_random_indices_give_what_the_graph_gives(tmp_path: Path, seed: int) -> None:
    model = _random_graph(seed)
    version = imported(tmp_path, model)
    assert len(version.manifest.lookups) == 1
    assert_edges(version, model, "x", IDS, ())
