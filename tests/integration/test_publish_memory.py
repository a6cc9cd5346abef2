"""What publishes leave behind in a head: memory and descriptors after many are those after a few."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

from ringpull import Dense, Schema, Sparse, export_model
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.model.manifest import FileEntry, Manifest
from ringpull.inference.model.samples import Samples
from ringpull.ps.errors import CorruptData
from ringpull.ps.process import ShardProcess
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.shard_map import ShardMap
from tests.integration.local import GRACE_S, open_versions

pytestmark = [pytest.mark.net, pytest.mark.medium]

MIB = 1 << 20
WIDTH = 1024
PROGRAM_BYTES = 4 * WIDTH**2
PUBLISHES, SETTLED = 12, 4
"""Publishes in all, and those after which memory must stay what it is. Half of them are refused."""


class Wide(nn.Module):
    """Its dense program is of 4 MiB."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.item = nn.Embedding(9, 4)
        self.top = nn.Sequential(nn.Linear(5, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1))

    def forward(self, item: Tensor, price: Tensor) -> Tensor:
        return self.top(torch.cat([self.item(item), price], dim=1))[:, 0]


class Unscripted(Wide):
    """No script repeats it: the number of its rows is a number of Python's."""

    def forward(self, item: Tensor, price: Tensor) -> Tensor:
        return super().forward(item, price) + 0.0 * torch.arange(price.shape[0])


@pytest.fixture(params=[Wide, Unscripted])
def versions(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """Versions from 1, of equal content; those of even numbers have samples that they do not answer by."""
    schema = Schema([Sparse("item"), Dense("price")])
    first = export_model(request.param(), schema, tmp_path / "wide", 1, check_rows=8, quiet=True).path
    manifest = Manifest.load(first)
    assert manifest.program.bytes > PROGRAM_BYTES
    folders = [first]
    for version in range(2, PUBLISHES + 1):
        folder = shutil.copytree(first, first.with_name(str(version)))
        if version % 2 == 0:
            samples = Samples.from_bytes((folder / "samples.npz").read_bytes(), "there")
            wrong = {name: values + np.float32(1) for name, values in samples.outputs.items()}
            (folder / "samples.npz").write_bytes(replace(samples, outputs=wrong).to_bytes())
        replace(manifest, version=version, samples=FileEntry.of(folder, "samples.npz")).save(folder)
        folders.append(folder)
    return folders


@pytest.fixture
def shard_map(versions: Sequence[Path]) -> Iterator[ShardMap]:
    """The map of a shard in this process that has all versions open."""
    shard = ShardProcess(0)
    try:
        yield open_versions([shard], versions, 1)
    finally:
        shard.stop(grace_s=GRACE_S)


def publish(shard_map: ShardMap, folders: Sequence[Path]) -> list[tuple[int, int]]:
    """Publish one version after the other on a head in this process; return its memory and descriptors after each.

    Memory of its own: what it shares of a library counts for more whenever another process ends.
    """
    head = HeadProcess(HeadConfig())
    left = []
    for version, folder in enumerate(folders, start=1):
        try:
            head.load([PlacedVersion("wide", version, str(folder), {})], shard_map)
        except CorruptData:
            assert version % 2 == 0
        else:
            assert version % 2 == 1
            head.route(shard_map, {"wide": version}, [("wide", version)])
        left.append((head.memory()["Pss_Anon"], psutil.Process().num_fds()))
    head.drain(GRACE_S)
    return left


def test_a_head_keeps_nothing_of_what_it_let_go_of_or_refused(versions: Sequence[Path], shard_map: ShardMap) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        left = pool.apply(publish, (shard_map, versions))
    # What the allocator holds goes up and down by more than a program: what stays shows in the least of several.
    settled, last = left[SETTLED - 3 : SETTLED], left[-3:]
    grown_bytes = min(size for size, _ in last) - min(size for size, _ in settled)
    assert grown_bytes < (PUBLISHES - SETTLED) * PROGRAM_BYTES / 4, [size // MIB for size, _ in left]
    assert min(opened for _, opened in last) <= min(opened for _, opened in settled)
