"""A version with a table that is not the exporter's never serves, however little its rows weigh in a score."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull import Schema, Sparse, TableOptions, export_model
from ringpull.inference.model.manifest import FileEntry, Manifest
from ringpull.inference.model.samples import FILE, Samples
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import CorruptData
from ringpull.ps.hashing import SLOT_SHIFT, positions_of
from tests.integration.local import local_cluster
from tests.integration.ranker import export_ranker
from tests.integration.test_faults import Exported

pytestmark = [pytest.mark.net, pytest.mark.medium]

TABLES = ("user", "item", "town", "genres", "liked")
ROWS = 20_000
IDS = np.arange(ROWS, dtype=np.uint64)


class Two(nn.Module):
    """Its scores are near 7,000, whatever the rows are."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda rows: rows) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.large, self.small = nn.Embedding(ROWS, 4), nn.Embedding(5, 3)
        with torch.no_grad():
            self.large.weight.copy_(change(self.large.weight))

    def forward(self, large: Tensor, small: Tensor) -> Tensor:
        return 7000 * (1 + 0.001 * (self.large(large).sum(1) + self.small(small).sum(1)))


def export_two(folder: Path, module: nn.Module, keys: np.ndarray = IDS, **tables: TableOptions) -> Path:
    schema = Schema([Sparse("large", dtype="uint64"), Sparse("small")])
    return export_model(
        module, schema, folder / "two", 1, keys={"large": keys.tolist()}, tables=tables, quiet=True
    ).path


def with_table_of(other: Path, version: Path, table: str, into: Path) -> Path:
    """Return a copy of a version with the files of one table of another version, all of them whole."""
    folder = shutil.copytree(version, into / version.parent.name / version.name)
    mine, theirs = (Manifest.load(each).table_folder(each, table) for each in (folder, other))
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)
    return folder


def with_samples(version: Path, samples: Samples) -> None:
    (version / FILE).write_bytes(samples.to_bytes())
    replace(Manifest.load(version), samples=FileEntry.of(version, FILE)).save(version)


def samples_of(version: Path) -> Samples:
    samples = LoadedVersion.load(version).samples
    assert samples is not None
    return samples


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another export of the ranker."""
    return export_ranker(tmp_path_factory.mktemp("other"), seed=1)[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_two(tmp_path_factory.mktemp("models"), Two())


def refused(version: Path, match: str) -> None:
    with pytest.raises(CorruptData, match=match), local_cluster([version], shards=3):
        pytest.fail("it serves")


@pytest.mark.parametrize("table", TABLES)
def test_any_one_table_of_another_export(exported: Exported, other: Path, tmp_path: Path, table: str) -> None:
    spoilt = with_table_of(other, exported[1], table, tmp_path)
    refused(spoilt, rf"self-check of ranker/1: table {table} is not the one that was exported: \d+ of \d+ sample keys")


def in_slots(begin: int, end: int) -> Tensor:
    slots = positions_of(IDS) >> np.uint64(SLOT_SHIFT)
    return torch.from_numpy((slots >= begin) & (slots < end))


@pytest.mark.parametrize("begin", [0, 31_000, 65_000])
def test_wrong_rows_in_one_part_of_the_ring(two: Path, tmp_path: Path, begin: int) -> None:
    """No sample row meets them: half a percent of the table."""
    wrong = in_slots(begin, begin + 330)
    spoilt = export_two(tmp_path / "other", Two(lambda rows: torch.where(wrong[:, None], rows + 0.0001, rows)))
    refused(with_table_of(spoilt, two, "large", tmp_path), r"table large is not the one that was exported: \d+ of")


@pytest.mark.parametrize("shift", [1, 5000])
def test_shifted_keys(two: Path, tmp_path: Path, shift: int) -> None:
    """Rows are equal or nearly so, but those of keys that only the one or the other has."""
    spoilt = export_two(tmp_path / "other", Two(), IDS + np.uint64(shift))
    refused(with_table_of(spoilt, two, "large", tmp_path), "table large is not the one that was exported")


def test_a_table_of_more_rows_than_were_exported(tmp_path: Path) -> None:
    module = Two()
    few = export_two(tmp_path / "few", module)
    module.small = nn.Embedding.from_pretrained(torch.cat([module.small.weight, torch.ones(1, 3)]))
    more = export_two(tmp_path / "more", module)
    refused(with_table_of(more, few, "small", tmp_path), "table small is not the one that was exported: 1 of")


def test_a_difference_of_a_thousand_in_scores_of_seven_thousand(two: Path, tmp_path: Path) -> None:
    """The tolerance is absolute; it was multiplied by what was expected."""
    samples = samples_of(two)
    assert 0.1 < samples.tolerance < 10
    spoilt = shutil.copytree(two, tmp_path / "two" / "1")
    for off, wrong in ((1000, True), (2, True), (0.2, False)):
        outputs = {name: values + np.float32(off) for name, values in samples.outputs.items()}
        with_samples(spoilt, replace(samples, outputs=outputs))
        if wrong:
            refused(spoilt, r"self-check of two/1: output output of sample row 0 is \d+")
        else:
            with local_cluster([spoilt]):
                pass
