"""Packed inputs of a torch program: the bits of what it gives without, whatever it lays side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.model import torch_program
from ringpull.inference.model.dense_program import Precision, ProgramTensor
from ringpull.inference.model.flat_inputs import FlatInputs
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.packed_inputs import MIN_INPUTS
from ringpull.inference.model.torch_packing import packed_module
from ringpull.inference.model.torch_program import CPU_ROWS, TorchProgram
from ringpull.inference.model.torch_script import scripted
from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import InvalidInput

DIM = 4
NAMES = tuple(f"f{number}" for number in range(MIN_INPUTS + 2))
REQUESTS = 3
CAT, STACK = torch.ops.aten.cat.default, torch.ops.aten.stack.default


class Model(nn.Module):
    """Lays its vectors side by side; `around` of what it computes lies before, among or behind them."""

    def __init__(self, join: str, around: str, reused: int | None = None, kind: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.tables = nn.ModuleDict({name: nn.Embedding(9, DIM) for name in NAMES})
        self.numbers = nn.Linear(3, DIM)
        self.hidden = nn.Linear((len(NAMES) + len(around)) * DIM, 8)
        self.top = nn.Linear(8, 2)
        self.join, self.around, self.reused, self.kind = join, around, reused, kind

    def forward(
        self,
        dense: Tensor,
        f0: Tensor,
        f1: Tensor,
        f2: Tensor,
        f3: Tensor,
        f4: Tensor,
        f5: Tensor,
        f6: Tensor,
        f7: Tensor,
        f8: Tensor,
        f9: Tensor,
    ) -> dict[str, Tensor]:
        ids = (f0, f1, f2, f3, f4, f5, f6, f7, f8, f9)
        vectors = [self.tables[name](each) for name, each in zip(NAMES, ids, strict=True)]
        own = self.numbers(dense)
        parts = list(vectors)
        for where in self.around:
            parts.insert({"<": 0, "|": len(parts) // 2, ">": len(parts)}[where], own)
        joined = torch.stack(parts, 1) if self.join == "stack" else torch.cat(parts, dim=-1)
        score = self.top(self.hidden(joined.flatten(1)).relu()).to(self.kind)
        return {"score": score, "joined": joined.flatten(1) if self.reused is None else vectors[self.reused]}


def exported(folder: Path, model: nn.Module) -> tuple[Path, Manifest]:
    schema = Schema([Dense("dense", width=3), *(Sparse(name) for name in NAMES)])
    path = export_model(model, schema, folder / "model", 1, check_rows=4, quiet=True).path
    return path, Manifest.load(path)


def lookups_of(manifest: Manifest) -> list[int]:
    return [place for place, each in enumerate(manifest.inputs) if each.lookup is not None]


def both(
    path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, precision: Precision = "float32"
) -> tuple[TorchProgram, TorchProgram]:
    """Return a program with packed inputs, and without."""
    packed = TorchProgram.load(path, manifest, "cpu", precision=precision)
    with monkeypatch.context() as patch:
        patch.setattr(torch_program, "packed_module", lambda *_: None)
        return packed, TorchProgram.load(path, manifest, "cpu", precision=precision)


def inputs_of(manifest: Manifest, rows: int) -> tuple[list[ProgramTensor], FlatInputs]:
    """Return inputs one by one, every other look-up of a context, and flat."""
    random = np.random.default_rng(rows)
    index = np.sort(random.integers(REQUESTS, size=rows))
    tensors: list[ProgramTensor] = []
    begins, dims, context = (np.zeros(len(manifest.inputs), np.int64) for _ in range(3))
    parts, others, begin = [], {}, 0
    for place, entry in enumerate(manifest.inputs):
        if entry.lookup is None:
            tensors.append(ProgramTensor(random.standard_normal((rows, 3), np.float32)))
            begins[place], others[place] = -1, tensors[-1]
            continue
        context[place], begins[place], dims[place] = place % 2, begin, DIM
        own = random.standard_normal((REQUESTS if place % 2 else rows, DIM), np.float32)
        tensors.append(ProgramTensor(own, index if place % 2 else None))
        parts.append(own.reshape(-1))
        begin += own.size
    return tensors, FlatInputs(np.concatenate(parts), begins, dims, context, REQUESTS, index, rows, others)


def bits(program: TorchProgram, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, tuple[object, bytes]]:
    return {name: (values.shape, values.tobytes()) for name, values in program.run(inputs, rows).items()}


@pytest.mark.parametrize("numbers", ["normal", "any bits"])
def test_rows_in_bfloat16_are_rounded_as_torch_rounds_them(numbers: str) -> None:
    random = np.random.default_rng(3)
    vectors = random.integers(2**32, size=2 * 50 * 64, dtype=np.uint32).view(np.float32)
    if numbers == "normal":
        vectors = random.standard_normal(vectors.size, np.float32)
    vectors[:6] = 0.0, -0.0, np.inf, -np.inf, np.finfo(np.float32).max, 1e-45
    vectors[6:8] = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)  # half-way between two
    places = np.arange(2)
    flat = FlatInputs(vectors, places * 50 * 64, np.full(2, 64), places * 0, 50, np.arange(50), 50, {})
    where = places, np.full(2, 64), places[::-1] * 64, 128
    short, whole = flat.short_side_by_side(*where), flat.side_by_side(*where)
    assert short is not None
    assert whole is not None
    found, expected = (each.view(torch.int16) for each in (_short(short), torch.from_numpy(whole).to(torch.bfloat16)))
    is_nan = torch.from_numpy(np.isnan(whole))
    assert torch.equal(_short(short).isnan(), is_nan), "which of the NaNs it is depends on the processor"
    assert torch.equal(found[~is_nan], expected[~is_nan])


def _short(bits: NDArray[np.uint16]) -> Tensor:
    return torch.from_numpy(bits).view(torch.bfloat16)


@pytest.mark.parametrize("join", ["stack", "cat"])
@pytest.mark.parametrize("around", ["<", "<|>"])
def test_rows_that_are_cast_at_once_are_laid_in_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, join: str, around: str
) -> None:
    path, manifest = exported(tmp_path, Model(join, around, reused=2))
    packed, plain = both(path, manifest, monkeypatch, "bfloat16")
    assert [each.short for each in packed._packed] == [True]
    for rows in (1, 5, CPU_ROWS + 3):
        tensors, flat = inputs_of(manifest, rows)
        assert bits(packed, tensors, rows) == bits(packed, flat, rows) == bits(plain, tensors, rows)


@pytest.mark.parametrize("join", ["stack", "cat"])
@pytest.mark.parametrize("around", ["", "<", "<|>"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_packed_inputs_give_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, join: str, around: str, precision: Precision
) -> None:
    path, manifest = exported(tmp_path, Model(join, around))
    packed, plain = both(path, manifest, monkeypatch, precision)
    assert packed.runtime.precision == precision
    assert packed.takes_flat
    assert not plain.takes_flat
    assert packed.runtime == plain.runtime
    assert packed.runtime.eager_because == ""
    for rows in (1, 2, 5, CPU_ROWS, CPU_ROWS + 3, 3 * CPU_ROWS + 2):
        tensors, flat = inputs_of(manifest, rows)
        expected = bits(plain, tensors, rows)
        assert bits(packed, tensors, rows) == expected
        assert bits(packed, flat, rows) == bits(packed, flat, rows) == bits(plain, flat, rows) == expected


def test_what_is_taken_elsewhere_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, manifest = exported(tmp_path, Model("cat", "|", reused=2))
    packed, plain = both(path, manifest, monkeypatch)
    (rows_of,) = packed._packed
    assert len(rows_of.places) == len(NAMES) - 1
    assert rows_of.width == (len(NAMES) + 1) * DIM
    tensors, flat = inputs_of(manifest, 6)
    assert bits(packed, flat, 6) == bits(plain, tensors, 6)


def test_flat_inputs_that_are_not_all_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, manifest = exported(tmp_path, Model("stack", "<"))
    packed, plain = both(path, manifest, monkeypatch)
    tensors, flat = inputs_of(manifest, 4)
    place = next(place for place, each in enumerate(manifest.inputs) if each.lookup is not None)
    flat.begins[place] = -1
    others = {place: tensors[place], **flat.others}
    mixed = FlatInputs(
        flat.vectors,
        flat.begins,
        flat.dims,
        flat.context,
        REQUESTS,
        flat.row_index,
        4,
        others,
    )
    assert bits(packed, mixed, 4) == bits(plain, tensors, 4)


def test_vectors_of_another_width_are_refused(tmp_path: Path) -> None:
    path, manifest = exported(tmp_path, Model("stack", ""))
    program = TorchProgram.load(path, manifest, "cpu")
    tensors, _ = inputs_of(manifest, 4)
    place = next(place for place, each in enumerate(manifest.inputs) if each.lookup is not None)
    tensors[place] = ProgramTensor(np.zeros((4, 1), np.float32))
    with pytest.raises(InvalidInput, match=r"shape \(4, 1\); it must be \(4, 4\)"):
        program.run(tensors, 4)
    tensors[place] = ProgramTensor(np.zeros((3, DIM), np.float32))
    with pytest.raises(InvalidInput, match="has 3 rows; the batch has 4"):
        program.run(tensors, 4)


def test_vectors_of_another_type_are_refused(tmp_path: Path) -> None:
    path, manifest = exported(tmp_path, Model("stack", ""))
    tensors, _ = inputs_of(manifest, 4)
    tensors[lookups_of(manifest)[0]] = ProgramTensor(np.zeros((4, DIM), np.float64))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"is torch\.float64, not float32"):
        TorchProgram.load(path, manifest, "cpu").run(tensors, 4)


def test_zero_rows_are_refused(tmp_path: Path) -> None:
    path, manifest = exported(tmp_path, Model("stack", ""))
    tensors, flat = inputs_of(manifest, 2)
    program = TorchProgram.load(path, manifest, "cpu")
    for inputs in (tensors, flat):
        with pytest.raises(InvalidInput, match=r"of 0 rows; the dense program takes \d+ of 1 or more"):
            program.run(inputs, 0)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_outputs_are_of_any_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: torch.dtype) -> None:
    path, manifest = exported(tmp_path, Model("cat", "<", kind=kind))
    packed, plain = both(path, manifest, monkeypatch)
    assert packed.takes_flat
    tensors, flat = inputs_of(manifest, 5)
    assert bits(packed, flat, 5) == bits(packed, tensors, 5) == bits(plain, tensors, 5)


def test_a_program_that_is_no_script_is_packed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, manifest = exported(tmp_path, Model("stack", "<|>"))
    monkeypatch.setattr(torch_program, "scripted", lambda module, *_: (module, "it is not to be one"))
    packed, plain = both(path, manifest, monkeypatch)
    assert packed.takes_flat
    assert packed.runtime.eager_because == "it is not to be one"
    for rows in (1, 5, CPU_ROWS + 3):
        tensors, flat = inputs_of(manifest, rows)
        assert bits(packed, flat, rows) == bits(packed, flat, rows) == bits(plain, tensors, rows)


def test_a_program_that_cannot_be_packed_takes_its_inputs_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, manifest = exported(tmp_path, Model("cat", "<"))
    _, plain = both(path, manifest, monkeypatch)

    def fails(*_: object) -> None:
        raise RuntimeError("of torch")

    monkeypatch.setattr(torch_program, "packed_module", fails)
    program = TorchProgram.load(path, manifest, "cpu")
    assert not program.takes_flat
    assert "dense.pt2: its inputs are not packed: RuntimeError: of torch" in caplog.text
    tensors, flat = inputs_of(manifest, 5)
    assert bits(program, flat, 5) == bits(plain, tensors, 5)

    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch_program, "packed_module", no_memory)
    with pytest.raises(MemoryError):
        TorchProgram.load(path, manifest, "cpu")


def test_a_program_that_would_give_other_bits_is_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, manifest = exported(tmp_path, Model("stack", "<"))
    module, _ = torch_program._checked(
        (path / "dense.pt2").read_bytes(), path / "dense.pt2", manifest, "cpu", short=False
    )
    lookups = lookups_of(manifest)
    assert packed_module(module, lookups) is not None
    calls: list[int] = []

    class Counting(torch.fx.GraphModule):
        def __call__(self, *given: Tensor) -> object:
            calls.append(len(given))
            return tuple(each + len(calls) for each in super().__call__(*given))

    monkeypatch.setattr(torch_program.fx, "GraphModule", Counting)
    with pytest.raises(ValueError, match="scores differ"):
        packed_module(module, lookups)
    assert calls
    assert not TorchProgram.load(path, manifest, "cpu").takes_flat
    assert "dense.pt2: its inputs are not packed: ValueError: with packed inputs its scores differ" in caplog.text


def test_few_inputs_are_not_packed(tmp_path: Path) -> None:
    path, manifest = exported(tmp_path, Model("cat", ""))
    module, _ = torch_program._checked(
        (path / "dense.pt2").read_bytes(), path / "dense.pt2", manifest, "cpu", short=False
    )
    lookups = lookups_of(manifest)
    assert packed_module(module, lookups[: MIN_INPUTS - 1]) is None
    assert packed_module(module, lookups[:MIN_INPUTS]) is not None


def graph_of(inputs: int) -> tuple[torch.fx.Graph, list[torch.fx.Node]]:
    """Return a graph by hand, and its inputs: of vectors."""
    graph = torch.fx.Graph()
    given = [graph.placeholder(f"given_{number}") for number in range(inputs)]
    for each in given:
        each.meta["val"] = torch.empty(2, DIM, device="meta")
    return graph, given


def packed_of(graph: torch.fx.Graph, *outputs: torch.fx.Node) -> list[list[int]]:
    """Return the places of each packed input of a graph; whether it gives the same bits is checked in there."""
    graph.output(outputs)
    inputs = sum(node.op == "placeholder" for node in graph.nodes)
    made = packed_module(torch.fx.GraphModule({}, graph), range(inputs))
    return [] if made is None else [each.places.tolist() for each in made.packed]


def test_one_lookup_twice_side_by_side() -> None:
    graph, given = graph_of(MIN_INPUTS)
    assert packed_of(graph, graph.call_function(CAT, ([*given, given[0]], 1))) == [[*range(MIN_INPUTS), 0]]


def test_two_joins() -> None:
    graph, given = graph_of(2 * MIN_INPUTS)
    first, second = (given[part::2] for part in range(2))
    joined = graph.call_function(CAT, (first, 1)), graph.call_function(STACK, (second, 1))
    assert packed_of(graph, *joined) == [[*range(0, 2 * MIN_INPUTS, 2)], [*range(1, 2 * MIN_INPUTS, 2)]]


def test_a_join_of_what_is_no_list_is_left_as_it_is() -> None:
    graph, given = graph_of(1)
    chunks = graph.call_function(torch.ops.aten.chunk.default, (given[0], MIN_INPUTS, 1))
    assert packed_of(graph, graph.call_function(CAT, (chunks, 1))) == []


def test_what_the_program_writes_to_is_not_packed() -> None:
    graph, given = graph_of(MIN_INPUTS)
    joined = graph.call_function(CAT, (given, 1))
    assert packed_of(graph, graph.call_function(torch.ops.aten.relu_.default, (joined,))) == []


def test_a_packed_program_that_writes_to_a_view_of_its_rows_is_a_script() -> None:
    """It is compared with its script for the same numbers, not for those that the other one has left."""
    graph, given = graph_of(MIN_INPUTS)
    view = graph.call_function(torch.ops.aten.view.default, (graph.call_function(CAT, (given, 1)), [-1, DIM]))
    graph.output((graph.call_function(torch.ops.aten.mul_.Scalar, (view, 2.0)),))
    made = packed_module(torch.fx.GraphModule({}, graph), range(MIN_INPUTS))
    assert made is not None
    rows = torch.empty(2, MIN_INPUTS * DIM, device="meta")
    assert scripted(made.module, [rows], torch.device("cpu"))[1] == ""
