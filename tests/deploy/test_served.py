"""Served records: found by target or by being the newest, and void when their process is gone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ringpull.deploy import served
from ringpull.deploy.served import ServedRecord
from ringpull.ps.errors import InvalidInput, NotFound

PID, STARTED_S = served.own_process()


def record(target: str = "127.0.0.1:8500", **changes: Any) -> ServedRecord:
    fields: dict[str, Any] = {
        "target": target,
        "http": "127.0.0.1:8501",
        "models": ("ranker/3",),
        "shards": 4,
        "name": "ringpull",
        "address": None,
        "pid": PID,
        "pid_started_s": STARTED_S,
        **changes,
    }
    return ServedRecord(**fields)


def test_the_ready_line() -> None:
    line = record(models=("ranker/3", "retriever/1")).ready_line
    assert line == "ringpull ready grpc=127.0.0.1:8500 http=127.0.0.1:8501 shards=4 models=ranker/3,retriever/1"


def test_what_was_saved_is_found(state: Path) -> None:
    saved = record()
    path = served.save(saved)
    assert path.is_relative_to(state)
    assert served.find("127.0.0.1:8500") == saved
    assert served.find("localhost:8500") == saved
    assert served.find(None) == saved


def test_the_newest_is_the_default() -> None:
    served.save(record("127.0.0.1:9000", started_s=200.0))
    served.save(record("127.0.0.1:9001", started_s=100.0))
    assert served.resolve_target(None) == "127.0.0.1:9000"


def test_a_target_given_may_be_anywhere() -> None:
    assert served.resolve_target("model-server:8500") == "model-server:8500"


def test_nothing_served() -> None:
    with pytest.raises(NotFound, match="nothing is served from here"):
        served.resolve_target(None)
    with pytest.raises(NotFound, match="was not served from here"):
        served.find("127.0.0.1:8500")


@pytest.mark.parametrize("target", ["8500", "host", "host:", ":8500", "host:http", "host:0", "host:70000", "host:²"])
def test_a_target_of_the_wrong_form(target: str) -> None:
    with pytest.raises(InvalidInput, match="write HOST:PORT"):
        served.resolve_target(target)


def test_a_record_dies_with_its_process() -> None:
    """A process that has ended, or another one with its id, is not the one that was recorded."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = served.save(record(pid=ended.pid, pid_started_s=STARTED_S))
    served.save(record("127.0.0.1:8600", pid_started_s=STARTED_S - 100))
    assert served.records() == []
    assert not path.exists()


def test_a_record_on_a_joined_ray_outlives_its_process() -> None:
    served.save(record(address="10.0.0.1:6379", pid=None, pid_started_s=None))
    assert served.find(None).address == "10.0.0.1:6379"


def test_forgetting_leaves_a_successor_alone() -> None:
    """Another deployment that has taken the target since keeps its record."""
    old = record(pid=1, pid_started_s=1.0)
    served.save(record())
    served.forget(old)
    assert served.find(None) == record(started_s=served.find(None).started_s)
    served.forget(record())
    assert served.records() == []


def test_unreadable_records_count_as_none(state: Path) -> None:
    (state / "served").mkdir()
    (state / "served" / "a.json").write_text("{")
    (state / "served" / "b.json").write_text('{"target": "x:1"}')
    assert served.records() == []


def test_a_folder_made_up_for_a_deployment_goes_with_it(tmp_path: Path) -> None:
    """With one whose process was killed, when the next command looks; not with an orderly end, whose own it is."""
    folders = [tmp_path / name for name in ("killed", "stopped", "ended")]
    for folder in folders:
        folder.mkdir()
    killed, stopped, ended = (
        record(f"127.0.0.1:{9000 + i}", made_folder=str(folder)) for i, folder in enumerate(folders)
    )
    served.save(replace(killed, pid_started_s=STARTED_S - 100))
    served.save(stopped)
    served.save(ended)
    served.forget(ended)
    assert served.records() == [stopped]
    served.discard(stopped)
    assert [folder.name for folder in folders if folder.is_dir()] == ["ended"]
    assert served.records() == []


def test_the_folder_of_a_private_ray_goes_with_a_process_that_was_killed(tmp_path: Path) -> None:
    """One that ends by itself removes it; Ray's temporary files would otherwise gather."""
    folder = tmp_path / "ringpull-12345678"
    (folder / "r" / "session").mkdir(parents=True)
    served.save(record(pid_started_s=STARTED_S - 100, ray_folder=str(folder)))
    assert served.records() == []
    assert not folder.exists()


def test_records_of_a_deployment_on_a_joined_ray() -> None:
    mine = record("127.0.0.1:9000", address="auto", pid=None, pid_started_s=None)
    served.save(mine)
    served.save(record("127.0.0.1:9001", address="auto", name="other"))
    assert served.on_ray("auto", "ringpull") == [mine]
