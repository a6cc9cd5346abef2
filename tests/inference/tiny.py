"""The smallest exported version: one embedding and one number, for tests of loading and of a head's life."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ringpull import Dense, Schema, Sparse, TableOptions, export_model

SCHEMA = Schema([Sparse("item"), Dense("price")])


class Tiny(nn.Module):
    """Scores a row by the sum of its item's vector and its price."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.item = nn.Embedding(10, 4)

    def forward(self, item: Tensor, price: Tensor) -> dict[str, Tensor]:
        return {"score": self.item(item).sum(1) + price.squeeze(1)}


def export_tiny(folder: Path, version: int = 1, item: TableOptions | None = None) -> Path:
    """Export to `folder/tiny/VERSION`, the table with options; return that."""
    tables = None if item is None else {"item": item}
    export_model(Tiny().eval(), SCHEMA, folder / "tiny", version, tables=tables, quiet=True)
    return folder / "tiny" / str(version)
