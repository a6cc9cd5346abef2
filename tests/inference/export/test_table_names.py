"""Tables are called by their module's path, as far as a table's name can hold it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ringpull import Schema, Sparse, export_model
from tests.inference.export.versions import assert_equal

pytestmark = pytest.mark.medium

NAMES = ("a+b", "a_b", "a b", "ü" * 130, "-")


class Keyed(nn.Module):
    """A sum of embeddings whose keys are any text, as libraries make them of pairs of features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pairs = nn.ModuleDict({name: nn.Embedding(20, 4) for name in NAMES})

    def forward(self, item: Tensor) -> Tensor:
        return torch.stack([embedding(item) for embedding in self.pairs.values()]).sum(0).sum(1)


def test_a_path_that_no_table_can_be_called_becomes_a_name_of_its_own(tmp_path: Path) -> None:
    schema, module = Schema([Sparse("item")]), Keyed()
    report = export_model(module, schema, tmp_path / "keyed", 1, quiet=True)
    names = [table.name for table in report.tables]
    assert names[:3] == ["pairs.a_b_2", "pairs.a_b", "pairs.a_b_3"]
    assert len(set(names)) == len(NAMES)
    assert_equal(module, schema, report.path, {"item": torch.arange(20).numpy()}, 20)
