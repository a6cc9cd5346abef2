"""Hostile graphs of ONNX: refused before onnxruntime gets them, by a message that names file and place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ringpull.inference.model import onnx_check
from ringpull.inference.model.onnx_check import MAX_DEPTH, CheckedGraph, ExternalTensor, check_graph
from ringpull.inference.model.onnx_session import open_session
from ringpull.ps.errors import CorruptData
from tests.inference import onnx_models
from tests.inference.onnx_models import graph_of

F = TensorProto.FLOAT
WHERE = "ranker/1/dense.onnx"
RELU = helper.make_node("Relu", ["x"], ["y"], name="last")


def model(*nodes: onnx.NodeProto, **weights: Any) -> onnx.ModelProto:
    return graph_of([*nodes, RELU], {"x": (F, ["rows"])}, {"y": (F, ["rows"])}, weights)


def check(graph: onnx.ModelProto, files: dict[str, int] | None = None) -> CheckedGraph:
    return check_graph(graph.SerializeToString(), WHERE, files or {})


def refused(graph: onnx.ModelProto, said: str, files: dict[str, int] | None = None) -> None:
    with pytest.raises(CorruptData, match=said) as raised:
        check(graph, files)
    assert str(raised.value).startswith(WHERE)


def test_what_a_graph_says_of_itself() -> None:
    found = check(onnx_models.rest())
    assert (found.producer, found.ir_version, found.opsets, found.nodes) == ("tests", 9, {"": 17}, 5)
    assert [(each.name, each.shape) for each in found.inputs] == [
        ("user", (None, 4)),
        ("tags", (None, 4)),
        ("age", (None, 3)),
        ("genre", (None,)),
    ]
    assert [(each.name, each.kind, each.elem_type) for each in found.outputs] == [
        ("click", "tensor", 1),
        ("norm", "tensor", 1),
    ]
    assert found.external == ()


def test_every_kind_of_weight_is_taken() -> None:
    weights = []
    for kind in range(1, 24):
        name = TensorProto.DataType.Name(kind)
        if name in ("STRING", "COMPLEX64", "COMPLEX128"):
            continue
        for raw in (False, True):
            if raw:
                array = numpy_helper.from_array(np.ones(6, helper.tensor_dtype_to_np_dtype(kind)), f"{name}_raw")
                weights.append(array)
            else:
                weights.append(helper.make_tensor(name, kind, [6], [1] * 6))
    weights.append(helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b"\xff"]))
    weights.append(helper.make_tensor("empty", F, [0, 3], []))
    graph = model()
    graph.graph.initializer.extend(weights)
    assert check(graph).nodes == 1


@pytest.mark.medium
@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 400), flip=st.integers(0, 255), data=st.data())
def test_any_damage_is_read_or_refused(cut: int, flip: int, data: st.DataObject) -> None:
    content = bytearray(onnx_models.rest().SerializeToString())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= flip
    for damaged in (bytes(content), bytes(content[:cut])):
        try:
            check_graph(damaged, WHERE, {})
        except CorruptData as exc:
            assert str(exc).startswith(WHERE)  # noqa: PT017


@pytest.mark.parametrize("content", [b"", b"\x08\x09", b"PK\x03\x04 no model", b"\xff" * 40])
def test_what_is_no_model(content: bytes) -> None:
    with pytest.raises(CorruptData, match=f"{WHERE}: not a "):
        check_graph(content, WHERE, {})


def test_a_file_beyond_what_protobuf_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_check, "MAX_BYTES", 50)
    refused(model(), "a graph of ONNX has at most 50")


def test_operators_of_others_are_refused_and_those_of_onnxruntime_taken() -> None:
    own = helper.make_node("Danger", ["x"], ["z"], domain="com.example", name="bad")
    refused(model(own), r"node 'bad' \(Danger\) is of the domain 'com\.example', which onnxruntime does not have")
    inner = helper.make_graph([own], "body", [], [helper.make_tensor_value_info("z", F, None)])
    branch = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    refused(model(branch), "'com.example'")
    noise = helper.make_node("RandomNormal", [], ["noise"], "drawn", shape=[1])
    refused(model(noise), r"node 'drawn' \(RandomNormal\) draws random numbers")
    for domain in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft"):
        assert check(model(helper.make_node("Gelu", ["x"], ["z"], domain=domain))).nodes == 2


def functions(*bodies: tuple[str, list[str]]) -> onnx.ModelProto:
    """Return a model that calls the first of its functions, each of which calls others."""
    graph = model(helper.make_node(bodies[0][0], ["x"], ["z"], domain="own"))
    for name, called in bodies:
        nodes = [helper.make_node(each, ["x"], [f"z{place}"], domain="own") for place, each in enumerate(called)]
        graph.functions.append(
            helper.make_function("own", name, ["x"], ["z0"], [*nodes, RELU], [helper.make_opsetid("", 17)])
        )
    return graph


def test_functions_of_the_model_are_counted_as_often_as_they_are_called() -> None:
    assert check(functions(("a", ["b", "b"]), ("b", []))).nodes == 7
    refused(functions(("a", ["b"]), ("b", ["a"])), "the function 'a' of 'own' calls itself")
    doubling = [(f"f{level}", [f"f{level + 1}"] * 10) for level in range(8)]
    refused(functions(*doubling, ("f8", [])), "more than 100,000 nodes")
    chain = [(f"f{level}", [f"f{level + 1}"]) for level in range(40)]
    refused(functions(*chain, ("f40", [])), "more than 16 deep")


def nested(depth: int) -> onnx.NodeProto:
    node = RELU
    for _ in range(depth):
        body = helper.make_graph([node], "body", [], [helper.make_tensor_value_info("y", F, None)])
        node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
        node.attribute.pop()
    return node


def numbered(size: int) -> bytes:
    """Return a number as protobuf writes it."""
    return (bytes([size & 127 | 128]) + numbered(size >> 7)) if size > 127 else bytes([size])


def test_graphs_in_graphs() -> None:
    assert check(model(nested(MAX_DEPTH))).nodes == MAX_DEPTH + 2
    refused(model(nested(MAX_DEPTH + 1)), "graphs in graphs, more than 16 deep")
    deep = RELU.SerializeToString()
    for _ in range(500):  # by hand: protobuf's own writer stops at a hundred
        for tag in (b"\x0a", b"\x32", b"\x2a"):  # a node of a graph, a graph of an attribute, an attribute of a node
            deep = tag + numbered(len(deep)) + deep
    content = model().SerializeToString() + b"\x3a" + numbered(len(deep) + 1 + len(numbered(len(deep)))) + b"\x0a"
    with pytest.raises(CorruptData, match=r"not a whole model of ONNX: .* or graphs in graphs too deep"):
        check_graph(content + numbered(len(deep)) + deep, WHERE, {})


def shaped(change: Callable[[TensorProto], Any]) -> onnx.ModelProto:
    graph = model(weight=np.ones((2, 3), np.float32))
    change(graph.graph.initializer[0])
    return graph


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.dims.append(1 << 40),
            r"initializer 'weight' has the shape \[2, 3, 1099511627776\], but holds 24 of",
        ),
        (lambda t: t.dims.__setitem__(0, -1), r"has the shape \[-1, 3\]"),
        (lambda t: t.dims.extend([1] * 70), "has the shape"),
        (lambda t: setattr(t, "raw_data", b"abc"), "but holds 3 of 24 bytes"),
        (lambda t: t.ClearField("raw_data"), "but holds 0 of 6 bytes or numbers"),
        (lambda t: setattr(t, "data_type", 99), "is of type 99"),
        (lambda t: setattr(t, "data_type", 8), "but holds 0 of 6"),
    ],
)
def test_weights_that_have_not_the_bytes_of_their_shape(change: Callable[[TensorProto], Any], said: str) -> None:
    refused(shaped(change), said)


def test_sparse_weights_that_stand_for_too_much() -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "where")
    graph = model()
    graph.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 20, 1 << 20]))
    refused(graph, r"initializer 'sparse' is a sparse tensor of the shape \[1048576, 1048576\]")


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [
        ("ConstantOfShape", ["sizes"]),
        ("Expand", ["x", "sizes"]),
        ("Tile", ["x", "sizes"]),
        ("OneHot", ["x", "sizes", "x"]),
        ("Range", ["x", "sizes", "x"]),
    ],
)
def test_constants_that_ask_for_too_much(operator: str, inputs: list[str]) -> None:
    node = helper.make_node(operator, inputs, ["z"], name="bomb")
    for sizes in (np.array([1 << 20, 1 << 20]), np.array([1 << 40])):
        refused(model(node, sizes=sizes), rf"node 'bomb' \({operator}\) would make .* elements")
        constant = helper.make_node("Constant", [], ["sizes"], value=numpy_helper.from_array(sizes, "v"))
        refused(model(constant, node), "node 'bomb'")
    assert check(model(node, sizes=np.array([4, 5]))).nodes == 2


# -- weights in files --------------------------------------------------------------------------------------------------


def outside(**said: Any) -> onnx.ModelProto:
    graph = model()
    tensor = TensorProto(name="weight", data_type=F, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "dense.onnx.data", **said}.items():
        tensor.external_data.add(key=key, value=str(value))
    graph.graph.initializer.append(tensor)
    return graph


@pytest.mark.parametrize("where", ["/etc/passwd", "../secret", "other.data", "", "x/../dense.onnx.data", "a\0b"])
def test_weights_in_files_that_are_not_the_versions(where: str) -> None:
    refused(outside(location=where), "which is no file of weights of this version", {"dense.onnx.data": 100})


@pytest.mark.parametrize(
    "said",
    [{"offset": 77}, {"offset": -1}, {"offset": 1 << 62}, {"length": 23}, {"length": 1 << 40}, {"offset": "x"}],
)
def test_weights_that_do_not_lie_in_their_file(said: dict[str, Any]) -> None:
    refused(outside(**said), "initializer 'weight'", {"dense.onnx.data": 100})


def test_weights_in_files_are_only_of_the_outer_graph() -> None:
    graph = outside()
    tensor = graph.graph.initializer.pop()
    refused(
        model(helper.make_node("Constant", [], ["z"], value=tensor)), "lies in a file; only initializers of the outer"
    )


def test_weights_are_mapped_wherever_they_lie(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32)
    for offset in (0, 3, 4096):
        (tmp_path / "dense.onnx.data").write_bytes(bytes(offset) + values.tobytes())
        graph = outside(offset=offset, length=24)
        graph.graph.node[0].CopyFrom(helper.make_node("Gather", ["flat", "i"], ["z"]))
        graph.graph.node.insert(0, helper.make_node("Reshape", ["weight", "shape"], ["flat"]))
        graph.graph.node.append(helper.make_node("Add", ["x", "z"], ["y"]))
        graph.graph.initializer.extend(
            [numpy_helper.from_array(np.array([6]), "shape"), numpy_helper.from_array(np.array([5, 2]), "i")]
        )
        content = graph.SerializeToString()
        found = check_graph(content, WHERE, {"dense.onnx.data": offset + 24})
        assert found.external == (ExternalTensor("weight", np.dtype(np.float32), (2, 3), "dense.onnx.data", offset),)
        session = open_session(content, tmp_path, found.external, "cpu", 1)
        assert session.run(None, {"x": np.ones(2, np.float32)})[0].tolist() == [6, 3]


def test_weights_in_files_that_share_their_bytes() -> None:
    graph = outside()
    for place in range(9):
        other = graph.graph.initializer.add()
        other.CopyFrom(graph.graph.initializer[0])
        other.name = f"again_{place}"
    refused(graph, "weights in files are more than there is in the files", {"dense.onnx.data": 100})
