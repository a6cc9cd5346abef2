"""The bench of copies: what it measures of real shards is what the planner predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ringpull.loadtest.bench import replication
from ringpull.loadtest.bench.tables import bench_keys
from ringpull.ps.spec import ALL, Replicas, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.writer import TableWriter
from ringpull.router.control.planner import predicted_cost

ROWS = 20_000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder: Path = tmp_path_factory.mktemp("bench") / "table"
    with TableWriter(folder, TableSpec(name="bench", dim=replication.DIM)) as writer:
        writer.add(bench_keys(ROWS), np.ones((ROWS, replication.DIM), np.float32))
        writer.finish()
    return Base.open(folder)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, ALL])
def test_bytes_and_messages_are_those_predicted(
    base: Base, replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "SHARDS", 2)
    found = replication.measure(base, replicas, pulls=3)
    table = replication.planned(base)
    due = predicted_cost([table], {table.name: replicas}, 2)
    assert found.bytes == pytest.approx(due.bytes, rel=0.01)
    assert found.messages == pytest.approx(due.messages)
    assert 0 < found.p50_ms <= found.p99_ms
    assert found.pss_bytes > ROWS * table.row_bytes
