"""Heads over delta versions: predictions are those of a full export of the same module, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from ringpull import TableOptions, export_delta, export_model
from ringpull.deploy.model_folders import choose_versions, find_version
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.router.control.deployment_spec import initial_spec
from ringpull.router.control.operations import Publish
from tests.inference.export.test_delta import SCHEMA, Two, changed
from tests.integration.local import local_cluster

COLUMNS = {
    "item": np.arange(-2, 46),
    "user": np.arange(48) % 31,
    "price": np.linspace(-1, 1, 48, dtype=np.float32),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1, a delta of rows, a delta of the dense program alone, and all of it as a full version elsewhere."""
    folder = tmp_path_factory.mktemp("models")
    options = {"tables": {"item": TableOptions(row_type="int8")}, "quiet": True}
    module = Two()
    export_model(module, SCHEMA, folder / "two", 1, **options)
    grown = Two(items=44)
    with torch.no_grad():
        grown.user.weight[:], grown.item.weight[:40] = module.user.weight, module.item.weight
    export_delta(changed(grown, [2, 30]), SCHEMA, folder / "two", 2, 1, **options)
    with torch.no_grad():
        grown.weight *= 2
    export_delta(grown, SCHEMA, folder / "two", 3, 2, **options)
    export_model(grown, SCHEMA, folder / "whole" / "two", 3, **options)
    return folder


@pytest.mark.parametrize("local_reads", [True, False])
@pytest.mark.parametrize("shards", [1, 3])
def test_predictions_are_those_of_a_full_export(models: Path, shards: int, local_reads: bool) -> None:
    config = HeadConfig(default_timeout_s=60, local_reads=local_reads)
    with local_cluster([models / "whole" / "two" / "3"], shards=shards, config=config) as cluster:
        expected = cluster.client().predict("two", COLUMNS).outputs["score"]
    deltas = [models / "two" / number for number in "123"]
    with local_cluster(deltas, shards=shards, config=config) as cluster, cluster.client() as client:
        found = client.predict("two", COLUMNS).outputs["score"]
        before = client.predict("two", COLUMNS, version=2).outputs["score"]
    assert found.tobytes() == expected.tobytes()
    assert before.tobytes() != expected.tobytes()


def test_a_delta_of_rows_has_the_program_of_the_version_before(models: Path) -> None:
    first = LoadedVersion.load(models / "two" / "1", device="cpu")
    second = LoadedVersion.load(models / "two" / "2", device="cpu", like=[first])
    third = LoadedVersion.load(models / "two" / "3", device="cpu", like=[first, second])
    assert second.program is first.program
    assert third.program is not first.program


def test_rows_of_another_delta_are_found_by_the_self_check(models: Path, tmp_path: Path) -> None:
    """Shards that lack a delta, though they say they have the version, are told by its samples."""
    shutil.copytree(models / "two", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "2" / "tables" / "item")
    shutil.copytree(models / "two" / "1" / "tables" / "item", tmp_path / "two" / "2" / "tables" / "item")
    with (
        pytest.raises(CorruptData, match="self-check of two/2: table item is not the one that was exported"),
        local_cluster([tmp_path / "two" / "2"]),
    ):
        pytest.fail("it serves")


def test_chains_lie_at_urls_too(models: Path) -> None:
    files = fsspec.filesystem("memory")
    try:
        files.put(str(models / "two"), "/chains/two", recursive=True)
        [placed] = choose_versions(["memory://chains/two"])
        [here] = choose_versions([models / "two"])
        assert [link.version for link in placed.chain] == [1, 2]
        assert placed.chain == here.chain
        item = placed.tables["item"]
        assert (item.folder, item.within) == ("memory://chains/two/1/tables/item", "memory://chains/two/1")
        assert [part.folder for part in item.parts] == ["memory://chains/two/2/tables/item"]
        assert item.parts[0].identity == here.tables["item"].parts[0].identity
        files.rm("/chains/two/1", recursive=True)
        with pytest.raises(InvalidInput, match="two/2 in memory://chains/two/2 is a delta of two/1"):
            choose_versions(["memory://chains/two"])
        spec = initial_spec(range(2), [here])
        again = find_version(Publish(model="two", version=3, folder="memory://chains/two"), spec)
        assert (again.chain, again.tables) == (here.chain, here.tables), "what is open needs no folder"
    finally:
        files.rm("/chains", recursive=True)
