"""Outputs come by name from whatever a method returns, and `outputs=` says which of them are served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError, InvalidInput
from tests.inference.export.calls.served import export_and_compare, table_names

SCHEMA = Schema([Sparse("user")])
COLUMNS = {"user": np.array([1, 5, 0])}


@dataclass
class Scores:
    score: Tensor
    vector: Tensor | None = None


class Pair(NamedTuple):
    score: Tensor
    vector: Tensor | None = None


class Returning(nn.Module):
    """A model that returns what it is told to, of its scores (B,) and vectors (B, 4)."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.users = nn.Embedding(10, 4)

    def forward(self, user: Tensor) -> Any:
        vector = self.users(user)
        score = vector.sum(1)
        loss = self.users.weight.pow(2).sum()
        return {
            "dataclass": Scores(score, vector),
            "dataclass of one": Scores(score),
            "named tuple of one": Pair(score),
            "object": SimpleNamespace(score=score, vector=vector),
            "none": (None, score, None),
            "nested": {"ctr": score, "of": {"users": vector, "both": [score, vector]}},
            "dict in a tuple": (score, {"vector": vector}),
            "loss": (score, loss),
            "loss by name": {"loss": loss, "score": score, "best": score.argsort(), "vector": vector},
            "two of a name": {"a.b": score, "a": {"b": score}},
            "number keys": {1: score, "1": vector},
            "nothing": None,
            "loss alone": loss,
        }[self.how]


def exported(tmp_path: Path, how: str, wanted: list[str] | None = None) -> list[str]:
    """Export, compare with the module's own tensors of the names that came out, and return these names."""
    module = Returning(how)
    vectors = ("vector", "of.users", "of.both.1", "output_1.vector")
    with torch.no_grad():
        vector = module.users(torch.from_numpy(COLUMNS["user"]))
        score = vector.sum(1)
    expected: list[Tensor] = []

    def ask(_: dict[str, Tensor]) -> list[Tensor]:
        return expected

    report = export_model(module, SCHEMA, tmp_path / "names", 1, outputs=wanted, quiet=True)
    names = [each.name for each in report.manifest.outputs]
    expected += [vector if name in vectors else score for name in names]
    report = export_and_compare(module, SCHEMA, tmp_path, COLUMNS, ask, outputs=wanted)
    assert table_names(report) == ["users"]
    return names


@pytest.mark.parametrize(
    ("how", "names"),
    [
        ("dataclass", ["score", "vector"]),
        ("dataclass of one", ["score"]),
        ("named tuple of one", ["score"]),
        ("object", ["score", "vector"]),
        ("none", ["output_1"]),
        ("nested", ["ctr", "of.users", "of.both.0", "of.both.1"]),
        ("dict in a tuple", ["output_0", "output_1.vector"]),
    ],
)
def test_what_there_is_comes_out_by_name(tmp_path: Path, how: str, names: list[str]) -> None:
    assert exported(tmp_path, how) == names


@pytest.mark.parametrize(
    ("how", "wanted"),
    [("loss", ["output_0"]), ("loss by name", ["vector", "score"]), ("nested", ["of.both.1"])],
)
def test_what_is_wanted_comes_out_in_the_order_wanted(tmp_path: Path, how: str, wanted: list[str]) -> None:
    assert exported(tmp_path, how, wanted) == wanted


@pytest.mark.parametrize(
    ("how", "wanted", "message"),
    [
        ("loss", None, r"output 'output_1': returns one number.*To leave it out.*outputs=\['output_0'\]"),
        ("loss by name", None, r"output 'loss': returns one number .*outputs=\['score', 'vector'\]"),
        (
            "loss by name",
            ["best"],
            "output 'best': returns int64; scores are floats: return them as they are, or .float\\(\\)$",
        ),
        ("loss alone", None, r"^Returning: returns one number for all rows, at test_results.py"),
        ("dataclass", ["scores"], "outputs names 'scores', which Returning does not return; it returns score, vector"),
        ("two of a name", None, "Returning returns two outputs of the name 'a.b'"),
        ("number keys", None, "Returning returns two outputs of the name '1'"),
        ("nothing", None, "^Returning: returns nothing"),
    ],
)
def test_what_can_be_no_output_is_told_by_name(
    tmp_path: Path, how: str, wanted: list[str] | None, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export_model(Returning(how), SCHEMA, tmp_path / "model", 1, outputs=wanted, quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wanted", ["score", [], ["score", "score"], [0]])
def test_outputs_are_a_list_of_different_names(tmp_path: Path, wanted: Any) -> None:
    with pytest.raises(InvalidInput, match=r"outputs is .*; it must be a list"):
        export_model(Returning("dataclass"), SCHEMA, tmp_path / "model", 1, outputs=wanted, quiet=True)
