"""Scores that are chosen after a product with all rows are products with the rows chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from tests.inference.export.passes.graphs import DIM, ROWS, Forward, looked_up, operators, plain
from tests.inference.export.versions import assert_equal

pytestmark = pytest.mark.medium

CHOSEN: dict[str, Forward] = {
    "gather": lambda m, i, j, x: ((x + m.w[j]) @ m.w.T).gather(1, i[:, None]),
    "gather of several": lambda m, i, j, x: ((x + m.w[j]) @ m.w.t()).gather(-1, torch.stack([i, j], 1)),
    "brackets": lambda m, i, j, x: (x @ m.w.T + m.bias)[torch.arange(x.shape[0]), i] + m.w[j].sum(1),
    "brackets from behind": lambda m, i, j, x: (x @ m.w.T)[torch.arange(x.shape[0]), i - 3] + m.w[j].sum(1),
    "a linear function": lambda m, i, j, x: (
        torch.nn.functional.linear(m.w[j], m.w, m.bias).sigmoid().gather(1, i[:, None])
    ),
    "scaled": lambda m, i, j, x: ((m.w[j] @ m.w.T) / 3.0).gather(1, i[:, None]),
    "of a sequence": lambda m, i, j, x: (torch.stack([x, m.w[j], x], 1) @ m.w.T).gather(
        2, torch.stack([i, j, i], 1)[:, :, None]
    ),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_only_the_rows_chosen_are_read(name: str) -> None:
    captured = plain(CHOSEN[name])
    assert not {"linear", "matmul", "mm", "gather", "index", "take_along_dim"} & set(operators(captured))
    assert "w" in looked_up(captured)


OTHERS: dict[str, Forward] = {
    "all are read, too": lambda m, i, j, x: (lambda s: s.gather(1, i[:, None]) + s.logsumexp(1, keepdim=True))(
        m.w[j] @ m.w.T
    ),
    "a softmax before": lambda m, i, j, x: (m.w[j] @ m.w.T).softmax(1).gather(1, i[:, None]),
    "other rows' scores": lambda m, i, j, x: (m.w[j] @ m.w.T)[torch.arange(x.shape[0]).flip(0), i],
    "a short layer of its own": lambda m, i, j, x: (
        (m.w[j] @ m.w.T + m.wide.weight.sum()).sum(1)[:, None] + (m.w[i] @ m.linear.weight).gather(1, j[:, None])
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_product_that_is_needed_stays(name: str) -> None:
    captured = plain(OTHERS[name])
    assert {"linear", "matmul", "mm"} & set(operators(captured))


class Tied(nn.Module):
    """A recurrent net whose output layer is the item table, and which is asked for some items."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.item = nn.Embedding(ROWS, DIM)
        self.gru = nn.GRU(DIM, DIM, batch_first=True)

    def forward(self, history: Tensor, history_lengths: Tensor, candidates: Tensor) -> Tensor:
        states, _ = self.gru(self.item(history))
        last = (history_lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, DIM)
        logits = states.gather(1, last).squeeze(1) @ self.item.weight.T
        return logits.gather(1, candidates)


def test_candidates_of_a_tied_output_layer_need_no_copy_of_the_table(tmp_path: Path) -> None:
    features: list[Feature] = [IdSequence("history", length=5), IdSequence("candidates", length=3)]
    module, schema = Tied(), Schema(features)
    report = export_model(module, schema, tmp_path / "model", 1, quiet=True)
    assert not report.kept
    columns: dict[str, Column] = {
        "history": Ragged(np.array([1, 2, 3, 9, 5, 6, 7, 8, 9]), np.array([0, 0, 1, 9])),
        "candidates": Ragged(np.array([9, 8, 7, 0, 3, 3]), np.array([0, 3, 3, 6])),
    }
    assert_equal(module, schema, report.path, columns, 3)


class Asked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(ROWS, DIM)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return torch.sigmoid((self.item(user) @ self.item.weight.T)[torch.arange(user.shape[0]), item])


def test_one_item_of_a_tied_output_layer(tmp_path: Path) -> None:
    module, schema = Asked(), Schema([Sparse("user"), Sparse("item")])
    report = export_model(module, schema, tmp_path / "model", 1, quiet=True)
    assert not report.kept
    assert_equal(module, schema, report.path, {"user": np.array([1, 9, 3]), "item": np.array([9, 0, 3])}, 3)
