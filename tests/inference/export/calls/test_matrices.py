"""One matrix of ids and numbers side by side, whose columns the model takes and casts to ids: taken apart by export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.kinds import Cross, Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from tests.inference.export.calls.served import export_and_compare

FEATURES: list[Feature] = [
    Sparse("user"),
    Sparse("item"),
    Cross("pair", ("user", "item"), 50),
    Dense("price"),
    Dense("age", flat=True),
    Dense("text", width=3),
    IdSequence("seen", length=4, pad_side="left"),
]
pytestmark = pytest.mark.medium

MEMBERS = ["user", "price", "seen", "seen_lengths", "pair", "age", "item", "text"]
COLUMNS: dict[str, Any] = {
    "user": np.array([1, 5, 0, 7]),
    "item": np.array([2, 2, 9, 3]),
    "price": np.array([0.5, -1.0, 2.0, 0.25], np.float32),
    "age": np.array([1.5, 3.0, -2.0, 0.75], np.float32),
    "text": np.arange(12, dtype=np.float32).reshape(4, 3),
    "seen": Ragged(np.arange(1, 8), np.array([0, 2, 3, 7, 7])),
}


class OneMatrix(nn.Module):
    """A model that gets its features side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item, self.pair = nn.Embedding(10, 4), nn.Embedding(10, 4), nn.Embedding(50, 4)
        self.out = nn.Linear(5, 1)

    def forward(self, X: Tensor) -> Tensor:
        ids = [self.user(X[:, 0:1].long()), self.pair(X[:, 7:8].long()), self.item(X[:, 9:10].long())]
        seen = self.item(X[:, 2:6].long())
        mask = (X[:, 2:6] != 0).float().unsqueeze(2)
        pooled = (seen * mask).sum(1, keepdim=True) / X[:, 6:7].unsqueeze(2).clamp(min=1)
        logit = X.new_zeros((X.shape[0], 1))
        logit += self.out(torch.cat([X[:, 1:2], X[:, 8:9], X[:, 10:13]], dim=1))
        return torch.sigmoid(torch.cat([*ids, pooled], dim=1).sum(dim=(1, 2)).unsqueeze(1) + logit)


def test_training_gets_the_matrix_as_floats() -> None:
    schema = Schema(FEATURES, {"X": MEMBERS})
    made = schema.arguments(schema.prepare(COLUMNS, 4))
    columns = [made["user"], made["price"], made["seen"], made["seen_lengths"], made["pair"], made["age"], made["item"]]
    rows = [[number for each in [*columns, made["text"]] for number in np.ravel(each[row])] for row in range(4)]
    assert made["X"].dtype == np.float32
    assert made["X"].tolist() == np.array(rows, np.float32).tolist()
    assert made["age"].tolist() == [1.5, 3.0, -2.0, 0.75]
    again = Schema.from_json(schema.to_json())
    assert again == schema
    assert again.argument_names() == schema.argument_names()


def test_a_matrix_is_taken_apart(tmp_path: Path) -> None:
    module = OneMatrix()
    schema = Schema(FEATURES, {"X": MEMBERS})
    report = export_and_compare(module, schema, tmp_path, COLUMNS, lambda made: module(made["X"]))
    named = {each.argument for each in report.manifest.inputs if each.argument}
    assert "X" not in named
    assert {"price", "age", "text", "seen_lengths"} <= named


def test_a_flat_number_is_one_per_row(tmp_path: Path) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.item = nn.Embedding(10, 4)

        def forward(self, item: Tensor, age: Tensor, numbers: Tensor) -> Tensor:
            return (self.item(item) * age.unsqueeze(1)).sum(1) + numbers[:, 1]

    module = Flat()
    schema = Schema(FEATURES, {"numbers": ["price", "age"]})
    report = export_and_compare(
        module, schema, tmp_path, COLUMNS, lambda made: module(made["item"], made["age"], made["numbers"])
    )
    assert [table.name for table in report.tables] == ["item"]


@pytest.mark.parametrize("members", [["user", "item"], ["user", "seen", "item"]])
def test_ids_alone_are_given_as_the_model_takes_them(tmp_path: Path, members: list[str]) -> None:
    """Some libraries look up columns of integers as they are, some add up floats in a tensor made like the matrix."""

    class Integers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ids = nn.Embedding(10, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.ids(x).sum(dim=(1, 2))

        def floats(self, x: Tensor) -> Tensor:
            logit = x.new_zeros((x.shape[0],))
            logit += self.ids(x.long()).sum(dim=(1, 2))
            return logit

    module = Integers()
    schema = Schema(FEATURES, {"x": members})
    for method in ("forward", "floats"):
        export_and_compare(
            module, schema, tmp_path / method, COLUMNS, lambda made: module(made["x"].long()), method=method
        )
