"""A head holds a version against its own samples, through real shards, before it serves it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.samples import Samples
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import CorruptData
from ringpull.ps.spec import ALL
from tests.integration.local import local_cluster
from tests.integration.test_faults import Exported


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the exported version that may be spoilt."""
    folder = tmp_path / exported[1].parent.name / exported[1].name
    shutil.copytree(exported[1], folder)
    return folder


@pytest.mark.medium
@pytest.mark.parametrize("replicas", [1, 2, ALL])
def test_a_version_that_is_what_was_exported_passes(exported: Exported, replicas) -> None:
    assert LoadedVersion.load(exported[1]).samples is not None
    with local_cluster([exported[1]], shards=3, replicas=replicas):
        pass


def test_what_requests_cost_has_no_self_check_in_it(exported: Exported) -> None:
    with local_cluster([exported[1]]) as cluster, cluster.client() as client:
        status = client.status()
        assert (status.requests, status.pulls, status.messages, status.sent_bytes) == (0, 0, 0, 0)
        assert sum(table.keys for table in status.tables) > 0  # the shards were asked


def test_a_version_with_the_rows_of_another_never_serves(copied: Path) -> None:
    """Every file is whole, every checksum right: only the answers are wrong."""
    manifest = Manifest.load(copied)
    program = manifest.program.read(copied)
    samples = LoadedVersion.load(copied).samples
    assert samples is not None
    spoilt = Samples(
        samples.prepared,
        {name: values + np.float32(0.01) for name, values in samples.outputs.items()},
        samples.tolerance,
    )
    (copied / "samples.npz").write_bytes(spoilt.to_bytes())
    replace(manifest, samples=type(manifest.program).of(copied, "samples.npz")).save(copied)
    assert manifest.program.read(copied) == program
    with (
        pytest.raises(
            CorruptData, match=r"self-check of ranker/1: output score of sample row \d+ is .* when it was exported"
        ),
        local_cluster([copied]),
    ):
        pytest.fail("it serves")


def test_samples_come_back_as_they_were_and_damage_is_told(copied: Path) -> None:
    samples = LoadedVersion.load(copied).samples
    assert samples is not None
    again = Samples.from_bytes(samples.to_bytes(), "there")
    assert again.prepared.rows == samples.prepared.rows > 3
    assert again.prepared.features.keys() == samples.prepared.features.keys()
    for name, values in samples.outputs.items():
        np.testing.assert_array_equal(again.outputs[name], values)
    content = samples.to_bytes()
    for bad in (b"", b"no zip", content[:-40], content[:100]):
        with pytest.raises(CorruptData, match="there: no samples can be read from it"):
            Samples.from_bytes(bad, "there")


def test_a_version_without_samples_serves_after_its_rehearsal(copied: Path) -> None:
    replace(Manifest.load(copied), samples=None).save(copied)
    with local_cluster([copied]):
        pass


def test_a_manifest_from_before_there_were_samples_is_read(copied: Path) -> None:
    manifest = replace(Manifest.load(copied), samples=None)
    manifest.save(copied)
    document = json.loads((copied / "manifest.json").read_text())
    del document["manifest"]["samples"]
    from ringpull.inference.model.manifest import _checksum

    document["xxh3"] = _checksum(document["manifest"])
    (copied / "manifest.json").write_text(json.dumps(document))
    assert Manifest.load(copied) == manifest
