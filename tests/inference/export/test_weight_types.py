"""Weights of other types than float32: their tables, and scores as the module's within what its types round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from tests.inference.export.versions import Exported

pytestmark = pytest.mark.medium

ROWS = 40
SCHEMA = Schema(
    [Sparse("user"), Sparse("tags", many=True), IdSequence("recent", length=4), Dense("age")],
)
TYPES = [torch.float16, torch.bfloat16, torch.float64]
UNITS = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float64: 2.0**-22}


class Model(nn.Module):
    """Vectors, bags and sequences of one type; layers of that type or of float32."""

    def __init__(self, dtype: torch.dtype, whole: bool, mode: str = "mean") -> None:
        super().__init__()
        torch.manual_seed(2)
        self.user, self.item = nn.Embedding(ROWS, 6, dtype=dtype), nn.Embedding(ROWS, 6, dtype=dtype)
        self.tags = nn.EmbeddingBag(ROWS, 6, mode=mode, dtype=dtype, include_last_offset=True)
        self.out = nn.Linear(19, 1, dtype=dtype if whole else torch.float32)

    def forward(self, user: Tensor, tags: Tensor, tags_offsets: Tensor, recent: Tensor, age: Tensor) -> Any:
        parts = [self.user(user), self.tags(tags, tags_offsets), self.item(recent).sum(1)]
        joined = torch.cat([*parts, age.to(self.user.weight.dtype)], 1).to(self.out.weight.dtype)
        return {"score": self.out(joined).squeeze(1), "vector": joined}


def columns(rows: int) -> dict[str, Column]:
    random = np.random.default_rng(rows)
    starts = np.arange(0, 3 * rows + 1, 3)
    return {
        "user": random.integers(0, ROWS, rows),
        "tags": Ragged(random.integers(0, ROWS, 3 * rows), starts),
        "recent": Ragged(random.integers(0, ROWS, 3 * rows), starts),
        "age": random.standard_normal((rows, 1), np.float32),
    }


def export(tmp_path: Path, module: nn.Module, **options: Any) -> ExportReport:
    return export_model(module, SCHEMA, tmp_path / "model", 1, quiet=True, **options)


def assert_scores(module: nn.Module, report: ExportReport, unit: float) -> None:
    for rows in (1, 2, 7):
        prepared = SCHEMA.prepare(columns(rows), rows)
        given = SCHEMA.arguments(prepared, ["user", "tags", "tags_offsets", "recent", "age"])
        with torch.no_grad():
            made = module.eval()(**{name: torch.tensor(values) for name, values in given.items()})
        found = Exported(report.path).score(columns(rows), rows)
        for values, leaf in zip(found.values(), tree_leaves(made), strict=True):
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, leaf.float().numpy(), rtol=0, atol=16 * unit)


@pytest.mark.parametrize("whole", [True, False], ids=["all of the type", "layers of float32"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_weight_of_another_type_is_a_table(tmp_path: Path, dtype: torch.dtype, whole: bool) -> None:
    module = Model(dtype, whole)
    report = export(tmp_path, module)
    assert {table.name for table in report.tables} == {"user", "tags", "item"}
    assert not report.kept
    assert_scores(module, report, UNITS[dtype])


@pytest.mark.parametrize(("dtype", "row_type"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16")])
def test_rows_are_stored_in_the_weights_own_type_and_exactly(tmp_path: Path, dtype: torch.dtype, row_type: str) -> None:
    module = Model(dtype, whole=True)
    report = export(tmp_path, module)
    assert {table.row_type for table in report.tables} == {row_type}
    assert report.cost is None
    for name, table in Exported(report.path).tables.items():
        rows, found = table.pull(np.arange(ROWS, dtype=np.uint64))
        assert found.all()
        assert np.array_equal(rows, module.get_parameter(f"{name}.weight").detach().float().numpy())


def test_rows_of_double_are_float32_and_the_cost_is_said(tmp_path: Path) -> None:
    report = export(tmp_path, Model(torch.float64, whole=True))
    assert {table.row_type for table in report.tables} == {"float32"}
    assert report.cost is not None
    assert 0 < report.cost.largest_difference < 1e-5


@pytest.mark.parametrize("mode", ["sum", "max"])
def test_bags_of_short_types_in_other_ways(tmp_path: Path, mode: str) -> None:
    module = Model(torch.bfloat16, whole=True, mode=mode)
    assert_scores(module, export(tmp_path, module), UNITS[torch.bfloat16])


def test_options_are_those_of_the_exporter(tmp_path: Path) -> None:
    tables = {"user": TableOptions(row_type="float32"), "item": TableOptions(row_type="int8")}
    module = Model(torch.bfloat16, whole=False)
    report = export(tmp_path, module, tables=tables)
    assert {table.name: table.row_type for table in report.tables} == {
        "user": "float32", "item": "int8", "tags": "bfloat16",
    }  # fmt: skip
    assert report.cost is not None


class Integers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.group = nn.Buffer(torch.arange(ROWS) % 3)
        self.out = nn.Linear(1, 1)

    def forward(self, user: Tensor, age: Tensor) -> Tensor:
        return self.out(self.group[user].float().unsqueeze(1) + age)


def test_a_weight_of_integers_stays_with_its_reason(tmp_path: Path) -> None:
    report = export(tmp_path, Integers())
    ((kept),) = report.kept
    assert kept.name == "group"
    assert "int64" in kept.reason
