"""The coordinator's shell over fake shards and a fake head: order, saved state, failures."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from ps.errors import CorruptData, RingpullError, StartupError
from router.actor import STATE_FILE, CoordinatorActor
from router.coordinator import PlacedTable, PlacedVersion
from router.shard_map import ShardAddress, ShardMap

VERSION = PlacedVersion("ranker", 1, "/models/ranker/1", {"user": PlacedTable("/models/ranker/1/user", 1)})


class FakeShard:
    """Writes down what it is told, and fails where it is told to."""

    def __init__(self, log: list[str], shard: int, failure: RingpullError | None = None) -> None:
        self.log = log
        self.shard = shard
        self.failure = failure
        self.epoch = 0

    def open(self, version: PlacedVersion) -> None:
        if self.failure is not None:
            raise self.failure
        self.log.append(f"open {self.shard}")

    def assign(self, shard_map: ShardMap) -> None:
        self.log.append(f"assign {self.shard}")
        self.epoch = shard_map.epoch


class FakeHead:
    def __init__(self, log: list[str], failure: RingpullError | None = None) -> None:
        self.log = log
        self.failure = failure

    def start(self, shard_map: ShardMap, version_dirs: Sequence[str]) -> None:
        if self.failure is not None:
            raise self.failure
        self.log.append(f"start {' '.join(version_dirs)}")


def addresses(shards: int) -> list[ShardAddress]:
    return [ShardAddress(shard, "127.0.0.1", 7000 + shard) for shard in range(shards)]


def test_it_brings_all_live_and_saves_its_state(tmp_path: Path) -> None:
    log: list[str] = []
    shards = {i: FakeShard(log, i) for i in range(3)}
    actor = CoordinatorActor(str(tmp_path), shards, FakeHead(log))
    shard_map = actor.bring_up(addresses(3), [VERSION])
    assert log[-1] == "start /models/ranker/1"
    assert sorted(log[:-1]) == ["assign 0", "assign 1", "assign 2", "open 0", "open 1", "open 2"]
    assert {shard.epoch for shard in shards.values()} == {shard_map.epoch} == {1}
    saved = json.loads((tmp_path / STATE_FILE).read_text())
    assert saved == actor.state()
    assert saved["phase"] == "live"
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE], "no temporary file is left"


def test_shards_open_side_by_side(tmp_path: Path) -> None:
    """Both shards must be inside `open` at once, or the barrier breaks."""
    both = threading.Barrier(2, timeout=30)

    class Meeting(FakeShard):
        def open(self, version: PlacedVersion) -> None:
            both.wait()

    log: list[str] = []
    actor = CoordinatorActor(str(tmp_path), {i: Meeting(log, i) for i in (0, 1)}, FakeHead(log))
    actor.bring_up(addresses(2), [VERSION])
    assert log[-1].startswith("start")


def test_the_state_is_saved_before_commands_are_carried_out(tmp_path: Path) -> None:
    seen: list[str] = []

    class Reader(FakeShard):
        def open(self, version: PlacedVersion) -> None:
            seen.append(json.loads((tmp_path / STATE_FILE).read_text())["phase"])

    CoordinatorActor(str(tmp_path), {0: Reader([], 0)}, FakeHead([])).bring_up(addresses(1), [VERSION])
    assert seen == ["opening"]


def test_a_failing_shard_fails_the_bring_up(tmp_path: Path) -> None:
    """The shard's own error comes out, the head is never started, and the state says why."""
    log: list[str] = []
    failure = CorruptData("/models/ranker/1/user/positions: the checksum does not match")
    actor = CoordinatorActor(str(tmp_path), {0: FakeShard(log, 0), 1: FakeShard(log, 1, failure)}, FakeHead(log))
    with pytest.raises(CorruptData, match="positions"):
        actor.bring_up(addresses(2), [VERSION])
    assert not any(line.startswith("start") for line in log)
    assert json.loads((tmp_path / STATE_FILE).read_text())["error"] == str(failure)


def test_a_failing_head_fails_the_bring_up(tmp_path: Path) -> None:
    actor = CoordinatorActor(str(tmp_path), {0: FakeShard([], 0)}, FakeHead([], StartupError("grpc port 8500: in use")))
    with pytest.raises(StartupError, match="8500"):
        actor.bring_up(addresses(1), [VERSION])


def test_a_second_coordinator_continues_the_epochs(tmp_path: Path) -> None:
    for epoch in (1, 2):
        actor = CoordinatorActor(str(tmp_path), {0: FakeShard([], 0)}, FakeHead([]))
        assert actor.bring_up(addresses(1), [VERSION]).epoch == epoch


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}'])
def test_a_damaged_state_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / STATE_FILE).write_text(content)
    with pytest.raises(CorruptData, match=STATE_FILE):
        CoordinatorActor(str(tmp_path), {}, FakeHead([]))
