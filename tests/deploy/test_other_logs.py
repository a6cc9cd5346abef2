"""What `serve` says of logs of pushed rows that none of its shards reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ringpull.deploy.config import ServeConfig
from ringpull.deploy.other_logs import other_logs
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.live.settings import Durability
from ringpull.router.control.deployment_spec import PlacedVersion


def config(data_dir: Path | None, **changes: Any) -> ServeConfig:
    version = PlacedVersion("ranker", 1, "/models/ranker/1", {})
    return ServeConfig(versions=(version,), head=HeadConfig(), state_dir="/state", data_dir=data_dir, **changes)


def test_logs_of_shards_that_are_no_more_are_named(tmp_path: Path) -> None:
    for shard in range(4):
        (tmp_path / f"shard-{shard}.live").mkdir()
    for shard in (1, 2):
        (tmp_path / f"shard-{shard}.live" / "log-000001").touch()
    (tmp_path / "shard-9").mkdir()
    [told] = other_logs(config(tmp_path, shards=2))
    assert "(shard-2.live) is not found" in told
    assert "of 3 shards or more, and there are 2 now" in told
    assert other_logs(config(tmp_path, shards=3)) == []


def test_where_nothing_is_read_or_kept_here_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "shard-7.live").mkdir()
    (tmp_path / "shard-7.live" / "log-000001").touch()
    assert other_logs(config(None)) == other_logs(config(tmp_path / "new")) == []
    assert other_logs(config(tmp_path, push_durability=Durability.MEMORY)) == []
    assert other_logs(config(tmp_path, address="auto")) == []
