"""Dense programs in bfloat16: what is rounded and what is not, its receipt, and who may serve it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.head.config import _precision
from ringpull.inference.head.selfcheck import BFLOAT16_FACTOR, tolerance_of
from ringpull.inference.model import torch_program
from ringpull.inference.model.bfloat16 import in_bfloat16, instructions
from ringpull.inference.model.dense_program import DenseProgram, ProgramTensor, load_program
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.samples import Samples
from ringpull.inference.model.torch_program import TorchProgram
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData, ExportError, InvalidInput
from tests.inference.test_manifest import rewrite

ROWS = 40
SCHEMA = Schema([Sparse("user"), Sparse("item"), Dense("age", width=3)])


class Model(nn.Module):
    """Numbers that are normalised, vectors laid side by side, two products between which there is a choice, a third."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user, self.item = nn.Embedding(30, 8), nn.Embedding(30, 8)
        self.norm = nn.BatchNorm1d(3)
        self.norm.running_mean = torch.tensor([1e4, 1e4, 1e4])
        self.first, self.second, self.last = nn.Linear(19, 32), nn.Linear(32, 16), nn.Linear(16, 1)

    def forward(self, user: Tensor, item: Tensor, age: Tensor) -> Tensor:
        x = torch.cat([self.user(user), self.item(item), self.norm(age)], 1)
        y = self.second(self.first(x).relu())
        y = torch.where(y > 0, y, torch.zeros_like(y, dtype=torch.float32))
        return torch.sigmoid(self.last(y)).squeeze(1)


def by_hand(model: Model, user: Tensor, item: Tensor, age: Tensor) -> Tensor:
    """What the program is to be, written out: bfloat16 from the first product to the last, and no further."""

    def short(layer: nn.Linear, x: Tensor) -> Tensor:
        return nn.functional.linear(x, layer.weight.bfloat16(), layer.bias.bfloat16())

    x = torch.cat([user, item, model.norm(age)], 1).bfloat16()
    y = short(model.second, short(model.first, x).relu()).relu()
    return torch.sigmoid(model.last(y.float())).squeeze(1)


def columns() -> dict[str, Any]:
    random = np.random.default_rng(2)
    return {
        "user": random.integers(0, 30, ROWS),
        "item": random.integers(0, 30, ROWS),
        "age": (1e4 + random.standard_normal((ROWS, 3))).astype(np.float32),
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_model(
        Model().eval(),
        SCHEMA,
        tmp_path_factory.mktemp("models") / "ranker",
        1,
        check_rows=8,
        check_columns=columns(),
        check_labels=np.arange(ROWS) % 2,
        dense_precision="bfloat16",
        quiet=True,
    )


@pytest.fixture(scope="module")
def inputs() -> list[ProgramTensor]:
    model, given = Model(), columns()
    users, items = (torch.from_numpy(given[name]) for name in ("user", "item"))
    vectors = [model.user(users).detach().numpy(), model.item(items).detach().numpy()]
    return [*map(ProgramTensor, vectors), ProgramTensor(given["age"])]


@pytest.fixture(scope="module")
def programs(exported: ExportReport) -> list[DenseProgram]:
    """The program in bfloat16, and in float32."""
    return [load_program(exported.path, exported.manifest, "cpu", precision=each) for each in ("bfloat16", "float32")]


@pytest.fixture(scope="module")
def scores(programs: list[DenseProgram], inputs: list[ProgramTensor]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of both."""
    [found], [exact] = (list(each.run(inputs, ROWS).values()) for each in programs)
    return found, exact


def test_it_is_bfloat16_from_the_first_product_to_the_last(
    programs: list[DenseProgram], scores: tuple[np.ndarray, np.ndarray], inputs: list[ProgramTensor]
) -> None:
    assert [each.runtime.precision for each in programs] == ["bfloat16", "float32"]
    assert [each.runtime.eager_because for each in programs] == ["", ""]
    found, exact = scores
    with torch.inference_mode():
        expected = by_hand(Model().eval(), *(torch.from_numpy(each.values) for each in inputs)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # Numbers around 10,000 would all be one bfloat16 before they are normalised; candidates do not tie.
    assert 0 < np.abs(found - exact).max() < 1e-2
    assert len(np.unique(found)) == len(np.unique(exact))


def test_the_receipt_says_what_it_costs(exported: ExportReport, scores: tuple[np.ndarray, np.ndarray]) -> None:
    receipt = Manifest.load(exported.path).bfloat16
    assert receipt is not None
    assert receipt == exported.manifest.bfloat16
    found, exact = scores
    changes = np.abs(found.astype(np.float64) - exact)
    assert (receipt.rows, receipt.given) == (ROWS, True)
    assert 0 < receipt.sample_difference < 1e-2
    assert receipt.largest_difference == pytest.approx(changes.max(), rel=0.01)
    assert receipt.mean_difference == pytest.approx(changes.mean(), rel=0.01)
    ones, zeros = (exact[np.arange(ROWS) % 2 == each] for each in (1, 0))
    assert receipt.auc == pytest.approx(np.mean(ones[:, None] > zeros[None, :]))
    assert receipt.auc_difference is not None


def test_the_self_check_of_a_head_goes_by_the_receipt(
    exported: ExportReport, programs: list[DenseProgram], scores: tuple[np.ndarray, np.ndarray]
) -> None:
    measured = exported.manifest.bfloat16
    assert measured is not None
    assert exported.manifest.samples is not None
    samples = Samples.from_bytes(exported.manifest.samples.read(exported.path), "samples")
    for rows, made_up in ((0.003, 0.001), (0.001, 0.003)):  # those of the samples may change by more
        receipt = replace(measured, largest_difference=rows, sample_difference=made_up)
        for program, more in zip(programs, (BFLOAT16_FACTOR * 0.003, 0.0), strict=True):
            manifest = replace(exported.manifest, bfloat16=receipt)
            assert tolerance_of(LoadedVersion(exported.path, manifest, SCHEMA, program), samples) == (
                samples.tolerance + more
            )


def test_who_has_no_instructions_serves_float32_when_told_to(
    exported: ExportReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_program, "instructions", {"cpu": ""}.__getitem__)
    with pytest.raises(
        InvalidInput, match=r"ranker/1 is to run in bfloat16.*no instructions.*--dense-precision float32"
    ):
        TorchProgram.load(exported.path, exported.manifest, "cpu")
    assert (
        TorchProgram.load(exported.path, exported.manifest, "cpu", precision="float32").runtime.precision == "float32"
    )
    monkeypatch.setattr(torch_program, "instructions", {"cpu": "AMX"}.__getitem__)
    assert TorchProgram.load(exported.path, exported.manifest, "cpu").runtime.precision == "bfloat16"


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n", "AMX"),
        ("flags\t\t: fpu avx512f avx512_bf16\n", "AVX512-BF16"),
        ("Features\t: fp asimd bf16 i8mm\n", "BF16"),
        ("flags\t\t: fpu avx2 avx512f\nbugs\t\t: bf16\n", ""),
        (None, ""),
    ],
)
def test_instructions_are_those_that_the_processor_lists(tmp_path: Path, listed: str | None, found: str) -> None:
    if listed is not None:
        (tmp_path / "cpuinfo").write_text(listed)
    assert instructions("cpu", tmp_path / "cpuinfo") == found


def with_many(found: dict[str, Any], name: str, value: Any) -> None:
    found["bfloat16"][name] = value


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda body: with_many(body, "largest_difference", -1.0), "largest_difference"),
        (lambda body: with_many(body, "mean_difference", "much"), "mean_difference"),
        (lambda body: with_many(body, "sample_difference", float("inf")), "sample_difference"),
        (lambda body: with_many(body, "rows", 0), "rows"),
        (lambda body: body.update(bfloat16=True), "bfloat16"),
    ],
)
def test_a_damaged_receipt_is_named(
    exported: ExportReport, tmp_path: Path, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    exported.manifest.save(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(CorruptData, match=told):
        Manifest.load(tmp_path)


def test_a_version_in_float32_says_nothing_of_bfloat16(exported: ExportReport, tmp_path: Path) -> None:
    replace(exported.manifest, bfloat16=None).save(tmp_path)
    assert "bfloat16" not in json.loads((tmp_path / "manifest.json").read_text())["manifest"]
    replace(exported.manifest, runtime="onnxruntime").save(tmp_path)
    with pytest.raises(CorruptData, match="bfloat16: must be null: onnxruntime"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"dense_precision": "float16"}, InvalidInput, "dense_precision is 'float16'; it must be float32 or bfloat16"),
        ({"check_rows": 0}, InvalidInput, "which is measured on rows"),
        ({"max_diff": float("nan")}, InvalidInput, "max_diff is nan; it must be 0 or more"),
        ({"max_diff": -1.0}, InvalidInput, "max_diff is -1.0; it must be 0 or more"),
        (
            {"max_diff": 1e-9, "check_columns": columns(), "check_rows": 0},
            ExportError,
            r"differ by up to .* on average, on 40 rows; max_diff is 1e-09; nothing was written",
        ),
    ],
)
def test_what_is_refused_leaves_nothing(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        export_model(Model(), SCHEMA, tmp_path / "m", 1, quiet=True, **{"dense_precision": "bfloat16", **options})
    assert not list(tmp_path.glob("m/*"))


def test_where_the_last_product_is_the_only_one_there_is_nothing_to_gain() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(2, 3)
    product = graph.call_function(torch.ops.aten.mm.default, (x, x))
    product.meta["val"] = torch.empty(2, 3)
    graph.output((product,))
    with pytest.raises(InvalidInput, match="no product of float32 but the last of each output"):
        in_bfloat16(fx.GraphModule({}, graph))


class Masked(nn.Module):
    """Attention whose mask is the smallest number of float32, as a number and as a weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.least = nn.Parameter(torch.full((4,), torch.finfo(torch.float32).min))

    def forward(self, x: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        found = x @ self.weight
        numbers = found.masked_fill(masked, torch.finfo(torch.float32).min)
        return numbers.softmax(1) @ self.weight, (found + self.least).softmax(1) @ self.weight


def test_what_is_finite_in_float32_is_so_in_bfloat16() -> None:
    given = (torch.randn(3, 4), torch.ones(3, 4, dtype=torch.bool))  # all is masked, as of who has no history
    module = torch_program._module_of(torch.export.export(Masked(), given))
    with torch.inference_mode():
        for found, expected in zip(in_bfloat16(module)(*given), module(*given), strict=True):
            torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_an_operator_names_a_precision_that_there_is() -> None:
    with pytest.raises(InvalidInput, match=r"--dense-precision is 'bfloat16'; it must be one of as-exported, float32"):
        _precision("--dense-precision", "bfloat16")
