"""The model whose rows are pushed while chaos is played: one table with one copy, and nothing but its rows to score.

All numbers of a row are the number of the push that wrote it, and those of the exported rows are 0. What is predicted
is the smallest and the largest number of a row: they differ where a row is seen half written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from ringpull import Schema, Sparse, export_model
from ringpull.inference.export.table_options import TableOptions
from ringpull.loadtest.chaos.checked_model import ids_of

PUSHED: Final = "pushed"
TABLE: Final = "number"
FEATURE: Final = "number"
LOW: Final = "low"
HIGH: Final = "high"
DIM: Final = 8
EXPORTED: Final = 200
"""Rows that the version has; further keys are new ones."""


class Numbers(nn.Module):
    """The smallest and the largest number of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Embedding.from_pretrained(torch.zeros(EXPORTED, DIM))  # type: ignore[no-untyped-call]

    def forward(self, number: Tensor) -> dict[str, Tensor]:
        rows = self.number(number)
        return {LOW: rows.amin(1), HIGH: rows.amax(1)}


def export_pushed(folder: Path) -> None:
    """Write `folder/1/`."""
    export_model(
        Numbers(),
        Schema([Sparse(FEATURE)]),
        folder,
        1,
        keys={TABLE: ids_of(np.arange(EXPORTED))},
        name=PUSHED,
        tables={TABLE: TableOptions(live=True, on_unavailable="default")},
        quiet=True,
    )
