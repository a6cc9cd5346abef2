"""One-hot vectors of large categories times a weight: rows of tables, whatever is beside them and done on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto
from onnx.numpy_helper import from_array

from ringpull import Dense, Schema, Sparse
from ringpull.inference.importers.onnx import one_hots
from ringpull.inference.importers.onnx.model import import_onnx
from tests.inference.importers.onnx.graphs import FLOAT, INT, STRING, graph, imported, node, rows, run, taken

pytestmark = pytest.mark.medium

N = 12
W = rows(N + 3, 4)
"""Weight of N categories, a number of two columns, and one of three categories that stay."""
IDS = (0, 1, 5, N - 1, N, N + 5, 100, 105, 111, -1, -N, -N - 1, 2**40)


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take categories of more than ten for many."""
    monkeypatch.setattr(one_hots, "LARGE", 10)


def encoder(values: Any, zeros: int = 1) -> NodeProto:
    """Return what encodes `x` by these values, (b, 1, N)."""
    named = {"cats_strings" if isinstance(values[0], str) else "cats_int64s": values}
    return node("OneHotEncoder", ["x"], ["hot3"], domain="ai.onnx.ml", zeros=zeros, **named)


def classifier(weight: Any) -> NodeProto:
    """Return a linear classifier of two classes of `columns`."""
    return node(
        "LinearClassifier",
        ["columns"],
        ["label", "y"],
        domain="ai.onnx.ml",
        classlabels_ints=[3, 8],
        coefficients=np.stack([-weight, weight]).reshape(-1).tolist(),
        intercepts=[-0.25, 0.25],
        multi_class=1,
        post_transform="LOGISTIC",
    )


FLAT = node("Reshape", ["hot3", "flat"], ["hot"])
BESIDE = node("Concat", ["d", "hot"], ["columns"], axis=1)
COLUMN = node("Unsqueeze", ["x", "last"], ["column"])
SAME = (COLUMN, node("Equal", ["column", "numbers"], ["same"]), node("Cast", ["same"], ["hot"], to=FLOAT))
SCALER = node(
    "Scaler",
    ["columns"],
    ["scaled"],
    domain="ai.onnx.ml",
    offset=np.linspace(-1, 1, N + 2).tolist(),
    scale=np.linspace(1, 3, N + 2).tolist(),
)
GEMM = node("Gemm", ["columns", "V", "c"], ["y"], alpha=0.5, beta=2.0, transB=1)
INTEGERS = list(range(100, 100 + N))

CASES: dict[str, tuple[list[NodeProto], int, tuple[int, ...]]] = {
    "an encoder, and a classifier of two": (
        [encoder(INTEGERS), FLAT, BESIDE, classifier(W[: N + 2, 0])],
        INT,
        (N + 1, 1),
    ),
    "texts": ([encoder([f"t{each}" for each in range(N)]), FLAT, BESIDE, GEMM], STRING, (N + 1, 4)),
    "texts, others an error": ([encoder([f"t{each}" for each in range(N)], 0), FLAT, BESIDE, GEMM], STRING, (N + 1, 4)),
    "integers, others an error": ([encoder(INTEGERS, 0), FLAT, BESIDE, GEMM], INT, (N, 4)),
    "equal, and a layer": ([*SAME, BESIDE, node("MatMul", ["columns", "U"], ["y"])], INT, (N + 1, 4)),
    "scaled columns": ([*SAME, BESIDE, SCALER, node("MatMul", ["scaled", "U"], ["y"])], INT, (N + 1, 4)),
    "one hot, and columns left out": (
        [
            node("OneHot", ["x", "depth", "on"], ["hot"]),
            BESIDE,
            node("Gather", ["columns", "kept"], ["some"], axis=1),
            node("Sub", ["some", "shift"], ["moved"]),
            node("MatMul", ["moved", "T"], ["y"]),
        ],
        INT,
        (N + 1, 4),
    ),
    "the rare put together": (
        [
            *SAME,
            node("Split", ["hot", "sizes"], ["often", "rare"], axis=1),
            node("ReduceSum", ["rare", "last"], ["any"], keepdims=1),
            node("Sub", ["one", "any"], ["none"]),
            node("Concat", ["d", "often", "none"], ["columns"], axis=-1),
            node("Div", ["columns", "two"], ["halves"]),
            node("MatMul", ["halves", "T"], ["y"]),
        ],
        INT,
        (N + 1, 4),
    ),
}


def of(nodes: list[NodeProto], kind: int) -> ModelProto:
    """Return the graph of a case."""
    constants = {
        "U": W[: N + 2],
        "V": W[: N + 2].T.copy(),
        "T": W[: N + 1],
        "c": W[0],
        "flat": [-1, N],
        "last": [1],
        "numbers": np.arange(N)[None],
        "depth": N,
        "on": np.array([0, 1], np.float32),
        "sizes": [N - 2, 2],
        "kept": np.delete(np.arange(N + 2), 4),
        "shift": W[:1, :1],
        "one": np.ones((1, 1), np.float32),
        "two": np.float32(2),
    }
    used = {each for one in nodes for each in one.input}
    width = 2 if "label" in nodes[-1].output else 4
    return graph(
        nodes,
        [
            ("x", kind, ["b", 1] if kind == STRING or nodes[0].op_type == "OneHotEncoder" else ["b"]),
            ("d", FLOAT, ["b", 2]),
        ],
        [("y", FLOAT, ["b", width])],
        {name: each for name, each in constants.items() if name in used},
        ml=1,
    )


@pytest.mark.parametrize("case", list(CASES))
def test_one_hot_vectors_are_rows(tmp_path: Path, case: str) -> None:
    """Known, unknown and strange ids score as in the graph, and where it fails they are refused."""
    nodes, kind, shape = CASES[case]
    model = of(nodes, kind)
    version = imported(tmp_path, model, None if kind == STRING else Schema([Sparse("x"), Dense("d", 2)]))
    (lookup,) = version.manifest.lookups
    (table,) = version.manifest.tables
    assert (lookup.feature, table.rows, table.spec.dim) == ("x", *shape)
    numbers = rows(1, 2, 3)
    for each in IDS:
        sent = np.array([f"t{each}"], object) if kind == STRING else np.array([each])
        columns = {"x": sent, "d": numbers}
        try:
            expected = run(
                model, {"x": sent.reshape([1] * len(model.graph.input[0].type.tensor_type.shape.dim)), "d": numbers}
            )
        except Exception:  # onnxruntime's have no root of their own
            assert not taken(version, columns, 1), f"{each}: the graph fails on it"
            continue
        assert taken(version, columns, 1), f"{each}: the graph takes it"
        np.testing.assert_allclose(version.score(columns, 1)["y"], expected[-1], 1e-5, 1e-6, err_msg=str(each))


def test_small_categories_and_what_is_no_layer_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, kind, _ = CASES["equal, and a layer"]
    squared = [*SAME, BESIDE, node("Mul", ["columns", "columns"], ["squares"]), node("MatMul", ["squares", "U"], ["y"])]
    schema = Schema([Sparse("x"), Dense("d", 2)])
    assert not imported(tmp_path / "squares", of(squared, kind), schema).manifest.tables
    monkeypatch.setattr(one_hots, "LARGE", N)
    assert not imported(tmp_path / "small", of(nodes, kind), schema).manifest.tables


SCATTERED = (
    node("Shape", ["x"], ["count"]),
    node("Concat", ["count", "many"], ["shape"], axis=0),
    node("ConstantOfShape", ["shape"], ["nothing"]),
    COLUMN,
    node("Shape", ["column"], ["shape of column"]),
    node("ConstantOfShape", ["shape of column"], ["one"], value=from_array(np.ones(1, np.float32))),
    node("ScatterElements", ["nothing", "column", "one"], ["hot"], axis=1),
)


@pytest.mark.parametrize(
    "nodes",
    [
        (node("OneHot", ["x", "many", "values"], ["hot"]), node("Einsum", ["hot", "U"], ["y"], equation="bn,nd->bd")),
        (node("OneHot", ["x", "many", "values"], ["hot"]), node("Einsum", ["T", "hot"], ["y"], equation="dn,bn->bd")),
        (*SCATTERED, node("MatMul", ["hot", "U"], ["y"])),
    ],
    ids=["Einsum", "Einsum, transposed", "ScatterElements"],
)
def test_products_that_are_not_read_as_look_ups_are_said(tmp_path: Path, nodes: Any) -> None:
    """They stay as they are: every row makes a vector of as many numbers as there are categories."""
    constants = {"many": [N], "values": np.array([0, 1], np.float32), "last": [1], "U": W[:N], "T": W[:N].T.copy()}
    used = {name for each in nodes for name in each.input}
    model = graph(
        list(nodes),
        [("x", INT, ["b"])],
        [("y", FLOAT, ["b", 4])],
        {name: value for name, value in constants.items() if name in used},
    )
    report = import_onnx(model, Schema([Sparse("x")]), tmp_path / "m", 1, quiet=True)
    assert not report.tables
    assert "by one-hot vectors, which is not read as a look-up" in report.kept[0].sentence


@pytest.mark.parametrize("multiplies", ["MatMul", "Gemm"])
def test_weights_that_are_kept_apart_leave_no_trace(tmp_path: Path, multiplies: str) -> None:
    """A large weight is given to onnxruntime beside the graph, which takes none that its nodes do not."""
    many = rows(20_000, 4)
    transposed = {"transB": 1} if multiplies == "Gemm" else {}
    nodes = [node("OneHot", ["x", "depth", "values"], ["hot"]), node(multiplies, ["hot", "W"], ["y"], **transposed)]
    constants = {"depth": len(many), "values": np.array([0, 1], np.float32), "W": many.T.copy() if transposed else many}
    model = graph(nodes, [("x", INT, ["b"])], [("y", FLOAT, ["b", 4])], constants)
    version = imported(tmp_path, model, Schema([Sparse("x")]))
    assert len(version.tables) == 1
    np.testing.assert_array_equal(version.score({"x": np.array([0, 19_999, 7])}, 3)["y"], many[[0, 19_999, 7]])
