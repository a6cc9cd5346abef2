"""Idioms of public recommender code, exported as they are written, and compared with the module itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ringpull.inference.export.model import export_model
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.kinds import IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError
from tests.inference.export.calls.served import export_and_compare, table_names

SCHEMA = Schema([Sparse("user"), Sparse("item"), IdSequence("seen", length=4)])
COLUMNS = {
    "user": np.array([1, 5, 0]),
    "item": np.array([2, 2, 9]),
    "seen": Ragged(np.arange(1, 8), np.array([0, 2, 3, 7])),
}


class Renormed(nn.Module):
    """A model whose rows are brought to a largest norm while they are looked up."""

    def __init__(self, norm_type: float = 2.0) -> None:
        super().__init__()
        self.users = nn.Embedding(10, 4, max_norm=0.5, norm_type=norm_type)
        self.items = nn.Embedding(10, 4)
        self.seen = nn.EmbeddingBag(10, 4, mode="mean", max_norm=0.3)
        for each in (self.users, self.items, self.seen):
            nn.init.normal_(each.weight, std=2.0)

    def forward(self, user: Tensor, item: Tensor, seen: Tensor) -> Tensor:
        items = functional.embedding(item, self.items.weight, None, 1.5)
        return ((self.users(user) + self.seen(seen)) * items).sum(1)


@pytest.mark.parametrize("norm_type", [1.0, 2.0])
def test_rows_of_a_largest_norm(tmp_path: Path, norm_type: float) -> None:
    module = Renormed(norm_type)
    before = {name: each.clone() for name, each in module.state_dict().items()}

    def ask(made: dict[str, Tensor]) -> Tensor:
        assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items()), "left as it was"
        return module(made["user"], made["item"], made["seen"])

    report = export_and_compare(module, SCHEMA, tmp_path, COLUMNS, ask)
    assert table_names(report) == ["items.computed", "seen.computed", "users.computed"]
    assert any(not torch.equal(each, before[name]) for name, each in module.state_dict().items()), "torch changes rows"


class Autocast(nn.Module):
    """A model that computes in bfloat16, and with gradients wherever it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(10, 4), nn.Embedding(10, 4)
        self.out = nn.Linear(4, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            score = self.out(self.users(user)).float()
        with torch.enable_grad():
            return score + self.out(self.items(item))


def test_look_ups_under_autocast(tmp_path: Path) -> None:
    module = Autocast()

    def ask(made: dict[str, Tensor]) -> Tensor:
        return module(made["user"], made["item"]).detach()

    report = export_and_compare(module, SCHEMA, tmp_path, COLUMNS, ask)
    assert table_names(report) == ["items", "users"]


class InBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(10, 4), nn.Embedding(10, 4)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.users(user) @ self.items(item).T


def test_rows_scored_with_those_of_other_requests(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="returns scores of each row with every row of its batch"):
        export_model(InBatch(), SCHEMA, tmp_path / "model", 1, quiet=True)


class OfAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(10, 4), nn.Embedding(10, 4)

    def forward(self, features: list[Tensor]) -> Tensor:
        user, item = features
        return (self.users(user) * self.items(item)).sum(1)


def test_a_list_of_features_is_named_in_its_order(tmp_path: Path) -> None:
    module = OfAList()
    with pytest.raises(ExportError, match=r"takes a list, 'features'; name .*: \[ARGUMENT, ...\]., from user"):
        export_model(module, SCHEMA, tmp_path / "refused", 1, quiet=True)
    named = {"features": ["user", "item"]}

    def ask(made: dict[str, Tensor]) -> Tensor:
        return module([made["user"], made["item"]])

    report = export_and_compare(module, SCHEMA, tmp_path, COLUMNS, ask, arguments=named)
    assert table_names(report) == ["items", "users"]


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_a_whole_script_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"module is a torch.jit.ScriptModule, .* give the module that it was made of"
    ):
        export_model(torch.jit.trace(InBatch(), (torch.arange(3),) * 2), SCHEMA, tmp_path / "model", 1, quiet=True)
