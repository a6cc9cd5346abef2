"""Files of ONNX graphs that are damaged or hostile, or have what cannot be imported: an error with place and cure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from ringpull import Schema, Sparse
from ringpull.inference.importers.onnx import source
from ringpull.inference.importers.onnx.model import import_onnx
from ringpull.inference.importers.onnx.source import read_source
from ringpull.ps.errors import CorruptData, ExportError, InvalidInput, RingpullError
from tests.inference.export.versions import Exported
from tests.inference.importers.onnx.graphs import FLOAT, INT, graph, node, rows

pytestmark = pytest.mark.medium

W = rows(5000, 8)


def _model(**constants: Any) -> ModelProto:
    return graph(
        [node("Gather", ["W", "x"], ["y"])], [("x", INT, ["b"])], [("y", FLOAT, ["b", 8])], {"W": W, **constants}
    )


def _external(folder: Path) -> Path:
    """Return the file of a graph whose table lies in `data.bin` beside it."""
    onnx.save_model(_model(), str(folder / "m.onnx"), save_as_external_data=True, location="data.bin", size_threshold=0)
    return folder / "m.onnx"


def _refused(file: Path | ModelProto, kind: type[RingpullError], *said: str) -> None:
    with pytest.raises(kind) as caught:
        read_source(file)
    for each in said:
        assert each in str(caught.value)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    content = _model().SerializeToString()
    file = tmp_path / "m.onnx"
    for size in (0, 1, 10, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        _refused(file, CorruptData, "m.onnx")
    file.write_bytes(os.urandom(1000))
    _refused(file, CorruptData, "m.onnx")
    _refused(tmp_path / "none.onnx", InvalidInput, "none.onnx", "cannot be read")


def test_a_tensor_that_claims_more_than_it_holds_is_refused() -> None:
    """Nothing of the size that is claimed is made: it may be 2^40."""
    model = _model()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([2**37, 8])
    _refused(model, CorruptData, "tensor W", str(2**37), "holds 160,000")
    model = _model()
    model.graph.initializer[0].data_type = 77
    _refused(model, CorruptData, "tensor W", "77")
    model = _model()
    model.graph.initializer[0].dims[0] = -5000
    _refused(model, CorruptData, "tensor W")


def test_what_no_head_would_take_is_refused_before_it_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(_model().SerializeToString().replace(b"\x01W", b"\x01\xff"))
    _refused(file, CorruptData, "no UTF-8")
    deep = _model()
    branch = helper.make_graph([node("Identity", ["y"], ["z"])], "end", [], [])
    for _ in range(17):
        branch = helper.make_graph([node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)], "if", [], [])
        del branch.node[0].attribute[1:]
    deep.graph.node.extend(branch.node)
    _refused(deep, InvalidInput, "more than 16 deep")
    noisy = _model()
    noisy.graph.node.append(node("RandomNormalLike", ["y"], ["z"], scale=0.0))  # it would end the process
    _refused(noisy, InvalidInput, "RandomNormalLike", "draws random numbers")
    monkeypatch.setattr(source, "MAX_NODES", 0)
    _refused(_model(), InvalidInput, "more than 0 nodes")


def test_external_data_is_mapped_and_stays_in_its_folder(tmp_path: Path) -> None:
    file = _external(tmp_path)
    assert isinstance(read_source(file).weights["W"], np.memmap)
    report = import_onnx(file, Schema([Sparse("x")]), tmp_path / "out", 1, quiet=True)
    np.testing.assert_array_equal(Exported(report.path).score({"x": np.array([4999])}, 1)["y"], W[4999:])
    model = onnx.load(str(file), load_external_data=False)
    entries = {each.key: each for each in model.graph.initializer[0].external_data}

    def damaged(key: str, value: str, *said: str) -> None:
        had, entries[key].value = entries[key].value, value
        (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
        entries[key].value = had
        _refused(tmp_path / "bad.onnx", CorruptData, "tensor W", *said)

    (tmp_path.parent / "secret").write_bytes(W.tobytes())
    damaged("location", "../secret", "outside the folder")
    damaged("location", str(tmp_path.parent / "secret"), "outside the folder")
    (tmp_path / "link").symlink_to(tmp_path.parent / "secret")
    damaged("location", "link", "outside the folder")
    damaged("location", "missing.bin", "missing.bin", "missing beside")
    damaged("location", "data.bin\0", "names no file")
    damaged("offset", "100", "data.bin", "160,000")
    damaged("length", str(2**40), "says 1099511627776")
    damaged("offset", "-4", "no number of bytes")
    _refused(model, InvalidInput, "tensor W", "give its file")


def test_what_cannot_be_imported_is_named() -> None:
    no_outputs = _model()
    del no_outputs.graph.output[:]
    _refused(no_outputs, InvalidInput, "no outputs")
    strange = _model()
    strange.graph.node[0].domain = "acme"
    strange.graph.node[0].op_type = "Lookup"
    strange.graph.node[0].name = "mine"
    _refused(strange, InvalidInput, "mine", "Lookup", "acme")
    invalid = _model()
    invalid.graph.node[0].input[1] = "nothing"
    _refused(invalid, CorruptData, "nothing")
    for change, said in ((_without_rank, "says no shape"), (_of_rank_3, "3 dimensions"), (_a_sequence, "no tensor")):
        model = _model()
        change(model)
        with pytest.raises(InvalidInput, match=said):
            import_onnx(model, None, "nowhere", 1, quiet=True)
    assert not Path("nowhere").exists()


def test_one_scale_of_all_rows_is_named(tmp_path: Path) -> None:
    """What onnxruntime's dynamic quantisation makes of a net scores a row by the others of its batch."""
    nodes = [
        node("Gather", ["W", "x"], ["e"]),
        node("DynamicQuantizeLinear", ["e"], ["q", "scale", "zero"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    model = graph(nodes, [("x", INT, ["b"])], [("y", FLOAT, ["b", 8])], {"W": W})
    with pytest.raises(ExportError, match=r"other rows of its batch.*DynamicQuantizeLinear"):
        import_onnx(model, None, tmp_path / "out", 1, quiet=True)
    assert not (tmp_path / "out").exists()


def _without_rank(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _of_rank_3(model: ModelProto) -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", INT, ["b", 2, 2]))


def _a_sequence(model: ModelProto) -> None:
    value = helper.make_tensor_sequence_value_info("x", TensorProto.INT64, ["b"])
    model.graph.input[0].CopyFrom(value)


@pytest.mark.parametrize(
    ("schema", "options", "said"),
    [
        (Schema([Sparse("z")]), {}, "input x has no argument 'x'"),
        (Schema([Sparse("z")]), {"arguments": {"q": "z"}}, "has no input 'q'"),
        (Schema([Sparse("x")]), {"outputs": ["scores"]}, "no output scores"),
        (Schema([Sparse("x")]), {"keys": {"V": [1]}}, "no table of this model. Its tables: W"),
        (Schema([Sparse("x")]), {"keys": {"W": [1, 2]}}, "2 ids for 5000 rows"),
    ],
)
def test_what_does_not_fit_the_graph_is_named(tmp_path: Path, schema: Schema, options: Any, said: str) -> None:
    with pytest.raises(RingpullError, match=said):
        import_onnx(_model(), schema, tmp_path / "m", 1, quiet=True, **options)
    assert not (tmp_path / "m").exists()


def test_functions_that_double_what_they_call_are_refused() -> None:
    """Inlined, twenty of them are a million nodes."""
    made = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]

    def calls(number: int) -> Any:
        inner = [helper.make_node(f"F{number - 1}", ["w", "i"], [each], domain="own") for each in ("a", "b")]
        return helper.make_function(
            "own", f"F{number}", ["w", "i"], ["o"], [*inner, node("Add", ["a", "b"], ["o"])], made
        )

    model = graph(
        [helper.make_node("F20", ["W", "x"], ["y"], domain="own")],
        [("x", INT, ["b"])],
        [("y", FLOAT, ["b", 8])],
        {"W": W},
    )
    model.opset_import.append(made[1])
    model.functions.append(
        helper.make_function("own", "F0", ["w", "i"], ["o"], [node("Gather", ["w", "i"], ["o"])], made)
    )
    model.functions.extend([calls(number) for number in range(1, 21)])
    _refused(model, InvalidInput, "more than 100,000 nodes")


@pytest.mark.parametrize(("kind", "inputs"), [("Expand", ["one", "sizes"]), ("Tile", ["one", "sizes"])])
def test_a_constant_that_asks_for_a_huge_tensor_is_refused(kind: str, inputs: list[str]) -> None:
    """A computer with room for it would be filled."""
    nodes = [
        node(kind, inputs, ["huge"]),
        node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        node("Gather", ["W", "x"], ["e"]),
        node("Add", ["e", "sum"], ["y"]),
    ]
    constants = {"W": W, "one": np.ones(1, np.float32), "sizes": [2**36]}
    model = graph(nodes, [("x", INT, ["b"])], [("y", FLOAT, ["b", 8])], constants)
    _refused(model, InvalidInput, f"({kind}) would make [68719476736] elements")
