"""Packed inputs: a graph whose look-ups are one input gives the bits of the graph as it is in its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.flat_inputs import FlatInputs
from ringpull.inference.model.manifest import FileEntry, LookupSpec, Manifest, ProgramInput, ProgramOutput, TableEntry
from ringpull.inference.model.onnx_inputs import graph_inputs
from ringpull.inference.model.onnx_packing import MAX_BYTES, PackedGraph, packed_graph
from ringpull.inference.model.onnx_program import CPU_ROWS, DATA_FILE, FILE, OnnxProgram
from ringpull.inference.model.onnx_session import open_session
from ringpull.inference.model.packed_inputs import MIN_INPUTS
from ringpull.inference.model.version import LoadedVersion
from ringpull.loadtest.bench import width
from ringpull.ps.spec import Pooling, TableSpec
from tests.inference.onnx_models import graph_of

WIDTH = 24

pytestmark = pytest.mark.medium


@st.composite
def graphs(draw: st.DrawFn) -> tuple[onnx.ModelProto, list[int]]:
    """A graph that lays inputs side by side in any order, in one or two places, and uses some elsewhere; and widths."""
    dims = draw(st.lists(st.integers(1, 5), min_size=MIN_INPUTS, max_size=3 * MIN_INPUTS))
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


def test_a_packed_graph_gives_the_same_bits() -> None:
    compared = []

    @settings(max_examples=60, deadline=None)
    @given(made=graphs(), rows=st.integers(1, 5))
    def compare(made: tuple[onnx.ModelProto, list[int]], rows: int) -> None:
        found = packed(made[0])
        if found is not None:
            assert_same_bits(*made, found, rows)
            compared.append(found)

    compare()
    assert len(compared) > 10


def assert_same_bits(model: onnx.ModelProto, dims: list[int], found: PackedGraph, rows: int) -> None:
    random = np.random.default_rng(rows)
    given_ = {f"x{at}": random.standard_normal((rows, dim)).astype(np.float32) for at, dim in enumerate(dims)}
    names = [each.name for each in model.graph.output]
    expected = open_session(model.SerializeToString(), Path(), [], "cpu", 1).run(names, given_)
    own = dict(given_)
    for each in found.inputs:
        assert len(each.places) >= MIN_INPUTS
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
    [one_concat(0), one_concat(dtype=TensorProto.DOUBLE), one_concat(count=MIN_INPUTS - 1)],
    ids=["rows", "double", "few"],
)
def test_nothing_else_is_packed(model: onnx.ModelProto) -> None:
    assert packed(model) is None


def test_what_our_description_of_the_format_does_not_name_survives() -> None:
    """A number of a node, a text of the graph and the name of a dimension."""
    model = one_concat(used="x12")
    model.graph.node.append(helper.make_node("LeakyRelu", ["all"], ["leaky"], alpha=0.25))
    model.graph.output.append(helper.make_tensor_value_info("leaky", TensorProto.FLOAT, ["rows", 2 * WIDTH]))
    model.graph.doc_string = "what it is for"
    model.graph.input[12].doc_string = "stays"
    helper.set_model_props(model, {"author": "tests"})
    found = packed(model)
    assert found is not None
    kept = onnx.load_model_from_string(found.content)
    assert list(kept.graph.node)[1:] == list(model.graph.node)[1:]
    assert (kept.graph.doc_string, kept.metadata_props) == (model.graph.doc_string, model.metadata_props)
    assert kept.graph.input[0] == model.graph.input[12]
    assert_same_bits(model, [2] * WIDTH, found, 3)


def test_weights_in_files_beside_it_count_for_its_limit() -> None:
    content = one_concat().SerializeToString()
    inputs = graph_inputs(open_session(content, Path(), [], "cpu", 1).get_inputs())
    room = MAX_BYTES - len(content)
    assert packed_graph(content, inputs, range(WIDTH), room) is not None
    assert packed_graph(content, inputs, range(WIDTH), room + 1) is None


@pytest.mark.parametrize("more", [0, 1])
def test_a_version_with_large_weights_in_a_file_is_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    columns = np.random.default_rng(1).standard_normal((2 * WIDTH, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Concat", [f"x{at}" for at in range(WIDTH)], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "weight"], ["y"]),
    ]
    inputs = {f"x{at}": (TensorProto.FLOAT, ["rows", 2]) for at in range(WIDTH)}
    model = graph_of(nodes, inputs, {"y": (TensorProto.FLOAT, ["rows", 3])}, {"weight": columns})
    onnx.external_data_helper.convert_model_to_external_data(model, location=DATA_FILE, size_threshold=0)
    onnx.save_model(model, tmp_path / FILE)
    sizes = (tmp_path / FILE).stat().st_size, columns.nbytes
    monkeypatch.setattr("ringpull.inference.model.onnx_packing.MAX_BYTES", sum(sizes) - more)
    program = loaded(tmp_path, [2] * WIDTH, (3,), data=True)
    assert program.takes_flat == (more == 0)
    given_ = [np.full((4, 2), at, np.float32) for at in range(WIDTH)]
    found = program.run([ProgramTensor(each) for each in given_], 4)["y"]
    np.testing.assert_allclose(found, np.concatenate(given_, axis=1) @ columns, rtol=1e-4)


def loaded(folder: Path, dims: Sequence[int | None], shape: tuple[int, ...], *, data: bool = False) -> OnnxProgram:
    """Load a graph whose inputs are look-ups of tables of these widths; None: an argument."""
    tables = tuple(
        TableEntry(spec=TableSpec(name=f"table{at}", dim=dim), path=f"table{at}", rows=1, bytes=1)
        for at, dim in enumerate(dims)
        if dim is not None
    )
    lookups = [LookupSpec(table=each.spec.name, feature=each.spec.name, pooling=Pooling.NONE) for each in tables]
    at = iter(range(len(tables)))
    manifest = Manifest(
        model="any",
        version=1,
        created="now",
        runtime="onnxruntime",
        program=FileEntry.of(folder, FILE),
        program_data=(FileEntry.of(folder, DATA_FILE),) if data else (),
        tables=tables,
        lookups=tuple(lookups),
        inputs=tuple(
            ProgramInput(kind="argument", argument=f"a{place}")
            if dim is None
            else ProgramInput(kind="lookup", lookup=next(at))
            for place, dim in enumerate(dims)
        ),
        outputs=(ProgramOutput(name="y", shape=shape),),
    )
    return OnnxProgram.load(folder, manifest, "cpu", threads=1)


Shapes = list[list[Any]]
FIXED: Shapes = [["rows", 20, 16]]
OPEN: Shapes = [["rows", "steps", 16], ["rows", "steps"]]


def beside_lookups(more: Shapes) -> onnx.ModelProto:
    """Return a graph of ten look-ups side by side with what sums of each further input say."""
    names = [f"x{at}" for at in range(10)]
    nodes, sums = [], []
    inputs = {name: (TensorProto.FLOAT, ["rows", 16]) for name in names}
    for at, shape in enumerate(more):
        inputs[f"more{at}"] = TensorProto.FLOAT, shape
        axes = "all_axes" if len(shape) == 3 else "axis"
        nodes.append(helper.make_node("ReduceSum", [f"more{at}", axes], [f"sum{at}"], keepdims=0))
        nodes.append(helper.make_node("Unsqueeze", [f"sum{at}", "axis"], [f"column{at}"]))
        sums.append(f"column{at}")
    if more is OPEN:  # of one length, or it does not run
        nodes.append(helper.make_node("Unsqueeze", ["more1", "last"], ["mask"]))
        nodes.append(helper.make_node("Mul", ["more0", "mask"], ["masked"]))
        nodes.append(helper.make_node("ReduceSum", ["masked", "all_axes"], ["sum"], keepdims=0))
        nodes.append(helper.make_node("Unsqueeze", ["sum", "axis"], ["column"]))
        sums.append("column")
    nodes.append(helper.make_node("Concat", [*names, *sums], ["y"], axis=1))
    weights = {"axis": np.array([1]), "all_axes": np.array([1, 2]), "last": np.array([2])}
    return graph_of(nodes, inputs, {"y": (TensorProto.FLOAT, ["rows", 160 + len(sums)])}, weights)


@pytest.mark.parametrize("more", [FIXED, OPEN], ids=["fixed", "open"])
def test_other_inputs_do_not_keep_lookups_from_being_packed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, more: Shapes
) -> None:
    model = beside_lookups(more)
    onnx.save_model(model, tmp_path / FILE)
    with caplog.at_level("INFO"):
        dims = [16] * 10 + [16 if len(shape) == 3 else None for shape in more]
        program = loaded(tmp_path, dims, (model.graph.output[0].type.tensor_type.shape.dim[1].dim_value,))
    assert not caplog.records
    assert program.takes_flat


@pytest.mark.parametrize(("size", "packs"), [(1, True), (8, True), (5, False)])
def test_a_graph_that_could_not_be_compared_is_not_packed_and_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int, packs: bool
) -> None:
    """Its free dimension has a size that it does not say: numbers are multiplied by as many."""
    model = beside_lookups([])
    model.graph.input.append(helper.make_tensor_value_info("some", TensorProto.FLOAT, ["rows", "any"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((size, 1), np.float32), "ones"))
    model.graph.node.insert(0, helper.make_node("MatMul", ["some", "ones"], ["product"]))
    model.graph.node[-1].input.append("product")
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value += 1
    onnx.save_model(model, tmp_path / FILE)
    with caplog.at_level("INFO"):
        program = loaded(tmp_path, [16] * 10 + [None], (161,))
    assert program.takes_flat == packs
    logged = [(each.levelname, "could not be compared" in each.message) for each in caplog.records]
    assert logged == ([] if packs else [("INFO", True)])
    given_ = [ProgramTensor(np.ones((2, 16), np.float32))] * 10 + [ProgramTensor(np.ones((2, size), np.float32))]
    assert program.run(given_, 2)["y"][:, -1].tolist() == [size, size]


def test_whatever_packing_raises_the_version_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    onnx.save_model(beside_lookups([]), tmp_path / FILE)

    def broken(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("ringpull.inference.model.onnx_program.packed_graph", broken)
    program = loaded(tmp_path, [16] * 10, (160,))
    assert not program.takes_flat
    assert "its inputs are not packed: RecursionError: too deep" in caplog.text


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


def test_widths_that_only_add_up_are_refused(programs) -> None:
    for program in programs:
        inputs = [ProgramTensor(np.zeros((3, width.DIM), np.float32)) for _ in range(WIDTH)]
        inputs[5] = ProgramTensor(np.zeros((3, width.DIM - 1), np.float32))
        inputs[6] = ProgramTensor(np.zeros((3, width.DIM + 1), np.float32))
        with pytest.raises(Exception, match=r"lookup 5 .* the shape \(3, 7\)|Got invalid dimensions for input"):
            program.run(inputs, 3)


def flat_inputs(**other: Any) -> FlatInputs:
    """Return two inputs of two numbers for three rows of two requests, the second sent as context."""
    fields = {
        "vectors": np.arange(10, dtype=np.float32),
        "begins": np.array([0, 6]),
        "dims": np.array([2, 2]),
        "context": np.array([0, 1]),
        "requests": 2,
        "row_index": np.array([0, 0, 1]),
        "rows": 3,
        "others": {},
    }
    return FlatInputs(**{**fields, **other})


def test_flat_inputs_are_a_sequence() -> None:
    inputs = flat_inputs(begins=np.array([0, -1]), others={1: ProgramTensor(np.zeros((3, 2), np.float32))})
    assert inputs[-1] is inputs[1] is inputs.others[1]
    assert inputs[-2].values.tolist() == inputs[0].values.tolist() == [[0, 1], [2, 3], [4, 5]]
    for place in (2, -3):
        with pytest.raises(IndexError):
            inputs[place]


@pytest.mark.parametrize(
    "other",
    [
        {"vectors": np.zeros(9, np.float32)},
        {"begins": np.array([5, 6])},
        {"row_index": np.array([0, 1, 2])},
        {"row_index": np.array([0, -1, 1])},
        {"row_index": np.array([0, 1])},
        {"row_index": None},
        {"requests": 3},
    ],
    ids=["short", "late", "no such request", "negative", "few rows", "rows are no requests", "more requests"],
)
def test_nothing_beyond_the_vectors_is_read(other: dict[str, Any]) -> None:
    whole, both = flat_inputs(), (np.array([0, 1]), np.array([2, 2]))
    found = whole.side_by_side(*both)
    assert found is not None
    assert found.tolist() == [[0, 1, 6, 7], [2, 3, 6, 7], [4, 5, 8, 9]]
    with pytest.raises(ValueError, match=r"vectors of inputs end at|rows of 2 requests"):
        flat_inputs(**other).side_by_side(*both)


@pytest.mark.parametrize(
    ("columns", "width"), [([0, 3], 4), ([-1, 2], 4), ([0, 2], 3)], ids=["behind", "before", "narrow"]
)
def test_nothing_is_written_beyond_a_row(columns: list[int], width: int) -> None:
    both = np.array([0, 1]), np.array([2, 2])
    found = flat_inputs().side_by_side(*both, np.array([3, 0]), 5)
    assert found is not None
    assert np.delete(found, 2, axis=1).tolist() == [[6, 7, 0, 1], [6, 7, 2, 3], [8, 9, 4, 5]]
    with pytest.raises(ValueError, match="of rows of"):
        flat_inputs().side_by_side(*both, np.array(columns), width)


def test_a_part_of_flat_inputs_is_of_the_same_rows() -> None:
    dense, sent = np.arange(3, dtype=np.float32).reshape(3, 1), np.ones((2, 1), np.float32)
    index = np.array([0, 0, 1])
    fields = {
        "begins": np.array([0, 6, -1, -1]),
        "dims": np.array([2, 2, 0, 0]),
        "context": np.array([0, 1, 0, 0]),
        "others": {2: ProgramTensor(dense), 3: ProgramTensor(sent, index)},
    }
    each_its_own = {"row_index": None, "requests": 3, "vectors": np.arange(12, dtype=np.float32)}
    for whole in (flat_inputs(**fields), flat_inputs(**fields, **each_its_own)):
        for rows in (slice(0, 3), slice(0, 1), slice(1, 3), slice(2, 3)):
            part = whole.part(rows)
            assert part.rows == rows.stop - rows.start
            for one, other in zip(part, whole, strict=True):
                cut, expected = (
                    each.values if each.row_index is None else each.values[each.row_index] for each in (one, other)
                )
                assert cut.tolist() == expected[rows].tolist()


def test_a_packed_graph_that_gives_other_bits_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
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
    assert [(each.levelname, "scores differ" in each.message) for each in caplog.records] == [("WARNING", True)]
