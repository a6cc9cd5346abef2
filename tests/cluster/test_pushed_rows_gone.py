"""Pushed rows that are gone when a deployment is served again on the same folders: it says so, and guesses nothing."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from ringpull import Client
from ringpull.loadtest.chaos.pushed_model import EXPORTED, PUSHED
from ringpull.ps.errors import UnmetCondition
from tests.cluster.conftest import RingpullRun, Serving, alive
from tests.cluster.pushed import KEYS, UNKNOWN, export, push, shown

pytestmark = [pytest.mark.ray, pytest.mark.slow]

AS_EXPORTED = [float(key < EXPORTED) for key in KEYS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export(tmp_path / "models" / PUSHED, 1)
    return tmp_path / "models" / PUSHED


def warnings_of(client: Client) -> str:
    return " ".join(client.status().warnings)


def test_a_log_that_is_gone_is_told_of_and_its_rows_are_not_guessed(
    folder: Path, tmp_path: Path, serve: Callable[..., Serving], ringpull: RingpullRun
) -> None:
    words = (folder, "--data-dir", tmp_path / "rows", "--state-dir", tmp_path / "state")
    serving = serve(*words, "--shards", 2)
    with Client(serving.ready["grpc"], timeout_s=60) as client:
        push(client, 5)
    assert serving.end() == 0

    ran = ringpull("serve", *words, "--shards", 3, "--grpc-port", 0, "--http-port", 0)
    assert ran.returncode == 1
    assert f"rows were pushed to {PUSHED}/number by the deployment before, of 2 shards" in ran.stderr
    assert "serve with --shards 2" in ran.stderr

    serving = serve(*words, "--shards", 2)
    with Client(serving.ready["grpc"], timeout_s=60) as client:
        assert set(shown(client)) == {5.0}
        assert "gone" not in warnings_of(client)
    assert serving.end() == 0
    shutil.rmtree(tmp_path / "rows" / "shard-0.live")

    serving = serve(*words, "--shards", 2)
    with Client(serving.ready["grpc"], timeout_s=60) as client:
        assert set(shown(client)) == {5.0, UNKNOWN}
        assert "rows that were pushed to this shard are not in its log, which is gone" in warnings_of(client)
        with pytest.raises(UnmetCondition, match="are missing, so none are taken until a new lineage is published"):
            push(client, 6)
        export(folder, 2)
        ran = ringpull("publish", f"{PUSHED}/2", "--target", serving.ready["grpc"])
        assert ran.returncode == 0, ran.stderr
        push(client, 7)
        assert set(shown(client)) == {7.0}
    assert serving.end() == 0


def test_other_shards_without_a_state_tell_at_the_start_which_rows_are_not_found(
    folder: Path, tmp_path: Path, serve: Callable[..., Serving]
) -> None:
    words = (folder, "--data-dir", tmp_path / "rows")
    serving = serve(*words, "--shards", 2)
    with Client(serving.ready["grpc"], timeout_s=60) as client:
        push(client, 5)
    assert serving.end() == 0
    assert "pushed to" not in serving.log.read_text()
    serving = serve(*words, "--shards", 3)
    assert "rows that were pushed to this shard are of slots that another one serves" in serving.log.read_text()
    assert serving.end() == 0
    serving = serve(*words, "--shards", 1)
    assert "has logs of pushed rows of 2 shards or more, and there are 1 now" in serving.log.read_text()
    assert serving.end() == 0


def test_rows_in_memory_go_with_a_stop_and_are_missed_after_a_crash(
    folder: Path, tmp_path: Path, serve: Callable[..., Serving], ringpull: RingpullRun
) -> None:
    again = partial(serve, folder, "--push-durability", "memory", "--state-dir", tmp_path / "state", "--shards", 2)
    serving = again()
    with Client(serving.ready["grpc"], timeout_s=60) as client:
        push(client, 5)
    ran = ringpull("stop", "--target", serving.ready["grpc"])
    assert ran.returncode == 0
    assert f"what was pushed to {PUSHED}/number went with it (--push-durability memory)" in ran.stderr

    serving = again()
    told = f"rows that were pushed to {PUSHED}/number went when the deployment before was stopped: they were in memory"
    assert told in serving.log.read_text()
    with Client(serving.ready["grpc"], timeout_s=60) as client:
        assert shown(client) == AS_EXPORTED
        push(client, 6)
        assert set(shown(client)) == {6.0}

    below = psutil.Process(serving.process.pid).children(recursive=True)
    os.kill(serving.process.pid, signal.SIGKILL)
    serving.process.wait()
    for each in below:
        each.kill()
    assert alive(below) == []

    serving = again()
    with Client(serving.ready["grpc"], timeout_s=60) as client:
        assert set(shown(client)) == {UNKNOWN}
        assert "went with its process (--push-durability memory)" in warnings_of(client)
    assert serving.end() == 0


def test_a_stop_leaves_no_fold_that_nobody_reads(
    folder: Path, tmp_path: Path, serve: Callable[..., Serving], ringpull: RingpullRun
) -> None:
    words = (folder, "--data-dir", tmp_path / "rows", "--log-limit", "16MiB", "--shards", 1)
    serving = serve(*words)

    def spares() -> list[Path]:
        return list((tmp_path / "rows").glob("shard-0.live/folds/*/*/*/.fold-*.spare.tmp"))

    number = 1
    with Client(serving.ready["grpc"], timeout_s=60) as client:
        while not spares():
            number += 1
            push(client, number, range(100_000))
    ran = ringpull("stop", "--target", serving.ready["grpc"])
    assert ran.returncode == 0, ran.stderr
    assert spares() == []

    serving = serve(*words)
    with Client(serving.ready["grpc"], timeout_s=60) as client:
        assert set(shown(client)) == {float(number)}
    assert serving.end() == 0
