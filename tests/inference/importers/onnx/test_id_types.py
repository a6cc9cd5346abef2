"""Ids of every type that a graph takes, and look-ups by GatherElements: each id as in the graph, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from ringpull import Schema, Sparse
from ringpull.inference.importers.onnx.model import import_onnx
from tests.inference.importers.onnx.graphs import FLOAT, INT, INT32, graph, imported, node, rows, run, taken

pytestmark = pytest.mark.medium

N = 300
W = rows(N, 4)
SCHEMA = Schema([Sparse("x")])
IDS = (0, 1, N - 1, N, N + 5, -1, -N, -N - 1, 127, 128, -128, -129, 255, 256, 65535, 65536, 2**31, -(2**31), 2**40)
OUTPUT = [("y", FLOAT, ["b", 4])]


@pytest.mark.parametrize("to", [INT, INT32])
@pytest.mark.parametrize("kind", ["UINT8", "INT8", "UINT16", "INT16", "UINT32", "UINT64", "FLOAT16", "FLOAT", "DOUBLE"])
def test_ids_of_any_type_are_looked_up(tmp_path: Path, kind: str, to: int) -> None:
    """An id that the type does not hold is refused: cast to it, it would be another's."""
    number = getattr(TensorProto, kind)
    own = helper.tensor_dtype_to_np_dtype(number)
    nodes = [node("Cast", ["x"], ["i"], to=to), node("Gather", ["W", "i"], ["y"])]
    model = graph(nodes, [("x", number, ["b"])], OUTPUT, {"W": W})
    version = imported(tmp_path, model, SCHEMA)
    assert sorted(version.tables) == ["W"]
    for each in IDS:
        ids = np.array([each])
        with np.errstate(over="ignore"):
            holds = int(np.nan_to_num(ids.astype(own).astype(np.float64), posinf=0)[0]) == each
        if holds and -N <= each < N:
            assert taken(version, {"x": ids}, 1), each
            (expected,) = run(model, {"x": ids.astype(own)})
            np.testing.assert_array_equal(version.score({"x": ids}, 1)["y"], expected, str(each))
        else:
            assert not taken(version, {"x": ids}, 1), each


def test_ids_beyond_those_that_float16_holds_are_refused(tmp_path: Path) -> None:
    nodes = [node("Cast", ["x"], ["i"], to=INT), node("Gather", ["W", "i"], ["y"])]
    weight = rows(5000, 4)
    version = imported(tmp_path, graph(nodes, [("x", TensorProto.FLOAT16, ["b"])], OUTPUT, {"W": weight}), SCHEMA)
    np.testing.assert_array_equal(version.score({"x": np.array([2048])}, 1)["y"], weight[[2048]])
    assert not taken(version, {"x": np.array([2049])}, 1), "2,048 to the graph"


@pytest.mark.parametrize("kind", ["UINT8", "INT16", "FLOAT16", "UINT64"])
def test_a_cast_of_the_graphs_own_stays(tmp_path: Path, kind: str) -> None:
    """Ids of an int64 input become others by it, which are no error to the graph."""
    nodes = [
        node("Cast", ["x"], ["short"], to=getattr(TensorProto, kind)),
        node("Cast", ["short"], ["i"], to=INT),
        node("Gather", ["W", "i"], ["y"]),
    ]
    model = graph(nodes, [("x", INT, ["b"])], OUTPUT, {"W": W})
    report = import_onnx(model, SCHEMA, tmp_path / "m", 1, quiet=True)
    assert not report.tables
    assert "is cast to" in report.kept[0].reason


UNSQUEEZED = node("Unsqueeze", ["x", "last"], ["column"])
ELEMENTS = {
    "repeated": ([UNSQUEEZED, node("Concat", ["column"] * 4, ["i"], axis=1)], 0, W),
    "expanded": ([UNSQUEEZED, node("Expand", ["column", "wide"], ["i"])], 0, W),
    "transposed": ([node("Unsqueeze", ["x", "first"], ["line"]), node("Expand", ["line", "high"], ["i"])], 1, W.T),
    "numbers": ([node("Identity", ["x"], ["i"])], 0, W[:, 0]),
    "columns": ([UNSQUEEZED, node("Identity", ["column"], ["i"])], 0, W[:, :1]),
}


@pytest.mark.parametrize("name", ELEMENTS)
def test_numbers_taken_along_an_axis_are_rows(tmp_path: Path, name: str) -> None:
    """take_along_axis of a table, by indices that are those of rows, is a look-up."""
    before, axis, weight = ELEMENTS[name]
    gathered = node("GatherElements", ["W", "i"], ["t" if axis else "y"], axis=axis)
    after = [node("Transpose", ["t"], ["y"])] if axis else []
    constants = {"W": np.ascontiguousarray(weight), "last": [1], "first": [0], "wide": [1, 4], "high": [4, 1]}
    shape = ["b", *([] if weight.ndim == 1 else [min(weight.shape)])]
    model = graph([*before, gathered, *after], [("x", INT, ["b"])], [("y", FLOAT, shape)], constants)
    version = imported(tmp_path, model, SCHEMA)
    assert sorted(version.tables) == ["W"]
    for each in (0, 1, N - 1, -1, -N):
        (expected,) = run(model, {"x": np.array([each])})
        np.testing.assert_array_equal(version.score({"x": np.array([each])}, 1)["y"].reshape(expected.shape), expected)
    for each in (N, N + 5, -N - 1):
        assert not taken(version, {"x": np.array([each])}, 1), each


def test_numbers_of_several_rows_stay(tmp_path: Path) -> None:
    """A vector of which each number is of another row is no row: the graph keeps the table, and says so."""
    nodes = [
        UNSQUEEZED,
        node("Add", ["column", "steps"], ["moved"]),
        node("Mod", ["moved", "n"], ["i"]),
        node("GatherElements", ["W", "i"], ["y"], axis=0),
    ]
    model = graph(nodes, [("x", INT, ["b"])], OUTPUT, {"W": W, "last": [1], "steps": [[0, 1, 2, 3]], "n": N})
    report = import_onnx(model, SCHEMA, tmp_path / "m", 1, quiet=True)
    assert not report.tables
    assert "takes the numbers of one row from several" in report.kept[0].reason
