"""Rows that are pushed to a version with deltas, which a deployment on Ray finds by itself: what restarts and losses of
folders leave of them, and what operators are told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from ringpull import Client, Schema, Sparse, export_delta, export_model
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.loadtest.chaos.pushed_model import DIM, EXPORTED, FEATURE, LOW, PUSHED, TABLE, Numbers
from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.watching import until

pytestmark = pytest.mark.ray

BEHIND = 10_000
"""Key behind the exported ones."""
SHOWN = [0, 3, 7, BEHIND]


def export(folder: Path, version: int) -> None:
    """Export a version whose first rows have its number: two more than the one before it, which it follows."""
    rows = torch.zeros(EXPORTED, DIM)
    rows[: 2 * version] = float(version)
    module = Numbers()
    module.number = nn.Embedding.from_pretrained(rows)  # type: ignore[no-untyped-call]
    schema = Schema([Sparse(FEATURE)])
    tables = {TABLE: TableOptions(live=True)}
    if version == 1:
        export_model(module, schema, folder, 1, name=PUSHED, tables=tables, quiet=True)
    else:
        export_delta(module, schema, folder, version, follows=version - 1, name=PUSHED, tables=tables, quiet=True)


def push(client: Client, key: int, number: float) -> None:
    client.push(PUSHED, TABLE, [key], np.full((1, DIM), number, np.float32))


def shown(client: Client) -> tuple[int, list[float]]:
    prediction = client.predict(PUSHED, {FEATURE: np.array(SHOWN)})
    return prediction.version, prediction.outputs[LOW].tolist()


def test_pushes_to_a_chain_outlive_restarts_and_its_folders(
    tmp_path: Path, serve: Callable[..., Serving], ringpull: RingpullRun
) -> None:
    folder = tmp_path / "models" / PUSHED
    export(folder, 1)
    serving = serve(folder, "--watch", 0.2, "--shards", 2, "--data-dir", tmp_path / "rows")
    target = serving.ready["grpc"]
    with Client(target, timeout_s=60) as client:
        push(client, BEHIND, 50)
        push(client, 3, 60)
        for version, rows in ((2, [2.0, 2.0, 0.0, 50.0]), (3, [3.0, 3.0, 0.0, 50.0])):
            export(folder, version)
            until(f"version {version} is live", lambda version=version: shown(client)[0] == version)
            assert shown(client) == (version, rows)
        push(client, 0, 70)
        now = (3, [70.0, 3.0, 0.0, 50.0])

        for words in (("--shards", 3), ("--replicas", f"{TABLE}=2")):
            ran = ringpull("rebalance", *words, "--yes", "--target", target)
            assert (ran.returncode, f"{PUSHED}/{TABLE}, on shards" in ran.stderr) == (1, True)

        ran = ringpull("restart", "--rolling", "--force", "--yes", "--target", target)
        assert ran.returncode == 0, ran.stderr
        assert shown(client) == now

        for version in (1, 2):
            shutil.move(folder / str(version), tmp_path / f"away-{version}")
        until("it is told of", lambda: "serves on with what is open" in told(client.status()))
        before = client.status().shards[0]
        psutil.Process(before.pid).kill()
        until("it is back", lambda: is_back(client.status().shards[0], before))
        assert shown(client) == now
        push(client, 7, 80)
        assert shown(client) == (3, [70.0, 3.0, 80.0, 50.0])
    assert serving.end() == 0


def told(status: pb.ClusterStatus) -> str:
    return " ".join(status.warnings)


def is_back(shard: pb.ShardStatus, before: pb.ShardStatus) -> bool:
    return shard.alive and shard.pid != before.pid
