"""Packed inputs: a graph whose look-ups are one input gives the bits of the graph as it is in its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.flat_inputs import FlatInputs
from ringpull.inference.model.onnx_inputs import graph_inputs
from ringpull.inference.model.onnx_packing import LEAST_INPUTS, PackedGraph, packed_graph
from ringpull.inference.model.onnx_program import CPU_ROWS, OnnxProgram
from ringpull.inference.model.onnx_session import open_session
from ringpull.inference.model.version import LoadedVersion
from ringpull.loadtest.bench import width
from tests.inference.onnx_models import graph_of

WIDTH = 24

pytestmark = pytest.mark.medium


@st.composite
def graphs(draw: st.DrawFn) -> tuple[onnx.ModelProto, list[int]]:
    """A graph that lays inputs side by side in any order, in one or two places, and uses some elsewhere; and widths."""
    dims = draw(st.lists(st.integers(1, 5), min_size=LEAST_INPUTS, max_size=3 * LEAST_INPUTS))
    names = [f"x{place}" for place in range(len(dims))]
    order = draw(st.permutations(names))
    cut = draw(st.integers(1, len(order)))
    elsewhere = draw(st.sets(st.sampled_from(names), max_size=2))
    parts = [part for part in (order[:cut], order[cut:]) if part]
    nodes = [
        helper.make_node("Concat", part, [f"side{at}"], axis=draw(st.sampled_from([1, -1])))
        for at, part in enumerate(parts)
    ]
    sums = [f"side{at}" for at in range(len(parts))] + sorted(elsewhere)
    nodes += [helper.make_node("ReduceSum", [each, "axis"], [f"sum{at}"], keepdims=1) for at, each in enumerate(sums)]
    nodes.append(helper.make_node("Concat", [f"sum{at}" for at in range(len(sums))], ["sums"], axis=1))
    nodes.append(helper.make_node("Sigmoid", ["side0"], ["scores"]))
    inputs = {name: (TensorProto.FLOAT, ["rows", dim]) for name, dim in zip(names, dims, strict=True)}
    side0 = sum(dims[names.index(each)] for each in parts[0])
    outputs = {"sums": (TensorProto.FLOAT, ["rows", len(sums)]), "scores": (TensorProto.FLOAT, ["rows", side0])}
    return graph_of(nodes, inputs, outputs, {"axis": np.array([1])}), dims


def packed(model: onnx.ModelProto) -> PackedGraph | None:
    content = model.SerializeToString()
    inputs = graph_inputs(open_session(content, Path(), [], "cpu", 1).get_inputs())
    return packed_graph(content, inputs, range(len(inputs)))


@settings(max_examples=60, deadline=None)
@given(made=graphs(), rows=st.integers(1, 5))
def test_a_packed_graph_gives_the_same_bits(made: tuple[onnx.ModelProto, list[int]], rows: int) -> None:
    model, dims = made
    found = packed(model)
    random = np.random.default_rng(rows)
    given_ = {f"x{at}": random.standard_normal((rows, dim)).astype(np.float32) for at, dim in enumerate(dims)}
    if found is None:
        return
    names = [each.name for each in model.graph.output]
    expected = open_session(model.SerializeToString(), Path(), [], "cpu", 1).run(names, given_)
    own = dict(given_)
    for each in found.inputs:
        assert len(each.places) >= LEAST_INPUTS
        assert each.dims.tolist() == [dims[at] for at in each.places]
        own[each.name] = np.concatenate([own.pop(f"x{at}") for at in each.places], axis=1)
    session = open_session(found.content, Path(), [], "cpu", 1)
    assert {each.name for each in session.get_inputs()} == own.keys()
    for one, other in zip(session.run(names, own), expected, strict=True):
        assert one.tobytes() == other.tobytes()


def one_concat(axis: int = 1, *, used: str = "", dtype: int = TensorProto.FLOAT, count: int = WIDTH) -> onnx.ModelProto:
    names = [f"x{at}" for at in range(count)]
    nodes = [helper.make_node("Concat", names, ["all"], axis=axis)]
    outputs = {"all": (dtype, None)}
    if used:
        nodes.append(helper.make_node("Neg", [used], ["neg"]))
        outputs["neg"] = (dtype, ["rows", 2])
    return graph_of(nodes, {name: (dtype, ["rows", 2]) for name in names}, outputs)


def test_what_is_taken_elsewhere_is_not_packed() -> None:
    found = packed(one_concat(used="x12"))
    assert found is not None
    assert [each.places.tolist() for each in found.inputs] == [list(range(12)), list(range(13, WIDTH))]


def test_a_name_that_is_there_is_not_taken_again() -> None:
    model = one_concat()
    model.graph.node.append(helper.make_node("Neg", ["all"], ["packed_x0"]))
    found = packed(model)
    assert found is not None
    assert [each.name for each in found.inputs] == ["packed_x0_"]


@pytest.mark.parametrize(
    "model",
    [one_concat(0), one_concat(dtype=TensorProto.DOUBLE), one_concat(count=LEAST_INPUTS - 1)],
    ids=["rows", "double", "few"],
)
def test_nothing_else_is_packed(model: onnx.ModelProto) -> None:
    assert packed(model) is None


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnnxProgram, OnnxProgram]:
    """The program of a wide version, and the same without packed inputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RINGPULL_BENCH_CACHE", str(tmp_path_factory.mktemp("wide")))
        folder = width.wide_folder(WIDTH) / "1"
        made = LoadedVersion.load(folder).program
        patch.setattr("ringpull.inference.model.onnx_program.packed_graph", lambda *_: None)
        plain = LoadedVersion.load(folder).program
    assert isinstance(made, OnnxProgram)
    assert isinstance(plain, OnnxProgram)
    assert (made.takes_flat, plain.takes_flat) == (True, False)
    return made, plain


@pytest.mark.parametrize("rows", [1, 2, 9, CPU_ROWS + 3])
def test_a_program_gives_the_same_bits_however_its_inputs_come(programs, rows: int) -> None:
    made, plain = programs
    random = np.random.default_rng(rows)
    requests = 1 + rows // 3
    index = np.sort(random.integers(0, requests, rows))
    context = (np.arange(WIDTH) % 2).astype(np.int64)
    sizes = np.where(context, requests, rows) * width.DIM
    vectors = random.standard_normal(int(sizes.sum())).astype(np.float32)
    begins, dims = np.cumsum(sizes) - sizes, np.full(WIDTH, width.DIM)
    flat = FlatInputs(vectors, begins, dims, context, requests, index, rows, {})
    for inputs in (flat, list(flat)):
        assert made.run(inputs, rows)[width.OUTPUT].tobytes() == plain.run(list(flat), rows)[width.OUTPUT].tobytes()
    others = {at: flat[at] for at in (1, 2)}
    some = FlatInputs(
        vectors, np.where(np.isin(np.arange(WIDTH), [1, 2]), -1, begins), dims, context, requests, index, rows, others
    )
    assert made.run(some, rows)[width.OUTPUT].tobytes() == plain.run(list(flat), rows)[width.OUTPUT].tobytes()


def test_inputs_of_other_rows_are_refused_as_ever(programs) -> None:
    for program in programs:
        inputs = [ProgramTensor(np.zeros((3, width.DIM), np.float32)) for _ in range(WIDTH)]
        inputs[5] = ProgramTensor(np.zeros((2, width.DIM), np.float32))
        with pytest.raises(Exception, match="input lookup 5 of the dense program has 2 rows; the batch has 3"):
            program.run(inputs, 3)


def test_a_packed_graph_that_gives_other_bits_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGPULL_BENCH_CACHE", str(tmp_path))
    folder = width.wide_folder(WIDTH) / "1"

    def wrong(content: bytes, *rest: object) -> PackedGraph | None:
        found = packed_graph(content, *rest)  # type: ignore[arg-type]
        assert found is not None
        model = onnx.load_model_from_string(found.content)
        model.graph.node[-1].op_type = "Tanh"
        return PackedGraph(model.SerializeToString(), found.inputs)

    monkeypatch.setattr("ringpull.inference.model.onnx_program.packed_graph", wrong)
    program = LoadedVersion.load(folder).program
    assert isinstance(program, OnnxProgram)
    assert not program.takes_flat
