"""Outputs that are infinite or NaN: equal to themselves wherever outputs are compared, and to nothing else."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull import Dense, Schema, Sparse, TableOptions, export_model
from ringpull.inference.export.cost import refuse_above
from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.selfcheck import self_check
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.samples import Samples, differences
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import CorruptData, ExportError
from tests.inference.export.versions import Exported
from tests.inference.fakes import ReferenceRouter

SCHEMA = Schema([Sparse("item"), Dense("price")])
SPECIAL = [float("inf"), float("-inf"), float("nan"), 1.0]
IDS = ["inf", "-inf", "nan", "one"]


class Special(nn.Module):
    """Scores half of the rows, those of a positive price, by one number; as a program, by another."""

    def __init__(self, own: float, traced: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.item = nn.Embedding(10, 4)
        self.own, self.traced = own, traced

    def forward(self, item: Tensor, price: Tensor) -> Tensor:
        number = self.traced if torch.compiler.is_compiling() else self.own
        return torch.where(price.squeeze(1) > 0, number, self.item(item).sum(1))


def export(folder: Path, own: float, traced: float, **options: Any) -> Any:
    return export_model(Special(own, traced), SCHEMA, folder / "special", 1, quiet=True, **options)


@pytest.mark.medium
@pytest.mark.parametrize("own", SPECIAL, ids=IDS)
@pytest.mark.parametrize("traced", SPECIAL, ids=IDS)
def test_an_export_is_refused_where_only_one_side_is_that(tmp_path: Path, own: float, traced: float) -> None:
    if own == traced or (np.isnan(own) and np.isnan(traced)):
        report = export(tmp_path, own, traced)
        assert report.check.largest_difference < 1e-5
        assert 0 < report.check.largest_output < 20
        return
    with pytest.raises(ExportError, match=r"self-check: output .*: the exported model's differs .*, by up to inf"):
        export(tmp_path, own, traced)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("found", "expected"), [*itertools.product(SPECIAL, SPECIAL)])
def test_differences_are_never_hidden(found: float, expected: float) -> None:
    same = found == expected or (np.isnan(found) and np.isnan(expected))
    [difference] = differences(np.array([found]), np.array([expected])).tolist()
    assert difference == (0.0 if same else np.inf)


# -- the head's self-check ---------------------------------------------------------------------------------------------


async def check(version: Path, samples: Samples) -> None:
    """Hold a version against samples, as a head does before it goes live; its tables are dictionaries."""
    loaded = LoadedVersion.load(version, device="cpu")
    router = ReferenceRouter(Exported(version).tables)
    with ThreadPoolExecutor(1) as executor:
        await self_check(ServedVersion(loaded, router, executor, max_batch_rows=64), samples, router, 60)


@pytest.mark.medium
@pytest.mark.parametrize("number", SPECIAL, ids=IDS)
async def test_a_head_takes_such_samples_and_refuses_others(tmp_path: Path, number: float) -> None:
    version = export(tmp_path, number, number).path
    manifest = Manifest.load(version)
    assert manifest.samples is not None
    samples = Samples.from_bytes(manifest.samples.read(version), "samples")
    [(name, outputs)] = samples.outputs.items()
    np.testing.assert_equal(outputs[samples.prepared.features["price"].dense[:, 0] > 0], np.float32(number))
    await check(version, samples)
    [place, *_] = np.flatnonzero(samples.prepared.features["price"].dense[:, 0] > 0)
    for other in SPECIAL:
        if other == number or (np.isnan(other) and np.isnan(number)):
            continue
        wrong = outputs.copy()
        wrong[place] = other
        with pytest.raises(CorruptData, match=f"output {name} of sample row {place} is .*, and was .* when it was"):
            await check(version, replace(samples, outputs={name: wrong}))


# -- the cost of short rows --------------------------------------------------------------------------------------------


class Steep(nn.Module):
    """Divides by what is left of a row's numbers: rounding may make that zero, or a zero of something."""

    def __init__(self, weights: list[float], numerator: float) -> None:
        super().__init__()
        self.item = nn.Embedding(len(weights), 1)
        self.item.weight.data = torch.tensor(weights)[:, None]
        self.numerator = numerator

    def forward(self, item: Tensor, price: Tensor) -> Tensor:
        return (self.numerator / (self.item(item).squeeze(1) - 1.0)) + 0 * price.squeeze(1)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("weights", "numerator", "largest"),
    [
        ([2.0, 1.0], 1.0, 0.0),  # infinite before and after
        ([2.0, 1.0], 0.0, 0.0),  # NaN before and after
        ([2.0, 1.0001], 1.0, np.inf),  # infinite once it is rounded to 1
        ([2.0, 1.0001], 0.0, np.inf),  # NaN then
    ],
    ids=["inf", "nan", "inf after", "nan after"],
)
def test_what_rounding_makes_infinite_or_nan_is_no_small_cost(
    tmp_path: Path, weights: list[float], numerator: float, largest: float
) -> None:
    options: dict[str, Any] = {
        "tables": {"item": TableOptions(row_type="bfloat16")},
        "check_columns": {"item": [0, 1], "price": [0.0, 0.0]},
        "check_rows": 0,
        "quiet": True,
    }
    report = export_model(Steep(weights, numerator), SCHEMA, tmp_path / "steep", 1, **options)
    assert report.cost is not None
    assert report.cost.largest_difference == largest
    if largest:
        with pytest.raises(ExportError, match="scores differ by up to inf"):
            export_model(Steep(weights, numerator), SCHEMA, tmp_path / "steep", 2, max_diff=1e30, **options)
    refuse_above(report.cost, max_diff=largest)
