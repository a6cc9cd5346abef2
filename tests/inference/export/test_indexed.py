"""Ids beyond whatever the dense program reads by ids are limits of the version: the module raises at the same ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ringpull.inference.export.model import export_model
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import InvalidInput
from tests.inference.export.versions import Exported, assert_equal
from tests.inference.small_model import received_of

pytestmark = pytest.mark.medium

ROWS, DIM, LENGTH = 12, 4, 5
SCHEMA = Schema([Sparse("user"), IdSequence("history", length=LENGTH, never_empty=True), Dense("age")])


class Base(nn.Module):
    numbers: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.register_buffer("numbers", torch.arange(ROWS * DIM).reshape(ROWS, DIM) % 5)
        self.scores = nn.Linear(1, ROWS)


class Indexed(Base):
    def forward(self, user: Tensor) -> Tensor:
        return self.numbers[user].float()


class IndexedOne(Base):
    def forward(self, user: Tensor) -> Tensor:
        return self.numbers[:, 0][user + 2].float()


class Selected(Base):
    def forward(self, user: Tensor) -> Tensor:
        return self.numbers.index_select(0, user).float()


class Taken(Base):
    def forward(self, user: Tensor) -> Tensor:
        return torch.take(self.numbers, user).float()


class Gathered(Base):
    def forward(self, user: Tensor) -> Tensor:
        return self.numbers.gather(0, user[:, None].expand(-1, DIM)).float()


class Moved(Base):
    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        return self.numbers[history.gather(1, history_lengths[:, None] - 1)[:, 0]].float()


class Looked(Base):
    """It reads what it reads by an id that was moved, too."""

    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        last = history[torch.arange(history.shape[0]), history_lengths - 1]
        return F.embedding(last, self.numbers).float()


class Scored(Base):
    def forward(self, user: Tensor, age: Tensor) -> Tensor:
        return self.scores(age).gather(1, user.unsqueeze(1)).squeeze(1)


class ScoredByRow(Base):
    def forward(self, user: Tensor, age: Tensor) -> Tensor:
        return self.scores(age)[torch.arange(age.shape[0]), user]


class Scattered(Base):
    def forward(self, user: Tensor, age: Tensor) -> Tensor:
        return torch.zeros_like(self.scores(age)).scatter(1, user.unsqueeze(1), 1.0).cumsum(1)


class OneHot(Base):
    def forward(self, user: Tensor) -> Tensor:
        return F.one_hot(user, ROWS).cumsum(1).float()


class Masked(Base):
    """What is masked in the index is no limit."""

    def forward(self, user: Tensor, age: Tensor) -> Tensor:
        kept = self.numbers[torch.where(user < ROWS, user, 0)].float()
        return torch.where(age > 0, kept, 0.0)


WRAPPED = -ROWS, ROWS
PLAIN = 0, ROWS
CASES = [
    (Indexed, {"user": WRAPPED}),
    (IndexedOne, {"user": (-ROWS - 2, ROWS - 2)}),
    (Selected, {"user": PLAIN}),
    (Taken, {"user": (-ROWS * DIM, ROWS * DIM)}),
    (Gathered, {"user": PLAIN}),
    (Moved, {"history": WRAPPED}),
    (Looked, {"history": PLAIN}),
    (Scored, {"user": PLAIN}),
    (ScoredByRow, {"user": WRAPPED}),
    (Scattered, {"user": PLAIN}),
    (OneHot, {"user": PLAIN}),
    (Masked, {"user": (-ROWS, 2**63 - 1)}),
]


def columns_of(ids: list[int]) -> dict[str, Column]:
    rows = len(ids)
    return {
        "user": np.array(ids),
        "history": Ragged(np.array(ids), np.arange(rows + 1)),
        "age": np.linspace(-1, 1, rows, dtype=np.float32)[:, None],
    }


@pytest.mark.parametrize(("module", "limits"), CASES)
def test_ids_at_which_the_module_raises_are_beyond_the_limits(
    tmp_path: Path, module: type[Base], limits: dict[str, tuple[int, int]]
) -> None:
    report = export_model(module(), SCHEMA, tmp_path / "model", 1, quiet=True)
    assert {each.feature: (each.low, each.high) for each in report.manifest.limits} == limits
    ((name, (low, high)),) = limits.items()
    ends = [low, *([high - 1] if high < 2**63 - 1 else [])]
    assert_equal(module(), SCHEMA, report.path, columns_of([*ends, 3, 0]), len(ends) + 2)
    served = Exported(report.path)
    preparation = Preparation(served.manifest, served.schema)
    for beyond in (low - 1, *([high] if high < 2**63 - 1 else [])):
        with pytest.raises((IndexError, RuntimeError)):
            assert_equal(module(), SCHEMA, report.path, columns_of([1, beyond]), 2)
        columns = columns_of([1, beyond])
        used = {each: columns[each] for each in columns if each in {feature.name for feature in served.schema.features}}
        refused = preparation.prepare([received_of(used)]).refused
        assert type(refused[0]) is InvalidInput
        assert str(refused[0]).startswith(
            f"feature {name}: row 1 has the id {beyond}; the model takes ids from {low} to {high - 1};"
        )


class Replaced(Base):
    """It reads a constant by ids, whose numbers are looked up: no more than the rows of both is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, DIM)

    def forward(self, user: Tensor) -> Tensor:
        return self.table(user) + self.table(self.numbers[:, 0][user])


def test_what_became_a_table_limits_no_ids(tmp_path: Path) -> None:
    report = export_model(Replaced(), SCHEMA, tmp_path / "model", 1, quiet=True)
    assert len(report.tables) == 2
    assert not report.kept
    assert not report.manifest.limits
