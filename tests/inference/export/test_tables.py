"""Writing tables: in chunks that share the module's memory, with progress for large ones, and a report at the end."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import ringpull.inference.export.tables
from ringpull.inference.export.model import export_model
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.export.tables import TablePlan, write_table
from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.store.base import Base
from ringpull.ps.store.writer import TableWriter

ROWS, DIM = 1000, 4


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ringpull.inference.export.tables, "CHUNK_BYTES", 300 * 4 * DIM)


@pytest.mark.usefixtures("small_chunks")
def test_rows_are_handed_over_in_chunks_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(ROWS, DIM)
    seen: list[int] = []

    class Spy(TableWriter):
        def add(self, keys: Any, rows: Any) -> None:
            assert np.shares_memory(rows, weight.numpy())
            seen.append(len(rows))
            super().add(keys, rows)

    monkeypatch.setattr(ringpull.inference.export.tables, "TableWriter", Spy)
    entry = write_table(tmp_path, TablePlan.make("user", weight, None, TableOptions()), None)
    assert seen == [300, 300, 300, 100]
    base = Base.open(tmp_path / entry.path, verify_rows=True)
    assert (entry.rows, entry.bytes) == (base.rows, base.bytes) == (ROWS, base.bytes)


@pytest.mark.usefixtures("small_chunks")
def test_only_large_tables_show_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = TablePlan.make("user", torch.randn(ROWS, DIM), None, TableOptions())
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100)
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
    write_table(tmp_path / "1", plan, console)
    assert shown.getvalue() == ""
    monkeypatch.setattr(ringpull.inference.export.table_progress, "PROGRESS_BYTES", 1000)
    write_table(tmp_path / "2", plan, console)
    assert "table user" in shown.getvalue()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.hour = nn.Embedding(ROWS, DIM), nn.Embedding(24, DIM)

    def forward(self, user: Tensor, time: Tensor) -> Tensor:
        return (self.user(user) * self.hour(time.float().sqrt().long())).sum(1)


def test_the_report_says_what_became_of_each_embedding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = Schema([Sparse("user"), Sparse("time")])
    report = export_model(Model(), schema, tmp_path / "clicks", 12, keys={"user": [f"u{i}" for i in range(ROWS)]})
    text = capsys.readouterr().out
    for said in ("clicks/12", "user", "1,000", "hour stays in the dense program", "computed", "self-check: 64 rows"):
        assert said in text
    assert report.path == tmp_path / "clicks" / "12"
    assert report.bytes > 4 * ROWS * DIM
    assert (report.tables[0].keyed_by, report.tables[0].default) == ("raw ids, strings", "zeros")
    assert (report.manifest.model, report.manifest.version) == ("clicks", 12)


def test_a_quiet_export_prints_nothing_and_may_skip_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = Schema([Sparse("user"), Sparse("time")])
    report = export_model(Model(), schema, tmp_path / "a", 1, name="b", check_rows=0, quiet=True)
    assert capsys.readouterr().out == ""
    assert report.check is None
    assert report.manifest.model == "b"


@pytest.mark.parametrize("width", [50, 80, 200])
def test_the_report_breaks_no_word_and_says_what_it_leaves_out(tmp_path: Path, width: int) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user_embedding = nn.Embedding(1_234, DIM)
            self.item_embedding = nn.EmbeddingBag(5_678, DIM, mode="mean", include_last_offset=True)

        def forward(self, user_id: Tensor, recent_items: Tensor, recent_items_offsets: Tensor) -> Tensor:
            return self.user_embedding(user_id).sum(1) + self.item_embedding(recent_items, recent_items_offsets).sum(1)

    schema = Schema([Sparse("user_id"), Sparse("recent_items", many=True)])
    report = export_model(Named(), schema, tmp_path / "a", 1, quiet=True)
    shown = io.StringIO()
    report.print(Console(file=shown, width=width))
    text = shown.getvalue()
    for word in ("user_embedding", "item_embedding", "1,234", "5,678", "user_id", "recent_items"):
        assert word in text
    left_out = text.partition("not shown at this width: ")[2].partition("\n")[0]
    assert len(re.findall(r"\d\.\d KiB", text)) == 3  # of two tables and the program, each whole
    assert bool(left_out) == (width < 100)
    assert ("zeros" in text) == ("unknown ids" not in left_out)
