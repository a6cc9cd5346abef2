"""Masks that drop a few ids among thousands: in whatever way a model names them, the version scores as it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.schema.kinds import IdSequence
from ringpull.inference.schema.schema import Schema
from tests.inference.export.versions import Exported
from tests.reference import assert_close

pytestmark = pytest.mark.medium

ROWS: Final = 5000
LENGTH: Final = 10
DROPPED: Final = 3750


class Masked(nn.Module):
    """A sum of what a mask keeps."""

    def __init__(self, keep: Callable[[Masked, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(ROWS, 8)
        self.keep = keep
        kept = torch.ones(ROWS)
        kept[DROPPED] = 0
        self.register_buffer("kept", kept)
        self.register_buffer("starts", torch.arange(200) * 25)

    def forward(self, items: Tensor) -> Tensor:
        return (self.items(items) * self.keep(self, items).unsqueeze(-1)).sum(1)


MASKS: Final[dict[str, Callable[[Masked, Tensor], Tensor]]] = {
    "one number of a long constant": lambda model, ids: ids != model.starts[DROPPED // 25],
    "computed number": lambda model, ids: ids != model.starts[1] * (DROPPED // 25),
    "a table by ids with bounds": lambda model, ids: model.kept[ids.clamp(max=ROWS - 1)],
    "remainder of ids with bounds": lambda model, ids: ids.clamp(max=ROWS - 1) % ROWS != DROPPED,
    "ids in few bits": lambda model, ids: ids.to(torch.int8) != DROPPED % 256 - 256 * (DROPPED % 256 > 127),
    "what the first one is": lambda model, ids: (ids[:, :1] != DROPPED) & (ids != 0),
}


@pytest.mark.parametrize("mask", MASKS)
def test_masks_that_drop_rare_ids_score_as_the_module(mask: str, tmp_path: Path) -> None:
    model = Masked(MASKS[mask])
    schema = Schema([IdSequence("items", length=LENGTH, pad=0)])
    report = export_model(model, schema, tmp_path / "model", 1, quiet=True)
    random = np.random.default_rng(0)
    ids = random.integers(1, ROWS, (300, LENGTH))
    ids[np.arange(300), random.integers(0, LENGTH, 300)] = DROPPED
    ids[:40, 0] = DROPPED
    scores = Exported(report.path).score({"items": ids.tolist()}, len(ids))["output"]
    with torch.no_grad():
        assert_close(scores, model(torch.from_numpy(ids)).numpy(), largest=10.0)
