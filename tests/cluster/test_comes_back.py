"""What is stopped or cannot start is said to be so within seconds, and comes back by itself when it can."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.conftest import Serving, StatusOf
from tests.cluster.models import write_model
from tests.cluster.watching import Watch, actors, until
from tests.metrics_page import Page

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOLD_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comes back")


@pytest.fixture(scope="module")
def serving(folder: Path, serve: Callable[..., Serving]) -> Serving:
    """Two copies of everything on two shards, which keep copies of their own; every process logs to a file."""
    model = write_model(folder / "models" / "ranker", user_replicas=2)
    folders = ("--log-dir", folder / "logs", "--data-dir", folder / "data")
    return serve(model, "--shards", 2, "--replicas", "genre=all", *folders)


@pytest.fixture
def process(serving: Serving) -> psutil.Process:
    return psutil.Process(serving.process.pid)


@pytest.fixture
def status(serving: Serving, status_of: StatusOf) -> Callable[[], dict[str, Any]]:
    def ask() -> dict[str, Any]:
        told = status_of(serving.ready["grpc"])
        assert told, "`ringpull status` fails"
        return told

    return ask


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """A folder is renamed, and a file is in its place: it can be neither opened nor made."""
    elsewhere = folder.with_name(f"{folder.name} elsewhere")
    folder.rename(elsewhere)
    folder.write_text("")
    try:
        yield
    finally:
        folder.unlink()
        elsewhere.rename(folder)


def health(serving: Serving) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{serving.ready['http']}/healthz") as answer:
        assert answer.status == 200
        body: dict[str, Any] = json.load(answer)
        return body


def test_a_stopped_coordinator_is_told_of_and_nothing_else(
    serving: Serving, process: psutil.Process, status: Callable[[], dict[str, Any]]
) -> None:
    """By `status`, which exits with 0 and waits for nobody long, by `/healthz`, by the metrics, and by `serve`."""
    until("somebody leads", lambda: status()["leader"]["leads"])
    with Watch(serving.ready["grpc"], retries=0) as watch:
        [coordinator] = actors(process, "Coordinator")
        with stopped(coordinator):
            time.sleep(TOLD_WITHIN_S - 1)
            body = health(serving)
            led = Page.of(*serving.ready["http"].rsplit(":", 1)).value("ringpull_led")
            told = status()
            watch.goes_on()
            until("serve says so", lambda: "warning: nobody leads" in serving.log.read_text())
        assert (body["status"], body["leader"]) == ("SERVING", False)
        assert body["warning"].startswith("nobody leads")
        assert led == 0
        assert told["leader"]["leads"] is False
        assert any(each.startswith("nobody leads") for each in told["warnings"])
        until("it leads again", lambda: status()["leader"]["leads"])
        assert health(serving)["leader"] is True
        assert not any(each.startswith("nobody leads") for each in status()["warnings"])
    assert (watch.wrong, watch.failed) == ([], [])
    until("serve says that it is over", lambda: "over: nobody leads" in serving.log.read_text())


UNSHARE = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]

CLOCK_STEPPED = """
import psutil, sys, time
start, now = psutil.Process.create_time, time.time
psutil.Process.create_time = lambda process: start(process) + 2
time.time = lambda: now() + 2
from ringpull.deploy.cli import main
main()
"""
"""`ringpull` where the wall clock was stepped by two seconds, and with it every time that is derived from it."""


def test_looking_removes_nothing(
    serving: Serving, environment: dict[str, str], status: Callable[[], dict[str, Any]]
) -> None:
    """Not from another PID namespace, where the ids of its processes are others', nor after a step of the clock."""
    [path] = (Path(environment["RINGPULL_STATE_DIR"]) / "served").glob("*.json")
    record = json.loads(path.read_text())
    stepped = [sys.executable, "-c", CLOCK_STEPPED, "status", "--json"]
    looked = subprocess.run(stepped, capture_output=True, text=True, env=environment, check=False)
    assert looked.returncode == 0, looked.stderr
    assert json.loads(looked.stdout)["target"] == serving.ready["grpc"]
    assert all(Path(each).exists() for each in (path, record["made_folder"], record["ray_folder"]))

    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no PID namespaces for its users")

    def there(*command: str) -> subprocess.CompletedProcess[str]:
        whole = [*UNSHARE, sys.executable, "-m", "ringpull", *command]
        return subprocess.run(whole, capture_output=True, text=True, env=environment, check=False)

    looked = there("status", "--json")
    assert looked.returncode == 0, looked.stderr
    assert json.loads(looked.stdout)["target"] == serving.ready["grpc"]
    ended = there("stop")
    assert (ended.returncode, "run `ringpull stop` there" in ended.stderr) == (1, True)
    assert all(Path(each).exists() for each in (path, record["made_folder"], record["ray_folder"]))
    assert status()["target"] == serving.ready["grpc"]


def test_a_log_folder_that_is_away_costs_lines_only(
    serving: Serving, process: psutil.Process, folder: Path, status: Callable[[], dict[str, Any]]
) -> None:
    """Also those that are restarted meanwhile log to their files again when it is back."""
    logs = folder / "logs"
    kinds = ("Coordinator", "Head", "Shard")
    with away(logs):
        for kind in kinds:
            before = {each.pid for each in actors(process, kind)}
            actors(process, kind)[0].kill()
            until(f"another {kind}", lambda kind=kind, before=before: {e.pid for e in actors(process, kind)} - before)
        until("all answer again", lambda: all_well(serving, status))
    shutil.rmtree(logs)
    actors(process, "Shard")[0].kill()
    shards = ("ringpull-shard-0.log", "ringpull-shard-1.log")
    until("the shard tells of it in a new file", lambda: any((logs / name).is_file() for name in shards))
    until("so does the head, which takes the map", (logs / "ringpull-head-0.log").is_file)
    until("all answer again", lambda: all_well(serving, status))


def test_a_shard_waits_for_its_data_folder(
    serving: Serving, process: psutil.Process, folder: Path, status: Callable[[], dict[str, Any]]
) -> None:
    """It was away for good when it could not open the folder in the seconds of its restart."""
    until("all answer", lambda: all_well(serving, status))
    with Watch(serving.ready["grpc"], retries=0) as watch:
        with away(folder / "data"):
            [_, shard] = actors(process, "Shard")
            shard.kill()
            log = lambda: "".join(path.read_text() for path in (folder / "logs").glob("*-shard-*.log"))  # noqa: E731
            until("it waits", lambda: "restart waits" in log())
            watch.goes_on()
        until("all answer again", lambda: all_well(serving, status))
        watch.goes_on()
    assert (watch.wrong, watch.failed) == ([], [])


def all_well(serving: Serving, status: Callable[[], dict[str, Any]]) -> bool:
    try:
        told = status()
    except AssertionError:
        return False
    return told["leader"]["leads"] and len(told["shards"]) == 2 and all(shard["alive"] for shard in told["shards"])
