"""Names of the classes of outputs, as an exporter gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ringpull import Schema, Sparse, export_model
from ringpull.inference.export.classes import with_classes
from ringpull.inference.model.manifest import Manifest, ProgramOutput
from ringpull.ps.errors import InvalidInput

OUTPUTS = (ProgramOutput(name="score", shape=()), ProgramOutput(name="genre", shape=(2,)))


def test_an_output_gets_its_classes() -> None:
    named = with_classes(OUTPUTS, {"genre": ["drama", "other"]})
    assert named == (OUTPUTS[0], ProgramOutput(name="genre", shape=(2,), classes=("drama", "other")))
    assert with_classes(OUTPUTS, {}) == OUTPUTS


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ({"x": ["a"]}, "the output 'x'; there is score, genre"),
        ({"genre": ["a"]}, "classes of genre are 1; a row of it has the shape (2,)"),
        ({"score": []}, "classes of score are 0"),
        ({"genre": "ab"}, "must be a list of names"),
        ({"genre": ["a", 7]}, "must be a list of names"),
        ({"genre": ["a", ""]}, "none empty"),
    ],
    ids=["output", "few", "none", "text", "number", "empty"],
)
def test_what_does_not_fit_is_refused(classes: Any, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        with_classes(OUTPUTS, classes)
    assert says in str(caught.value)


class Genres(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(5, 2)

    def forward(self, item: Tensor) -> dict[str, Tensor]:
        return {"genre": torch.softmax(self.item(item), dim=1)}


@pytest.mark.medium
def test_a_version_has_them(tmp_path: Path) -> None:
    classes = {"genre": ("drama", "other")}
    report = export_model(Genres(), Schema([Sparse("item")]), tmp_path / "genres", 1, classes=classes, quiet=True)
    (output,) = Manifest.load(report.path).outputs
    assert output.classes == classes["genre"]
