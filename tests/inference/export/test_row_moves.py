"""Moves within rows: the last item of a history is a look-up, whichever way its place is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import Pooling
from tests.inference.export.versions import assert_equal

pytestmark = pytest.mark.medium

ROWS, DIM, LENGTH = 12, 4, 5
FEATURES = [IdSequence("history", length=LENGTH, never_empty=True), Sparse("item"), Dense("age")]


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.item_table, self.out = nn.Embedding(ROWS, DIM), nn.Linear(DIM, 1)


class Gathered(Base):
    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        return self.out(self.item_table(history.gather(1, (history_lengths - 1).unsqueeze(1)))).squeeze(1)


class GatheredFlat(Base):
    def forward(self, history: Tensor, history_lengths: Tensor, item: Tensor) -> Tensor:
        last = torch.gather(history, dim=-1, index=(history_lengths - 1).view(-1, 1)).squeeze(-1)
        return (self.item_table(last) * self.item_table(item)).sum(1)


class Indexed(Base):
    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        last = history[torch.arange(history.shape[0]), history_lengths - 1]
        return self.out(self.item_table(last))


class AlongDim(Base):
    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        last = torch.take_along_dim(history, (history_lengths - 1)[:, None], dim=1)
        return self.out(self.item_table(last[:, 0]))


class LastTwo(Base):
    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        places = (history_lengths[:, None] - torch.arange(1, 3)).clamp(min=0)
        return self.out(self.item_table(history.gather(1, places)).flatten(0, 1)).view(-1, 2)


class IndexedTwo(Base):
    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        places = history_lengths[:, None] - torch.arange(1, 3)
        rows = torch.arange(history.shape[0]).unsqueeze(1)
        return self.out(self.item_table(history[rows, places]).sum(1))


class Computed(Base):
    """Its place is counted by operators that no index may have."""

    def forward(self, history: Tensor) -> Tensor:
        places = (history > 0).sum(1, keepdim=True).clamp(min=1) - 1
        return self.out(self.item_table(history.gather(1, places)[:, 0]))


class ByNumber(Base):
    def forward(self, history: Tensor, age: Tensor) -> Tensor:
        return self.out(self.item_table(history.gather(1, age.abs().long().clamp(max=LENGTH - 1))).sum(1))


class Keyed(Base):
    def forward(self, history: Tensor, history_lengths: Tensor, item: Tensor) -> Tensor:
        last = (history % 7).gather(1, history_lengths[:, None] - 1) + 2
        return self.out(self.item_table(torch.cat([last, item[:, None], last.clamp(max=4)], 1))).sum(1)


class Bagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.item_table = nn.EmbeddingBag(ROWS, DIM, mode="mean")

    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        return self.item_table(history.gather(1, history_lengths[:, None] - 1)).sum(1)


def export(tmp_path: Path, module: nn.Module) -> ExportReport:
    schema = Schema(FEATURES)
    report = export_model(module, schema, tmp_path / "model", 1, quiet=True)
    for rows in (1, 2, 5, 9):
        assert_equal(module, schema, report.path, columns_of(rows), rows)
    return report


def columns_of(rows: int) -> dict[str, Column]:
    """Return random rows; no history is empty: it has no last item."""
    random = np.random.default_rng(rows)
    lengths = random.integers(1, LENGTH + 1, rows)
    ids = random.integers(0, ROWS, int(lengths.sum()))
    return {
        "history": Ragged(ids, np.concatenate([[0], np.cumsum(lengths)])),
        "item": random.integers(0, ROWS, rows),
        "age": random.standard_normal((rows, 1), np.float32) * 3,
    }


ALL = [Gathered, GatheredFlat, Indexed, AlongDim, LastTwo, IndexedTwo, Computed, ByNumber, Keyed, Bagged]


@pytest.mark.parametrize("module", ALL)
def test_items_at_places_of_the_request_are_looked_up(tmp_path: Path, module: type[nn.Module]) -> None:
    report = export(tmp_path, module())
    assert [table.name for table in report.tables] == ["item_table"]
    assert not report.kept
    assert not report.manifest.limits


class WithHistory(Base):
    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        last = history.gather(1, history_lengths[:, None] - 1).squeeze(1)
        vectors = self.item_table(history)
        return (torch.softmax(vectors @ self.item_table(last)[:, :, None], 1) * vectors).sum((1, 2))


def test_a_history_that_is_looked_up_anyway_is_looked_up_once(tmp_path: Path) -> None:
    report = export(tmp_path, WithHistory())
    (lookup,) = report.manifest.lookups
    assert (lookup.feature, lookup.pooling) == ("history", Pooling.NONE)


class OtherRow(Base):
    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        last = history.flip(0).gather(1, history_lengths[:, None] - 1)
        return self.out(self.item_table(last)).sum((1, 2)) * 0 + self.out(self.item_table(history)).sum((1, 2))


def test_what_moves_ids_between_rows_stays(tmp_path: Path) -> None:
    report = export(tmp_path, OtherRow())
    (kept,) = report.kept
    assert kept.copy
