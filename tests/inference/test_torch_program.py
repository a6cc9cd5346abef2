"""The dense program: loading verifies it against the manifest; running takes any number of rows, broadcast or not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.manifest import FileEntry, LookupSpec, Manifest, ProgramInput, ProgramOutput, TableEntry
from ringpull.inference.model.torch_program import CPU_ROWS, TorchProgram
from ringpull.inference.model.torch_script import scripted
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import Pooling, TableSpec

DIM = 4


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(9, DIM), nn.Embedding(9, DIM)

    def forward(self, user: Tensor, history: Tensor, age: Tensor) -> dict[str, Tensor]:
        vectors = self.user(user) * age
        return {"score": (vectors + self.item(history).relu().sum(1)).sum(1), "vector": vectors.double()}


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    schema = Schema([Sparse("user"), IdSequence("history", 3), Dense("age")])
    folder = tmp_path_factory.mktemp("models") / "model"
    return export_model(Model(), schema, folder, 1, check_rows=4, quiet=True).path


@pytest.fixture(scope="module")
def program(version: Path) -> TorchProgram:
    return TorchProgram.load(version, Manifest.load(version), "cpu")


def inputs_of(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(rows)
    return (
        random.standard_normal((rows, DIM), np.float32),
        random.standard_normal((rows, 3, DIM), np.float32),
        random.standard_normal((rows, 1), np.float32),
    )


@pytest.mark.parametrize("rows", [1, 2, 3, 64, CPU_ROWS, CPU_ROWS + 1, 2 * CPU_ROWS + 76])
def test_any_number_of_rows(program: TorchProgram, rows: int) -> None:
    user, history, age = inputs_of(rows)
    outputs = program.run([ProgramTensor(user), ProgramTensor(history), ProgramTensor(age)], rows)
    assert outputs["score"].shape == (rows,)
    np.testing.assert_allclose(
        outputs["score"], (user * age + np.maximum(history, 0).sum(1)).sum(1), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(outputs["vector"], user * age, rtol=1e-6)
    assert all(values.dtype == np.float32 and values.flags.writeable for values in outputs.values())


@pytest.mark.parametrize("rows", [1, 5])
def test_context_is_spread_over_its_rows(program: TorchProgram, rows: int) -> None:
    """A context value travels once per request; rows 0, 1, 1, ... take it by index."""
    user, history, age = inputs_of(rows)
    index = np.minimum(np.arange(rows), 1)
    spread = program.run([ProgramTensor(user[:2], index), ProgramTensor(history), ProgramTensor(age[:2], index)], rows)
    whole = program.run([ProgramTensor(user[index]), ProgramTensor(history), ProgramTensor(age[index])], rows)
    for name, values in whole.items():
        assert np.array_equal(spread[name], values)


def test_read_only_arrays_are_taken(program: TorchProgram) -> None:
    arrays = [np.frombuffer(array.tobytes(), np.float32).reshape(array.shape) for array in inputs_of(3)]
    index = np.arange(3)
    index.flags.writeable = False
    outputs = program.run([ProgramTensor(arrays[0], index), *map(ProgramTensor, arrays[1:])], 3)
    assert outputs["score"].shape == (3,)


def test_the_wrong_number_of_inputs_or_rows(program: TorchProgram) -> None:
    user, history, age = map(ProgramTensor, inputs_of(3))
    with pytest.raises(InvalidInput, match="2 inputs of 3 rows; the dense program takes 3"):
        program.run([user, history], 3)
    with pytest.raises(InvalidInput, match="input lookup 0 of the dense program has 3 rows; the batch has 4"):
        program.run([user, history, age], 4)
    with pytest.raises(InvalidInput, match="of 0 rows"):
        program.run([user, history, age], 0)


def test_it_says_where_it_runs(program: TorchProgram) -> None:
    assert repr(program) == "<TorchProgram 3 inputs, 2 outputs, on cpu>"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_cuda_where_there_is_none(version: Path) -> None:
    manifest = Manifest.load(version)
    assert TorchProgram.load(version, manifest).device == "cpu"
    with pytest.raises(InvalidInput, match="torch finds no CUDA"):
        TorchProgram.load(version, manifest, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_what_the_cpu_gives(version: Path, program: TorchProgram) -> None:
    on_gpu = TorchProgram.load(version, Manifest.load(version))
    assert on_gpu.device == "cuda"
    user, history, age = inputs_of(7)
    tensors = [ProgramTensor(user[:2], np.arange(7) % 2), ProgramTensor(history), ProgramTensor(age)]
    expected, actual = program.run(tensors, 7), on_gpu.run(tensors, 7)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-5, atol=1e-5)


# -- damage ------------------------------------------------------------------------------------------------------------


def test_a_flipped_byte(version: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(version)
    content = bytearray((version / "dense.pt2").read_bytes())
    for place in (0, len(content) // 2, len(content) - 1):
        damaged = content.copy()
        damaged[place] ^= 0x10
        (tmp_path / "dense.pt2").write_bytes(damaged)
        with pytest.raises(CorruptData, match=r"dense\.pt2: the checksum"):
            TorchProgram.load(tmp_path, manifest)


@pytest.mark.parametrize("content", [b"", b"not a program", b"PK\x03\x04" + bytes(100)], ids=["empty", "text", "zip"])
def test_a_file_that_is_no_program(version: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dense.pt2").write_bytes(content)
    manifest = dataclasses.replace(Manifest.load(version), program=FileEntry.of(tmp_path, "dense.pt2"))
    with pytest.raises(CorruptData, match=r"dense\.pt2: not a program that torch .* reads"):
        TorchProgram.load(tmp_path, manifest)


def with_table(manifest: Manifest, dim: int) -> Manifest:
    user, *others = manifest.tables
    entry = TableEntry(spec=TableSpec(name=user.spec.name, dim=dim), path=user.path, rows=user.rows, bytes=user.bytes)
    return dataclasses.replace(manifest, tables=(entry, *others))


def test_widths_that_disagree_with_the_tables(version: Path) -> None:
    manifest = with_table(Manifest.load(version), DIM + 1)
    match = (
        rf"input for lookup 0 is torch\.float32 \(rows, {DIM}\), but table user has float32 rows of {DIM + 1} numbers"
    )
    with pytest.raises(CorruptData, match=match):
        TorchProgram.load(version, manifest)


def test_a_pooled_input_cannot_be_a_sequence(version: Path) -> None:
    manifest = Manifest.load(version)
    user, _ = manifest.lookups
    pooled = LookupSpec(table="item", feature="history", pooling=Pooling.SUM)
    with pytest.raises(CorruptData, match=r"input for lookup 1 is torch\.float32 \(rows, 3, 4\)"):
        TorchProgram.load(version, dataclasses.replace(manifest, lookups=(user, pooled)))


def test_inputs_and_outputs_that_are_not_the_manifests(version: Path) -> None:
    manifest = Manifest.load(version)
    more = (*manifest.inputs, ProgramInput(kind="argument", argument="more"))
    with pytest.raises(CorruptData, match="takes 3 inputs; the manifest names 4"):
        TorchProgram.load(version, dataclasses.replace(manifest, inputs=more))
    with pytest.raises(CorruptData, match=r"gives outputs of the shapes \[\(\), \(4,\)\] per row"):
        TorchProgram.load(version, dataclasses.replace(manifest, outputs=(ProgramOutput(name="a", shape=()),)))


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x * 2,)


class Counted(nn.Module):
    """Its number of rows is a Python number: a script would keep that of the rows it was traced with."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x * len(x),)


def test_an_exported_program_is_a_script(program: TorchProgram) -> None:
    """What torch makes of a program checks sizes from Python, which no script can hold: it would be eager, unseen."""
    assert program.runtime.eager_because == ""


class Capped(nn.Module):
    """It goes one way or the other by values that made-up inputs never have."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (torch.cond((x > 1).any(), lambda x: x.clamp(max=1.0), lambda x: x.clone(), (x,)),)


class Measured(nn.Module):
    """It has a Python number of a value; made-up inputs of integers are zeros."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        longest = x.max().item()
        return (torch.where(x < longest, x, 0).float(),)


@pytest.mark.parametrize(("module", "x"), [(Capped(), torch.rand(3, DIM)), (Measured(), torch.arange(6).view(3, 2))])
def test_a_program_that_goes_by_values_is_no_script(module: nn.Module, x: Tensor) -> None:
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()
    run, eager_because = scripted(exported, [x], torch.device("cpu"))
    assert "by values" in eager_because
    assert torch.equal(run(2 * x)[0], module(2 * x)[0])


@pytest.mark.parametrize(
    ("module", "why"), [(Doubled(), ""), (Counted(), "a script gives something else for other numbers of rows")]
)
def test_a_script_is_used_only_where_it_repeats_the_program(module: nn.Module, why: str) -> None:
    run, eager_because = scripted(module, [torch.empty(3, DIM)], torch.device("cpu"))
    assert (isinstance(run, torch.jit.ScriptFunction), eager_because) == (not why, why)
    for rows in (1, 2, 70):
        x = torch.ones(rows, DIM)
        assert torch.equal(run(x)[0], module(x)[0])
