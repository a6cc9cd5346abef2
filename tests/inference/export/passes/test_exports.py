"""Exports of models that write look-ups in their own ways: tables, what is looked up in them, and the same scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.schema.kinds import Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from tests.inference.export.test_uses import columns_of
from tests.inference.export.versions import assert_equal

pytestmark = pytest.mark.medium

ROWS, DIM = 12, 4
FEATURES: list[Feature] = [Sparse("i"), Sparse("j"), Dense("x", width=2), IdSequence("h", length=5)]
Forward = Callable[..., Tensor]


class Module(nn.Module):
    def __init__(self, function: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.bias = nn.Parameter(torch.randn(ROWS, DIM)), nn.Parameter(torch.randn(ROWS))
        self.cube, self.pairs = nn.Parameter(torch.randn(ROWS, 2, 3)), nn.Parameter(torch.randn(ROWS, 7))
        self.layer, self.few = nn.Linear(ROWS, DIM), nn.Parameter(torch.randn(6, DIM))
        self.group = nn.Buffer(torch.randint(0, 6, (ROWS,)))
        self.towers = nn.ModuleDict({"i+j": nn.Embedding(ROWS, DIM)})
        self.function = function

    def forward(self, i: Tensor, j: Tensor, x: Tensor, h: Tensor) -> Tensor:
        return self.function(self, i, j, x, h)


def export(tmp_path: Path, function: Forward) -> ExportReport:
    module, schema = Module(function), Schema(FEATURES)
    report = export_model(module, schema, tmp_path / "model", 1, check_rows=16, quiet=True)
    for rows in (1, 2, 5):
        assert_equal(module, schema, report.path, columns_of(FEATURES, rows), rows)
    return report


def matrix(i: Tensor, x: Tensor, h: Tensor) -> Tensor:
    return torch.cat([i.float().unsqueeze(1), h.float(), x], 1)


TABLES: dict[str, tuple[Forward, str, int, set[str]]] = {
    "brackets": (lambda m, i, j, x, h: m.w[i], "w", DIM, {"i"}),
    "rows from behind": (lambda m, i, j, x, h: m.w[i - 3], "w", DIM, {"i"}),
    "two dimensions": (lambda m, i, j, x, h: m.pairs[i, j], "pairs", 1, {"i_x_j"}),
    "a bias": (lambda m, i, j, x, h: m.bias[i].unsqueeze(1), "bias", 1, {"i"}),
    "a sequence": (lambda m, i, j, x, h: m.w[h].sum(1), "w", DIM, {"h"}),
    "biases of a sequence": (lambda m, i, j, x, h: m.bias[h], "bias", 1, {"h"}),
    "matrices of a sequence": (lambda m, i, j, x, h: m.cube[h].sum((1, 2)), "cube", 6, {"h"}),
    "gather": (lambda m, i, j, x, h: m.w.gather(0, i.unsqueeze(1).expand(-1, DIM)), "w", DIM, {"i"}),
    "one-hot": (lambda m, i, j, x, h: m.layer(F.one_hot(i, ROWS).float()), "layer", DIM, {"i"}),
    "one-hot of a sequence": (lambda m, i, j, x, h: (F.one_hot(h, ROWS).float() @ m.w).mean(1), "w", DIM, {"h"}),
    "normalised": (lambda m, i, j, x, h: F.normalize(m.w)[i], "w.computed", DIM, {"i"}),
    "fields of one table": (
        lambda m, i, j, x, h: m.w[torch.stack([i, j], 1) + torch.tensor([0, 6])].sum(1), "w", DIM, {"i", "j"},
    ),
    "columns of a matrix": (
        lambda m, i, j, x, h: F.embedding(matrix(i, x, h)[:, 1:6].long(), m.w).sum(1), "w", DIM, {"h"},
    ),
    "a mapping": (lambda m, i, j, x, h: F.embedding(m.group[i], m.few), "few.computed", DIM, {"i"}),
    "a mapping of a sequence": (lambda m, i, j, x, h: m.few[m.group[h]].sum(1), "few.computed", DIM, {"h"}),
    "a mapping that was moved": (
        lambda m, i, j, x, h: F.embedding(
            torch.cat([m.group[torch.cat([h, i.unsqueeze(1)], 1)].unsqueeze(-1)], -1).reshape(-1, 1)
            + torch.tensor([[3]]), m.w,
        ).reshape(-1, 6, DIM).cumsum(1)[:, -1], "w.computed", DIM, {"h", "i"},
    ),
    "a mapping in reverse": (
        lambda m, i, j, x, h: F.embedding(7 - m.group[h].T * 1, m.w).cumsum(0)[-1], "w.computed", DIM, {"h"},
    ),
    "a name that no folder has": (lambda m, i, j, x, h: m.towers["i+j"](j), "towers.i_j", DIM, {"j"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_the_only_table_is_looked_up_by_the_features_themselves(tmp_path: Path, name: str) -> None:
    function, table, dim, features = TABLES[name]
    report = export(tmp_path, function)
    assert [(each.name, each.dim) for each in report.tables] == [(table, dim)]
    assert {each.feature for each in report.manifest.lookups} == features
    assert not report.kept
