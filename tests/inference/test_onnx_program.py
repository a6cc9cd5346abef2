"""The dense program of onnxruntime: what it takes, gives and refuses, against numpy and torch's program."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.model.dense_program import DenseProgram, ProgramTensor, load_program
from ringpull.inference.model.manifest import FileEntry, Manifest, ProgramInput, ProgramOutput
from ringpull.inference.model.onnx_inputs import GraphInput
from ringpull.inference.model.onnx_program import CPU_ROWS, OnnxProgram
from ringpull.inference.model.onnx_session import open_session
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData, InvalidInput
from tests.inference import onnx_models
from tests.inference.export.versions import Exported
from tests.inference.onnx_models import DIM, GENRE, WEIGHT, WIDTH, graph_of
from tests.reference import assert_close

pytestmark = pytest.mark.medium

F, D, I8 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_models.write(tmp_path_factory.mktemp("models") / "ranker").path


@pytest.fixture(scope="module")
def program(version: Path) -> DenseProgram:
    return load_program(version, Manifest.load(version), "cpu", threads=1)


GOLDEN = Path(__file__).parent.parent / "golden/format-3/models/ranker/1"


def tensors(rows: int, seed: int = 1) -> list[ProgramTensor]:
    random = np.random.default_rng(seed)
    widths = (DIM, DIM, WIDTH)
    floats = [ProgramTensor(random.standard_normal((rows, width)).astype(np.float32)) for width in widths]
    return [*floats, ProgramTensor(random.integers(0, len(GENRE), rows))]


def expected(inputs: list[ProgramTensor]) -> dict[str, np.ndarray]:
    user, tags, age, genre = (each.values if each.row_index is None else each.values[each.row_index] for each in inputs)
    logits = np.concatenate([user, tags, GENRE[genre], age], axis=1).astype(np.float64) @ WEIGHT
    return {"click": 1 / (1 + np.exp(-logits)), "norm": user.sum(1, dtype=np.float64)}


def assert_gives(program: DenseProgram, inputs: list[ProgramTensor], rows: int) -> None:
    found = program.run(inputs, rows)
    assert list(found) == ["click", "norm"]
    for name, values in expected(inputs).items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)
        found[name][:] = 0  # the caller's own


@pytest.mark.parametrize("rows", [1, 2, 7, CPU_ROWS, CPU_ROWS + 1, 3 * CPU_ROWS + 5])
def test_any_number_of_rows(program: DenseProgram, rows: int) -> None:
    inputs = tensors(rows)
    assert_gives(program, inputs, rows)
    assert_gives(program, inputs, rows)


def test_context_is_spread_over_its_rows(program: DenseProgram) -> None:
    index = np.array([0, 1, 1, 0, 1])
    user, tags, age, genre = tensors(5)
    inputs = [ProgramTensor(user.values[:2], index), tags, ProgramTensor(age.values[:2], index), genre]
    assert_gives(program, inputs, 5)


def test_arrays_that_are_read_only_or_askew_are_taken(program: DenseProgram) -> None:
    inputs = []
    for each in tensors(6):
        values = np.repeat(each.values, 2, axis=-1)[..., ::2] if each.values.ndim > 1 else each.values
        values.flags.writeable = False
        inputs.append(ProgramTensor(values))
    assert_gives(program, inputs, 6)


def test_the_wrong_number_of_inputs_or_rows(program: DenseProgram) -> None:
    inputs = tensors(3)
    with pytest.raises(InvalidInput, match="3 inputs of 3 rows; the dense program takes 4"):
        program.run(inputs[:3], 3)
    with pytest.raises(InvalidInput, match="input lookup 0 of the dense program has 3 rows; the batch has 4"):
        program.run(inputs, 4)


def test_it_says_what_runs_it(program: DenseProgram) -> None:
    runtime = program.runtime
    assert (runtime.name, runtime.version) == ("onnxruntime", onnxruntime.__version__)
    assert (runtime.provider, runtime.threads) == ("CPUExecutionProvider", 1)
    assert (program.device, program.writer) == ("cpu", "")
    assert repr(program) == "<OnnxProgram 4 inputs, 2 outputs, on cpu>"


def test_its_threads_and_memory_are_bounded(program: DenseProgram) -> None:
    assert isinstance(program, OnnxProgram)
    options = program._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.use_env_allocators") == "1"
    assert not options.enable_mem_pattern


def test_devices(version: Path) -> None:
    manifest = Manifest.load(version)
    for device, message in {
        "cuda": "has no CUDA: install onnxruntime-gpu in its place, or use 'cpu'",
        "tpu": "device is 'tpu'; onnxruntime computes on 'cpu'",
    }.items():
        if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            continue
        with pytest.raises(InvalidInput, match=message):
            load_program(version, manifest, device)


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives(version: Path) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA")
    program = load_program(version, Manifest.load(version), "cuda")
    assert (program.device, program.runtime.provider) == ("cuda", "CUDAExecutionProvider")
    found = program.run(tensors(7), 7)
    for name, values in expected(tensors(7)).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-3)


# -- types -------------------------------------------------------------------------------------------------------------


def loaded(folder: Path, model: onnx.ModelProto, outputs: Mapping[str, tuple[int, ...]]) -> DenseProgram:
    """Load a model whose inputs are arguments."""
    (folder / "dense.onnx").write_bytes(model.SerializeToString())
    manifest = Manifest(
        model="any",
        version=1,
        created="now",
        runtime="onnxruntime",
        program=FileEntry.of(folder, "dense.onnx"),
        tables=(),
        inputs=tuple(ProgramInput(kind="argument", argument=each.name) for each in model.graph.input),
        outputs=tuple(ProgramOutput(name=name, shape=shape) for name, shape in outputs.items()),
    )
    return load_program(folder, manifest, "cpu", threads=1)


def identity(kind: int, shape: list[Any]) -> onnx.ModelProto:
    return graph_of([helper.make_node("Identity", ["x"], ["y"])], {"x": (kind, shape)}, {"y": (kind, shape)})


def once(folder: Path, model: onnx.ModelProto, values: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
    values = np.asarray(values)
    return loaded(folder, model, {"y": shape}).run([ProgramTensor(values)], len(values))["y"]


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "FLOAT16", "INT8", "UINT8", "INT16", "UINT32", "INT64", "UINT64"])
def test_numbers_are_given_as_the_graph_takes_them(tmp_path: Path, kind: str) -> None:
    model = identity(getattr(TensorProto, kind), ["rows"])
    for dtype in (np.float32, np.int64):
        found = once(tmp_path, model, np.array([0, 1, 100], dtype))
        assert found.dtype == np.float32
        assert found.tolist() == [0, 1, 100]


def test_booleans_are_what_is_not_0(tmp_path: Path) -> None:
    assert once(tmp_path, identity(TensorProto.BOOL, ["rows"]), [0, 1, -3]).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("INT32", [1, 2**31], "int32; 2147483648 of row 1 is no such number"),
        ("INT32", [1, 2, -(2**31) - 1], "of row 2 is no such number"),
        ("UINT8", [-1], "uint8; -1 of row 0"),
        ("UINT64", [3, -1], "uint64; -1 of row 1"),
        ("INT64", np.array([1, 1.5], np.float32), "int64; 1.5 of row 1"),
        ("INT32", np.array([np.nan, 1], np.float32), "int32; nan of row 0"),
    ],
)
def test_a_number_that_an_input_does_not_hold_is_no_other_one(
    tmp_path: Path, kind: str, values: Any, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        once(tmp_path, identity(getattr(TensorProto, kind), ["rows"]), values)


def test_a_column_of_one_is_taken_flat_and_the_other_way_around(tmp_path: Path) -> None:
    assert once(tmp_path, identity(F, ["rows", 1]), np.float32([1, 2]), (1,)).tolist() == [[1], [2]]
    assert once(tmp_path, identity(F, ["rows"]), np.float32([[1], [2]])).tolist() == [1, 2]
    assert GraphInput("x", np.dtype(np.float32), 3, 1).fit(np.ones((2, 5), np.float32)).shape == (2, 5, 1)


def test_a_graph_that_squeezes_whatever_is_one_is_run_for_one_row(tmp_path: Path) -> None:
    node = helper.make_node("Squeeze", ["x"], ["y"])
    model = graph_of([node], {"x": (F, ["rows", 1])}, {"y": (F, ["rows"])})
    for rows in (1, 2, CPU_ROWS + 1):
        values = np.arange(rows, dtype=np.float32)
        assert once(tmp_path, model, values[:, None]).tolist() == values.tolist()


def test_wide_outputs_become_float32(tmp_path: Path) -> None:
    random = np.random.default_rng(3).standard_normal(5)
    assert once(tmp_path, identity(D, ["rows"]), random).tolist() == random.astype(np.float32).tolist()
    huge = once(tmp_path, identity(D, ["rows"]), np.array([1e300, np.nan]))
    assert np.isinf(huge[0])
    assert np.isnan(huge[1])


def test_integers_are_exact_or_an_error(tmp_path: Path) -> None:
    assert once(tmp_path, identity(I8, ["rows"]), [1 << 24, -(1 << 24)]).tolist() == [1 << 24, -(1 << 24)]
    for value in ((1 << 24) + 1, -(1 << 24) - 1, -(2**63)):
        with pytest.raises(InvalidInput, match=f"output y is an integer, {value}, which float32 does not hold"):
            once(tmp_path, identity(I8, ["rows"]), [3, value])


# -- refused -----------------------------------------------------------------------------------------------------------


def relu(*, opset: int = 17, ir_version: int = 9, operator: str = "Relu", domain: str = "") -> onnx.ModelProto:
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    return graph_of([node], {"x": (F, ["rows"])}, {"y": (F, ["rows"])}, opset=opset, ir_version=ir_version)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (relu(ir_version=99), r"not a program that onnxruntime .* runs: it is of IR version 99 .* written by tests"),
        (relu(opset=99), r".* operator sets ai\.onnx 99, .*install a newer onnxruntime .*[Oo]pset 99"),
        (relu(operator="Tomorrow"), r"not a program that onnxruntime .* runs: .*Tomorrow"),
        (identity(F, [4]), r"its output 'y' has the shape \(4,\); the manifest says \(rows,"),
        (identity(F, ["rows", 3]), r"its output 'y' has the shape \(None, 3\); the manifest says"),
        (identity(TensorProto.STRING, ["rows"]), "its output 'y' is a tensor of strings"),
    ],
)
def test_what_this_onnxruntime_does_not_run_is_refused_by_name(
    tmp_path: Path, model: onnx.ModelProto, said: str
) -> None:
    with pytest.raises(CorruptData, match=rf"dense\.onnx: {said}"):
        loaded(tmp_path, model, {"y": ()})


def test_inputs_that_no_feature_gives_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Shape", ["x"], ["y"])
    model = graph_of([node], {"x": (TensorProto.STRING, ["rows"])}, {"y": (I8, ["rows"])})
    with pytest.raises(CorruptData, match=r"input 'x' is tensor\(string\), which no feature gives: give the "):
        loaded(tmp_path, model, {"y": ()})
    model = graph_of([helper.make_node("Shape", ["x"], ["y"])], {"x": (F, [8])}, {"y": (I8, ["rows"])})
    with pytest.raises(CorruptData, match=r"'x' for argument 'x' has the shape \[8\]; its first dimension must be any"):
        loaded(tmp_path, model, {"y": ()})


def test_an_output_without_a_row_each_is_an_error(tmp_path: Path) -> None:
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)
    program = loaded(tmp_path, graph_of([node], {"x": (F, ["rows"])}, {"y": (F, ["rows"])}), {"y": ()})
    with pytest.raises(InvalidInput, match=r"output y of the dense program has the shape \(1,\) for 2 rows"):
        program.run([ProgramTensor(np.ones(2, np.float32))], 2)


def test_what_does_not_fit_the_manifest_is_refused(version: Path) -> None:
    manifest = Manifest.load(version)
    narrow = [dataclasses.replace(each, spec=dataclasses.replace(each.spec, dim=3)) for each in manifest.tables]
    for changed, said in (
        ({"tables": tuple(narrow)}, r"'user' for lookup 0 is tensor\(float\) .*float32 rows of 3 numbers"),
        ({"inputs": manifest.inputs[:3]}, "takes 4 inputs; the manifest names 3"),
        ({"outputs": manifest.outputs[:1]}, "gives 2 outputs; the manifest names 1"),
    ):
        with pytest.raises(CorruptData, match=said):
            load_program(version, dataclasses.replace(manifest, **changed), "cpu")


def test_memory_of_a_run_ends_before_that_of_the_machine(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Mul", ["size", "many"], ["huge"]),
        helper.make_node("Expand", ["x", "huge"], ["wide"]),
        helper.make_node("ReduceSum", ["wide"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    model = graph_of(nodes, {"x": (F, ["rows"])}, {"y": (F, ["rows"])}, {"many": np.array([10**12])})
    program = loaded(tmp_path, model, {"y": ()})
    with pytest.raises(Exception, match=r"Available memory|allocate memory|bad allocation"):
        program.run([ProgramTensor(np.ones(1, np.float32))], 1)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array([1]), "many"))
    assert once(tmp_path, model, np.float32([2])).tolist() == [4]


# -- beside torch ------------------------------------------------------------------------------------------------------


class Clicks(nn.Module):
    """The model of `onnx_models` in torch, its tables one id each."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding.from_pretrained(torch.from_numpy(onnx_models.USER))
        self.tags = nn.Embedding.from_pretrained(torch.from_numpy(onnx_models.TAG))
        self.out = nn.Linear(2 * DIM + WIDTH, 2)

    def forward(self, user: Tensor, tags: Tensor, age: Tensor) -> Tensor:
        return self.out(torch.cat([self.user(user), self.tags(tags), age], 1)).sigmoid()


def test_it_gives_what_torchs_program_of_the_same_model_gives(tmp_path: Path) -> None:
    torch.manual_seed(2)
    module, schema = Clicks().eval(), Schema([Sparse("user"), Sparse("tags"), Dense("age", width=WIDTH)])
    theirs = Exported(export_model(module, schema, tmp_path / "torch", 1, check_rows=0, quiet=True).path)
    nodes = [
        helper.make_node("Concat", ["user", "tags", "age"], ["all"], axis=1),
        helper.make_node("Gemm", ["all", "weight", "bias"], ["logits"], transB=1),
        helper.make_node("Sigmoid", ["logits"], ["output"]),
    ]
    names = {"user": DIM, "tags": DIM, "age": WIDTH}
    model = graph_of(
        nodes,
        {name: (F, ["rows", width]) for name, width in names.items()},
        {"output": (F, ["rows", 2])},
        {"weight": module.out.weight.detach().numpy(), "bias": module.out.bias.detach().numpy()},
    )
    program = loaded(tmp_path, model, {"output": (2,)})
    random = np.random.default_rng(4)
    for rows in (1, 3, 300):
        inputs = [ProgramTensor(random.standard_normal((rows, width)).astype(np.float32)) for width in names.values()]
        np.testing.assert_allclose(
            program.run(inputs, rows)["output"], theirs.program.run(inputs, rows)["output"], rtol=1e-5, atol=1e-6
        )
    runtime = theirs.program.runtime
    assert (runtime.name, runtime.version, runtime.provider) == ("torch", torch.__version__, "cpu")


def test_a_session_gives_the_bits_of_one_that_looks_inputs_over() -> None:
    """onnxruntime's Python compares the name of each input with those of all; the core finds one that is missing."""
    names = [f"x{number}" for number in range(40)]
    model = graph_of(
        [helper.make_node("Concat", names, ["c"], axis=1), helper.make_node("Sigmoid", ["c"], ["y"])],
        {name: (F, ["rows", 2]) for name in names},
        {"y": (F, ["rows", 80])},
    ).SerializeToString()
    given = {name: np.random.default_rng(seed).standard_normal((3, 2), np.float32) for seed, name in enumerate(names)}
    (expected,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, given)
    session = open_session(model, Path(), (), "cpu", 1)
    np.testing.assert_array_equal(session.run(["y"], given)[0], expected)
    del given["x7"]
    with pytest.raises(Exception, match="x7"):  # onnxruntime's have no root of their own
        session.run(["y"], given)


def test_a_head_of_such_versions_loads_no_torch(version: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import ringpull.inference.head.process;"
        "from ringpull.inference.model.version import LoadedVersion;"
        f"LoadedVersion.load(Path({str(version)!r}), device='cpu', threads=1);"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules and 'onnxruntime' in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_version_loads_with_its_program(version: Path) -> None:
    found = LoadedVersion.load(version, device="cpu", threads=1)
    assert isinstance(found.program, OnnxProgram)
    assert found.samples is not None


def test_a_version_of_the_first_build_that_had_them_is_read() -> None:
    golden = Exported(GOLDEN)
    assert (golden.manifest.runtime, golden.manifest.program_data) == ("onnxruntime", ())
    columns = {
        "user": np.array([0, onnx_models.USERS - 1, onnx_models.USERS]),
        "tags": [[1, 1], [], [29, 30]],
        "age": np.arange(9, dtype=np.float32).reshape(3, 3),
        "genre": np.array([4, 0, 2]),
    }
    schema = onnx_models.SCHEMA
    assert golden.schema.to_json() == schema.to_json()
    found = golden.score(columns, 3)
    for name, values in onnx_models.scores(schema.arguments(schema.prepare(columns, 3))).items():
        assert_close(found[name], values, largest=10.0)
