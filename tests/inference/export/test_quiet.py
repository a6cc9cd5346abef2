"""What torch says of its own internals stays away from standard error; what the user's module prints does not."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from torch import Tensor, nn

from ringpull.inference.export.diagnosis.quiet import LOGGERS
from ringpull.inference.export.model import export_model
from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(12, 4)

    def forward(self, user: Tensor) -> Tensor:
        print("the user's own", file=sys.stderr)
        score = self.e(user).sum(1)
        if score.mean() > 0:
            return score
        return -score


def test_a_failed_trace_says_one_thing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the error in words, torch printed its graph of the module so far, twice, and logged a symbol's name."""
    handler = logging.StreamHandler(sys.stderr)
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
    try:
        with pytest.raises(ExportError, match="this decides by the values of a tensor"):
            export_model(Branch(), Schema([Sparse("user")]), tmp_path / "model", 1)
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(handler)
    said = set(capsys.readouterr().err.splitlines())
    assert said == {"the user's own"}
    assert not any(logging.getLogger(name).disabled for name in LOGGERS)
