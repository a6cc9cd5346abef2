"""Sparse tensors of a graph: tables as all other weights, and refused where they are not what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, SparseTensorProto, helper, numpy_helper

from ringpull import Schema, Sparse
from ringpull.inference.importers.onnx import sparse
from ringpull.inference.importers.onnx.source import read_source
from ringpull.ps.errors import CorruptData
from tests.inference.importers.onnx.graphs import FLOAT, INT, assert_edges, graph, imported, node, rows

pytestmark = pytest.mark.medium

N = 40
W = np.where(np.arange(N)[:, np.newaxis] % 3, np.float32(0), rows(N, 4))


def _sparse(indices: NDArray[Any], values: NDArray[Any]) -> SparseTensorProto:
    tensors = numpy_helper.from_array(values, "W"), numpy_helper.from_array(indices.astype(np.int64), "W_indices")
    return helper.make_sparse_tensor(*tensors, W.shape)


def _model(given: SparseTensorProto, *, constant: bool) -> ModelProto:
    nodes = [node("Constant", [], ["W"], sparse_value=given)] if constant else []
    nodes.append(node("Gather", ["W", "x"], ["y"]))
    made = graph(nodes, [("x", INT, ["b"])], [("y", FLOAT, ["b", 4])], {})
    if not constant:
        made.graph.sparse_initializer.append(given)
    return made


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("linear", [False, True])
def test_sparse_weights_are_tables(tmp_path: Path, constant: bool, linear: bool) -> None:
    """Held against the same graph with its zeros written out, as not every onnxruntime runs the former."""
    places = np.flatnonzero(W)
    indices = places if linear else np.stack(np.unravel_index(places, W.shape), 1)
    version = imported(
        tmp_path, _model(_sparse(indices, W.reshape(-1)[places]), constant=constant), Schema([Sparse("x")])
    )
    assert sorted(version.tables) == ["W"]
    plain = graph([node("Gather", ["W", "x"], ["y"])], [("x", INT, ["b"])], [("y", FLOAT, ["b", 4])], {"W": W})
    assert_edges(version, plain, "x", [0, 1, 3, N - 1, N, -1], [])


@pytest.mark.parametrize(
    ("indices", "values"),
    [
        (np.array([0, 4 * N]), np.ones(2, np.float32)),
        (np.array([[0, 0], [0, 4]]), np.ones(2, np.float32)),
        (np.array([[0, 0], [-1, 0]]), np.ones(2, np.float32)),
        (np.array([0, 1, 2]), np.ones(2, np.float32)),
        (np.array([0, 1]), np.array(["a", "b"], object)),
    ],
)
@pytest.mark.parametrize("constant", [False, True])
def test_indices_that_are_none_are_refused(indices: Any, values: Any, constant: bool) -> None:
    with pytest.raises(CorruptData, match="W"):
        read_source(_model(_sparse(indices, values), constant=constant))


@pytest.mark.parametrize("constant", [False, True])
def test_sparse_tensors_share_a_limit(monkeypatch: pytest.MonkeyPatch, constant: bool) -> None:
    """Each may be within it: a small file would stand for any number of numbers."""
    few = _sparse(np.array([0]), np.ones(1, np.float32))

    def two() -> ModelProto:
        model = _model(few, constant=constant)
        model.graph.node.append(node("Constant", [], ["other"], sparse_value=few))
        return model

    monkeypatch.setattr(sparse, "MAX_MADE", 2 * W.size)
    read_source(two())
    monkeypatch.setattr(sparse, "MAX_MADE", 2 * W.size - 1)
    with pytest.raises(CorruptData, match=f"stand for {2 * W.size} elements"):
        read_source(two())
