"""Fifty publishes of a dense program of 30 MiB, some refused: heads and their descriptors are as after ten."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

from ringpull import Dense, Schema, Sparse, export_model
from ringpull.deploy.coordinator_client import connect
from ringpull.inference.model.manifest import FileEntry, Manifest
from ringpull.inference.model.samples import Samples
from ringpull.ps.memory import process_memory
from ringpull.router.control.operations import GetChange, Publish
from tests.cluster.conftest import Serving
from tests.cluster.watching import actors, until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MIB = 1 << 20
WIDTH = 2800
PUBLISHES, SETTLED = 50, 10
ALLOWED_BYTES = 20 * MIB


class Wide(nn.Module):
    """Its dense program is of 30 MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(9, 4)
        self.top = nn.Sequential(nn.Linear(5, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1))

    def forward(self, item: Tensor, price: Tensor) -> Tensor:
        return self.top(torch.cat([self.item(item), price], dim=1))[:, 0]


def is_wrong(version: int) -> bool:
    return version % 4 == 3


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Version 1, and those to publish after it: files are shared, but for the manifest and wrong samples."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    first = export_model(Wide(), Schema([Sparse("item"), Dense("price")]), folder, 1, check_rows=8, quiet=True).path
    manifest = Manifest.load(first)
    assert manifest.program.bytes > 30 * MIB
    folders = [first]
    for version in range(2, PUBLISHES + 2):
        other = shutil.copytree(first, folder / str(version), copy_function=os.link)
        if is_wrong(version):
            samples = Samples.from_bytes((other / "samples.npz").read_bytes(), "there")
            wrong = {name: values + np.float32(1) for name, values in samples.outputs.items()}
            (other / "samples.npz").unlink()
            (other / "samples.npz").write_bytes(replace(samples, outputs=wrong).to_bytes())
        (other / "manifest.json").unlink()
        replace(manifest, version=version, samples=FileEntry.of(other, "samples.npz")).save(other)
        folders.append(other)
    return folders


def test_heads_do_not_grow(versions: list[Path], serve: Callable[..., Serving]) -> None:
    """Memory of their own: what they share of a library counts for more whenever another process ends."""
    hidden = versions[0].parent.rename(versions[0].parent.with_name("all"))
    model = hidden.with_name("wide")
    model.mkdir()
    (hidden / "1").rename(model / "1")
    serving = serve(model, "--shards", 1, "--heads", 2)
    heads = actors(psutil.Process(serving.process.pid), "Head")
    assert len(heads) == 2
    sizes: list[list[int]] = []
    descriptors: list[int] = []
    with connect(serving.ready["grpc"]) as operations:
        for version in range(2, PUBLISHES + 2):
            (hidden / str(version)).rename(model / str(version))
            operations.call(Publish(model="wide", version=version))
            until("it is over", lambda: not operations.call(GetChange()).under_way)
            assert bool(operations.call(GetChange()).error) == is_wrong(version)
            sizes.append([process_memory(head.pid)["Pss_Anon"] for head in heads])
            if version == SETTLED + 1:
                descriptors = [head.num_fds() for head in heads]
    for before, after in zip(sizes[SETTLED - 1], sizes[-1], strict=True):
        assert after - before < ALLOWED_BYTES, [[size // MIB for size in each] for each in sizes]
    # One more may be open for a moment.
    until(
        "as many descriptors", lambda: all(head.num_fds() <= had for head, had in zip(heads, descriptors, strict=True))
    )
