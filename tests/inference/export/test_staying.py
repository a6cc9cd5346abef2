"""What stays in the dense program: tied weights, large ones, embeddings with their reason and line; and the report."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError
from tests.inference.export.test_uses import columns_of
from tests.inference.export.versions import assert_equal

pytestmark = pytest.mark.medium

ROWS, DIM = 12, 4
FEATURES = [Sparse("user"), IdSequence("history", length=5), Dense("age")]


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.item, self.out = nn.Embedding(ROWS, DIM), nn.Linear(DIM, 1)


def export(tmp_path: Path, module: nn.Module, *, exact: bool = True, **options: Any) -> ExportReport:
    schema = Schema(FEATURES)
    report = export_model(module, schema, tmp_path / "model", 1, quiet=True, **options)
    for rows in (1, 2, 5) if exact else ():
        assert_equal(module, schema, report.path, columns_of(FEATURES, rows), rows)
    return report


def printed(report: ExportReport, width: int = 80) -> str:
    text = io.StringIO()
    report.print(Console(file=text, width=width))
    return re.sub(r"\s+", " ", text.getvalue())


class Tied(Base):
    def forward(self, history: Tensor) -> Tensor:
        return self.item(history).mean(1) @ self.item.weight.T


class TiedByLookup(Base):
    def forward(self, history: Tensor) -> Tensor:
        return self.item(history).mean(1) @ self.item(torch.arange(ROWS)).T


class FewByLookup(Base):
    def forward(self, history: Tensor) -> Tensor:
        return self.item(history).mean(1) @ self.item(torch.arange(3)).T


class AllBehindIds(Base):
    def forward(self, history: Tensor) -> Tensor:
        every = torch.arange(ROWS).expand(history.shape[0], -1)
        return torch.tanh(self.item(torch.cat([history, every], 1))).cumsum(1)[:, -1]


class TiedByLayer(Base):
    def forward(self, history: Tensor) -> Tensor:
        return F.linear(self.item(history).mean(1), self.item.weight)


class TiedNormalised(Base):
    def forward(self, history: Tensor) -> Tensor:
        normal = F.normalize(self.item.weight)
        return F.linear(normal[history].mean(1), normal)


@pytest.mark.parametrize("module", [Tied, TiedByLookup, TiedByLayer])
def test_tied_weights_are_a_table_and_a_copy(tmp_path: Path, module: type[Base]) -> None:
    report = export(tmp_path, module())
    assert [(table.name, table.features) for table in report.tables] == [("item", ("history",))]
    (kept,) = report.kept
    assert (kept.name, kept.bytes, kept.copy) == ("item", ROWS * DIM * 4, True)
    assert "test_staying.py:" in kept.reason
    assert "item is a table, and a copy of it stays in the dense program" in printed(report)


def test_few_rows_that_every_request_reads_are_no_copy(tmp_path: Path) -> None:
    report = export(tmp_path, FewByLookup())
    assert [table.name for table in report.tables] == ["item"]
    assert not report.kept


def test_all_rows_behind_ids_are_said_to_stay(tmp_path: Path) -> None:
    (kept,) = export(tmp_path, AllBehindIds()).kept
    assert f"{ROWS} of {ROWS} rows" in kept.reason


def test_a_computed_table_may_be_tied_too(tmp_path: Path) -> None:
    report = export(tmp_path, TiedNormalised())
    assert [(table.name, table.computed) for table in report.tables] == [("item.computed", "div of item")]
    assert "item.computed was computed once, at export: div of item" in printed(report)


@pytest.mark.parametrize("row_type", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("module", [Tied, TiedByLookup, TiedNormalised])
def test_tables_of_short_rows_are_held_against_the_model_with_such_rows(
    tmp_path: Path, module: type[Base], row_type: str
) -> None:
    """The copy in the dense program is not rounded, nor what a table was computed of: the self-check knows."""
    name = "item.computed" if module is TiedNormalised else "item"
    report = export(tmp_path, module(), exact=False, tables={name: TableOptions(row_type=row_type)})
    assert report.check is not None
    assert report.check.largest_difference < 1e-5
    assert report.cost is not None
    assert 1e-6 < report.cost.largest_difference < 0.1


class Half(Base):
    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        masks = (self.item.weight > 0).sum(1).float()
        return self.out(self.item(user) + self.item(torch.bitwise_xor(user, 1))) + masks.sum()


def test_one_lookup_that_is_none_leaves_the_others_a_table(tmp_path: Path) -> None:
    report = export(tmp_path, Half())
    assert [table.name for table in report.tables] == ["item"]
    (kept,) = report.kept
    assert kept.copy
    assert "gt" in kept.reason


class Unplain(Base):
    def forward(self, user: Tensor, age: Tensor) -> Tensor:
        return self.out(self.item((age.abs().squeeze(1) * 3).long() % ROWS))


class Nothing(Base):
    def forward(self, age: Tensor) -> Tensor:
        return self.out(age.expand(-1, DIM))


def test_an_export_without_tables_says_so_first_and_why(tmp_path: Path) -> None:
    report = export(tmp_path, Unplain())
    assert printed(report).startswith("model/1: NO TABLE came out: what is looked up stays in the dense program (item)")
    (kept,) = report.kept
    assert "test_staying.py:" in kept.reason
    assert "in forward" in kept.reason
    report = export(tmp_path / "other", Nothing())
    assert report.without_tables is not None
    assert "no weight is looked up by ids" in printed(report)


def test_a_report_with_tables_does_not(tmp_path: Path) -> None:
    report = export(tmp_path, Tied())
    assert report.without_tables is None
    assert "NO TABLE" not in printed(report)


class Each(Base):
    def forward(self, user: Tensor) -> Tensor:
        return self.out(self.item.weight.gather(0, torch.stack([user, user * 0, user, user], 1)))


def test_what_is_read_by_ids_in_other_ways_is_held_to_the_limit_too(tmp_path: Path) -> None:
    (kept,) = export(tmp_path, Each()).kept
    assert "gather" in kept.reason
    with pytest.raises(ExportError, match=r"embedding item: .*max_dense_bytes raises it.*gather"):
        export(tmp_path / "other", Each(), max_dense_bytes=100)


@pytest.mark.parametrize("module", [Tied, TiedByLookup, Unplain])
def test_the_limit_is_the_exporters(tmp_path: Path, module: type[Base]) -> None:
    taken = ROWS * DIM * 4
    export(tmp_path, module(), max_dense_bytes=taken)
    with pytest.raises(ExportError, match=r"embedding item: .*max_dense_bytes raises it"):
        export(tmp_path / "other", module(), max_dense_bytes=taken - 1)


class Large(Base):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(DIM, 300_000), nn.Linear(300_000, 1)

    def forward(self, user: Tensor) -> Tensor:
        return self.narrow(self.wide(self.item(user)))


def test_large_weights_of_layers_are_named_with_operator_and_line(tmp_path: Path) -> None:
    report = export(tmp_path, Large(), check_rows=2, max_dense_bytes=2**20)
    assert [(each.name, each.bytes) for each in report.large] == [("wide", 4_800_000)]
    assert "linear" in report.large[0].reason
    assert "test_staying.py:" in report.large[0].reason
    assert "above max_dense_bytes (1.0 MiB)" in printed(report)
    assert "wide stays in the dense program (4.6 MiB)" in printed(report)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_fact_is_printed_at_every_width(tmp_path: Path, width: int) -> None:
    text = printed(export(tmp_path, Tied()), width)
    assert "item is a table, and a copy of it stays" in text
    assert "dense program:" in text
