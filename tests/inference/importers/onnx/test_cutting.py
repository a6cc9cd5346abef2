"""Look-ups of ONNX graphs, however they are written, as tables: scores as the graph's, at the edges of tables too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from ringpull import Dense, IdSequence, Schema, Sparse
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.importers.onnx.model import import_onnx
from ringpull.ps.errors import ExportError
from ringpull.ps.spec import Pooling
from tests.inference.export.versions import Exported
from tests.inference.importers.onnx.graphs import (
    FLOAT,
    INT,
    INT32,
    STRING,
    assert_edges,
    assert_same,
    graph,
    imported,
    node,
    rows,
    run,
    taken,
)

pytestmark = pytest.mark.medium

N = 50
W = rows(N, 4)
EDGES = (0, 1, N - 1, N, N + 5, -1, -N, -N - 1, -2 * N, -2 * N - 1, 2**31 - 1, -(2**31))


def _gathered(*before: object, index: str, **constants: object) -> ModelProto:
    """Return a graph that gathers rows of W by what nodes make of `x` (b, 1)."""
    nodes = [*before, node("Gather", ["W", index], ["e"]), node("ReduceSum", ["e", "last"], ["y"], keepdims=0)]
    return graph(nodes, [("x", INT32, ["b", 1])], [("y", FLOAT, ["b"])], {"W": W, "last": [1, 2], **constants})  # type: ignore[arg-type]


KERAS = _gathered(
    node("Less", ["x", "zero"], ["below"]),
    node("Add", ["x", "n"], ["wrapped"]),
    node("Where", ["below", "wrapped", "x"], ["index"]),
    index="index",
    zero=np.int32(0),
    n=np.int32(N),
)
CLIPPED = _gathered(
    node("Clip", ["x", "zero", "last_row"], ["i"]), index="i", zero=np.int32(0), last_row=np.int32(N - 1)
)
CLIPPED_ABOVE = _gathered(node("Min", ["x", "last_row"], ["i"]), index="i", last_row=np.int32(N - 1))
UNKNOWN_IS_ROW_0 = _gathered(
    node("GreaterOrEqual", ["x", "n"], ["above"]),
    node("Less", ["x", "zero"], ["below"]),
    node("Or", ["above", "below"], ["beyond"]),
    node("Where", ["beyond", "zero", "x"], ["i"]),
    index="i",
    zero=np.int32(0),
    n=np.int32(N),
)
OF_DIVISOR = _gathered(node("Mod", ["x", "n"], ["i"]), index="i", n=np.int32(N))
AS_FLOAT = _gathered(
    node("Cast", ["x"], ["f"], to=FLOAT),
    node("Mul", ["f", "half"], ["h"]),
    node("Floor", ["h"], ["down"]),
    node("Cast", ["down"], ["i"], to=INT),
    index="i",
    half=np.float32(0.5),
)


@pytest.mark.parametrize(
    "model",
    [KERAS, CLIPPED, CLIPPED_ABOVE, UNKNOWN_IS_ROW_0, OF_DIVISOR, AS_FLOAT],
    ids=["keras", "clipped", "clipped_above", "unknown_is_row_0", "of_divisor", "as_float"],
)
def test_an_index_becomes_a_key_with_what_it_does_beyond_the_table(tmp_path: Path, model: ModelProto) -> None:
    """Ids wrap, are clamped, default or fail just as in the graph, which equal scores inside would not show."""
    version = imported(tmp_path, model)
    assert [(each.table, each.feature) for each in version.manifest.lookups] == [("W", "x")]
    assert not [each for each in version.manifest.inputs if each.argument], "ids are no input of the rest"
    assert_edges(version, model, "x", EDGES, (1,))


def test_ids_that_a_cast_would_make_others_are_refused(tmp_path: Path) -> None:
    """2^32 + 3 is 3 to a graph that casts to int32, which nobody means; all that int32 holds is as in the graph."""
    nodes = [node("Cast", ["x"], ["i"], to=INT32), node("Gather", ["W", "i"], ["y"])]
    model = graph(nodes, [("x", INT, ["b"])], [("y", FLOAT, ["b", 4])], {"W": W})
    version = imported(tmp_path, model)
    assert_edges(version, model, "x", EDGES, ())
    assert not taken(version, {"x": np.array([2**32 + 3])}, 1)


def test_products_have_the_bounds_that_they_have_without_overflow(tmp_path: Path) -> None:
    """`2 * (2^63 - 1)` is row -2 to the graph, which nobody means; else the table would have to stay."""
    nodes = [node("Mul", ["x", "two"], ["i"]), node("Gather", ["W", "i"], ["y"])]
    model = graph(nodes, [("x", INT, ["b"])], [("y", FLOAT, ["b", 4])], {"W": W, "two": 2})
    version = imported(tmp_path, model)
    assert sorted(version.tables) == ["W"]
    assert_edges(version, model, "x", (0, 3, N // 2 - 1, N // 2, N, -1, -N // 2, -N // 2 - 1, 2**31), ())
    assert not taken(version, {"x": np.array([2**63 - 1])}, 1)


def test_a_look_up_that_fails_on_ids_that_no_bounds_tell_stays(tmp_path: Path) -> None:
    """No request could be refused for them, and the graph's own failure is better than a default vector."""
    nodes = [node("Mod", ["x", "size"], ["i"]), node("Gather", ["W", "i"], ["y"])]
    model = graph(nodes, [("x", INT, ["b"])], [("y", FLOAT, ["b", 4])], {"W": W, "size": N + 20})
    report = import_onnx(model, None, tmp_path / "m", 1, quiet=True)
    assert not report.tables
    assert "no bounds tell which ids" in report.kept[0].reason
    opened = import_onnx(model, None, tmp_path / "o", 1, quiet=True, tables={"W": TableOptions(default="zeros")})
    assert [(each.name, each.default) for each in opened.tables] == [("W", "zeros")]
    assert not Exported(opened.path).score({"x": np.array([N + 3])}, 1)["y"].any()


def test_a_row_that_is_not_there_is_zeros_where_the_graph_says_so(tmp_path: Path) -> None:
    """OneHot times a weight is a look-up, and beyond its depth zeros."""
    nodes = [node("OneHot", ["x", "depth", "values"], ["hot"], axis=-1), node("MatMul", ["hot", "W"], ["y"])]
    values = np.array([0, 1], np.float32)
    model = graph(nodes, [("x", INT, ["b"])], [("y", FLOAT, ["b", 4])], {"W": W, "depth": [N], "values": values})
    version = imported(tmp_path, model)
    assert len(version.manifest.lookups) == 1
    assert not version.manifest.limits
    assert_edges(version, model, "x", EDGES, ())


def test_ids_put_together_are_a_feature_that_the_server_makes(tmp_path: Path) -> None:
    nodes = [
        node("Mul", ["a", "many"], ["scaled"]),
        node("Add", ["scaled", "b"], ["both"]),
        node("Mod", ["both", "size"], ["i"]),
        node("Gather", ["W", "i"], ["y"]),
    ]
    inputs = [("a", INT, ["b"]), ("b", INT, ["b"])]
    model = graph(nodes, inputs, [("y", FLOAT, ["b", 4])], {"W": W, "many": 31, "size": N})
    version = imported(tmp_path, model)
    assert version.manifest.lookups[0].feature == "a_and_b"
    columns = {"a": np.array([0, 5, -7, 2**60]), "b": np.array([3, 2**40, 9, -1])}
    assert_same(version, model, columns, columns, 4)


def test_columns_of_one_matrix_are_features(tmp_path: Path) -> None:
    """Ids in a matrix of floats, and fields with offsets in one big table."""
    nodes = [
        node("Slice", ["X", "first", "second", "axis"], ["ids"]),
        node("Cast", ["ids"], ["i"], to=INT),
        node("Add", ["i", "offsets"], ["rows"]),
        node("Gather", ["W", "rows"], ["e"]),
        node("Flatten", ["e"], ["f"]),
        node("Slice", ["X", "second", "third", "axis"], ["numbers"]),
        node("Concat", ["f", "numbers"], ["y"], axis=1),
    ]
    constants = {"W": W, "first": [0], "second": [2], "third": [4], "axis": [1], "offsets": [0, 20]}
    model = graph(nodes, [("X", FLOAT, ["b", 4])], [("y", FLOAT, ["b", 10])], constants)
    version = imported(tmp_path, model)
    assert [(each.feature, each.table) for each in version.manifest.lookups] == [("X_0", "W"), ("X_1", "W")]
    matrix = np.array([[0, 0, 0.5, 1], [49, 29, 2, 3], [-1, -70, -1, -2]], np.float32)
    columns = {"X_0": np.array([0, 49, -1]), "X_1": np.array([0, 29, -70]), "X_2": matrix[:, 2:]}
    assert_same(version, model, columns, {"X": matrix}, 3)
    assert not taken(version, {**columns, "X_1": np.array([0, 30, 0])}, 3)


def _looked_up(weight: np.ndarray, *after: object, **constants: object) -> ModelProto:
    nodes = [node("Gather", ["weight", "x"], ["e" if after else "y"]), *after]
    return graph(nodes, [("x", INT, ["b"])], [("y", FLOAT, ["b", 4])], {"weight": weight, **constants})  # type: ignore[arg-type]


CODES = np.random.default_rng(1).integers(0, 256, (N, 4)).astype(np.uint8)
TABLES = {
    "float16": _looked_up(W.astype(np.float16), node("Cast", ["e"], ["y"], to=FLOAT)),
    "float64": _looked_up(W.astype(np.float64), node("Cast", ["e"], ["y"], to=FLOAT)),
    "quantised": graph(
        [node("DequantizeLinear", ["codes", "scale", "zero"], ["W"], axis=0), node("Gather", ["W", "x"], ["y"])],
        [("x", INT, ["b"])],
        [("y", FLOAT, ["b", 4])],
        {"codes": CODES, "scale": np.abs(W[:, 0]), "zero": CODES[:, 0]},
    ),
    "reshaped": graph(
        [node("Reshape", ["flat", "shape"], ["W"]), node("Gather", ["W", "x"], ["y"])],
        [("x", INT, ["b"])],
        [("y", FLOAT, ["b", 4])],
        {"flat": W.reshape(-1), "shape": [N, 4]},
    ),
    "transposed": graph(
        [node("Gather", ["turned", "x"], ["e"], axis=1), node("Transpose", ["e"], ["y"], perm=[1, 0])],
        [("x", INT, ["b"])],
        [("y", FLOAT, ["b", 4])],
        {"turned": np.ascontiguousarray(W.T)},
    ),
    "gather_nd": graph(
        [node("Unsqueeze", ["x", "axis"], ["i"]), node("GatherND", ["W", "i"], ["y"])],
        [("x", INT, ["b"])],
        [("y", FLOAT, ["b", 4])],
        {"W": W, "axis": [1]},
    ),
    "old_operators": graph(
        [
            node("Gather", ["W", "x"], ["e"]),
            node("Unsqueeze", ["e"], ["u"], axes=[1]),
            node("Squeeze", ["u"], ["y"], axes=[1]),
        ],
        [("x", INT, ["b"])],
        [("y", FLOAT, ["b", 4])],
        {"W": W},
        opset=7,
    ),
    "batch_of_one": graph([node("Gather", ["W", "x"], ["y"])], [("x", INT, [1])], [("y", FLOAT, [1, 4])], {"W": W}),
    "through_a_constant": graph(
        [node("Gather", ["category", "x"], ["c"]), node("Gather", ["W", "c"], ["y"])],
        [("x", INT, ["b"])],
        [("y", FLOAT, ["b", 4])],
        {"category": np.random.default_rng(2).integers(-N, N, N), "W": rows(N, 4, 3)},
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_rows_are_what_the_graph_computes_of_its_weights(tmp_path: Path, kind: str) -> None:
    model = TABLES[kind]
    version = imported(tmp_path, model)
    assert len(version.manifest.lookups) == 1
    assert not [each for each in version.manifest.inputs if each.argument]
    if kind != "batch_of_one":
        ids = np.array([0, 7, 7, N - 1, -1, -N])
        assert_same(version, model, {"x": ids}, {"x": ids}, len(ids))
    assert_edges(version, model, "x", EDGES, ())


def test_sequences_lie_where_the_graph_had_them(tmp_path: Path) -> None:
    """Sequences first in time, with a constant row before them: places and fixed rows."""
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "first"], ["batch"]),
        node("Concat", ["batch", "one"], ["shape"], axis=0),
        node("Expand", ["start", "shape"], ["starts"]),
        node("Concat", ["starts", "x"], ["ids"], axis=1),
        node("Transpose", ["ids"], ["by_time"], perm=[1, 0]),
        node("Gather", ["W", "by_time"], ["e"]),
        node("Transpose", ["e"], ["by_row"], perm=[1, 0, 2]),
        node("Flatten", ["by_row"], ["y"]),
    ]
    constants = {"W": W, "first": [0], "one": [1], "start": [[7]]}
    model = graph(nodes, [("x", INT, ["b", 3])], [("y", FLOAT, ["b", 16])], constants)
    version = imported(tmp_path, model)
    assert [each.pooling for each in version.manifest.lookups] == [Pooling.NONE]
    assert not [each for each in version.manifest.inputs if each.argument], "sizes are those of the look-up"
    ids = np.array([[1, 2, 3], [0, -1, N - 1]])
    assert_same(version, model, {"x": ids}, {"x": ids}, 2)


def test_a_table_that_is_also_used_whole_stays_as_a_copy(tmp_path: Path) -> None:
    nodes = [
        node("Gather", ["W", "x"], ["e"]),
        node("Transpose", ["W"], ["turned"], perm=[1, 0]),
        node("MatMul", ["e", "turned"], ["y"]),
    ]
    model = graph(nodes, [("x", INT, ["b"])], [("y", FLOAT, ["b", N])], {"W": W})
    schema = Schema([Sparse("x")])
    report = import_onnx(model, schema, tmp_path / "m", 1, quiet=True)
    assert [(each.name, each.copy) for each in report.kept] == [("W", True)]
    with pytest.raises(ExportError, match="a copy would have to stay, because all its rows are also used by Transpose"):
        import_onnx(model, schema, tmp_path / "m", 2, quiet=True, max_dense_bytes=100)
    assert not (tmp_path / "m" / "2").exists()


def test_what_cannot_be_cut_stays_and_is_said(tmp_path: Path) -> None:
    nodes = [
        node("CumSum", ["x", "axis"], ["sums"]),
        node("Gather", ["W", "sums"], ["e"]),
        node("ReduceSum", ["e", "axis_1"], ["y"], keepdims=0),
    ]
    constants = {"W": W, "axis": np.int64(1), "axis_1": [1]}
    model = graph(nodes, [("x", INT, ["b", 3])], [("y", FLOAT, ["b", 4])], constants)
    report = import_onnx(model, Schema([IdSequence("x", 3)]), tmp_path / "m", 1, quiet=True)
    assert "it is computed by CumSum" in report.kept[0].sentence
    assert report.without_tables is not None


def test_entries_that_several_ids_look_up_are_said(tmp_path: Path) -> None:
    """They are no rows: an id in a field, as GatherND takes them."""
    nodes = [
        node("Unsqueeze", ["x", "axis"], ["id"]),
        node("Mod", ["id", "fields"], ["field"]),
        node("Concat", ["id", "field"], ["index"], axis=1),
        node("GatherND", ["W", "index"], ["y"]),
    ]
    constants = {"W": rows(3 * N, 4).reshape(N, 3, 4), "axis": [1], "fields": 3}
    model = graph(nodes, [("x", INT, ["b"])], [("y", FLOAT, ["b", 4])], constants)
    report = import_onnx(model, Schema([Sparse("x")]), tmp_path / "m", 1, quiet=True)
    assert "by several ids at once" in report.kept[0].sentence
    assert report.without_tables is not None
    columns = {"x": np.array([0, 4, N - 1])}
    assert_same(Exported(report.path), model, columns, columns, 3)


def test_raw_ids_are_looked_up_where_keys_say_so(tmp_path: Path) -> None:
    names = [f"user {number}" for number in range(N)]
    model = graph([node("Gather", ["W", "x"], ["y"])], [("x", INT, ["b"])], [("y", FLOAT, ["b", 4])], {"W": W})
    version = imported(tmp_path, model, Schema([Sparse("x")]), keys={"W": names})
    found = version.score({"x": np.array(["user 3", "user 49", "nobody"], object)}, 3)["y"]
    np.testing.assert_array_equal(found, [W[3], W[49], np.zeros(4)])
    clipped = graph(
        [node("Mod", ["x", "n"], ["i"]), node("Gather", ["W", "i"], ["y"])],
        [("x", INT, ["b"])],
        [("y", FLOAT, ["b", 4])],
        {"W": W, "n": N},
    )
    with pytest.raises(ExportError, match="raw ids"):
        imported(tmp_path / "other", clipped, Schema([Sparse("x")]), keys={"W": names})


def test_strings_go_through_a_vocabulary(tmp_path: Path) -> None:
    """Strings that a graph compares with are the vocabulary; labels of them are rows of a table."""
    nodes = [
        node(
            "LabelEncoder",
            ["s"],
            ["i"],
            domain="ai.onnx.ml",
            keys_strings=["a", "b"],
            values_int64s=[5, 3],
            default_int64=0,
        ),
        node("Gather", ["W", "i"], ["e"]),
        node("Equal", ["s", "word"], ["same"]),
        node("Cast", ["same"], ["number"], to=FLOAT),
        node("Unsqueeze", ["number", "last"], ["numbers"]),
        node("Add", ["e", "numbers"], ["y"]),
    ]
    word = np.array("c", object)
    model = graph(
        nodes,
        [("s", STRING, ["b", 1])],
        [("y", FLOAT, ["b", 1, 4])],
        {"W": W, "word": word, "last": [2]},
        opset=19,
        ml=3,
    )
    version = imported(tmp_path, model)
    words = np.array(["a", "b", "c", "d"], object)
    assert_same(version, model, {"s": words}, {"s": words[:, None]}, 4)
    assert len(version.manifest.lookups) == 1


def test_given_scores_are_compared(tmp_path: Path) -> None:
    nodes = [node("Gather", ["W", "x"], ["e"]), node("Add", ["e", "d"], ["y"])]
    inputs = [("x", INT, ["b"]), ("d", FLOAT, ["b", 4])]
    model = graph(nodes, inputs, [("y", FLOAT, ["b", 4])], {"W": W})
    schema = Schema([Sparse("x"), Dense("d", 4)])
    columns = {"x": np.array([1, 2]), "d": np.ones((2, 4), np.float32)}
    (scores,) = run(model, columns)
    import_onnx(
        model, schema, tmp_path / "m", 1, quiet=True, check_columns={**columns, "y": scores, "label": np.array([0, 1])}
    )
    with pytest.raises(ExportError, match="the scores of"):
        import_onnx(model, schema, tmp_path / "m", 2, quiet=True, check_columns={**columns, "y": scores + 1})
    assert not (tmp_path / "m" / "2").exists()


def test_functions_are_looked_into_and_defaults_open_a_table(tmp_path: Path) -> None:
    """A Gather inside a function of the graph is a look-up; with a default declared, ids beyond the table get that."""
    domain = helper.make_opsetid("mine", 1)
    inner = [node("Gather", ["table", "ids"], ["rows"])]
    own = helper.make_function("mine", "Embed", ["table", "ids"], ["rows"], inner, [helper.make_opsetid("", 17)])
    nodes = [node("Embed", ["W", "x"], ["y"], domain="mine")]
    model = graph(nodes, [("x", INT, ["b"])], [("y", FLOAT, ["b", 4])], {"W": W})
    model.opset_import.append(domain)
    model.functions.append(own)
    version = imported(tmp_path, model, tables={"W": TableOptions(default="mean")})
    assert not version.manifest.limits
    found = version.score({"x": np.array([3, N + 5, -1])}, 3)["y"]
    np.testing.assert_allclose(found, [W[3], W.mean(0), W[-1]], rtol=1e-5, atol=1e-6)
