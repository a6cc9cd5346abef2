"""A deployment on a state folder that commit ba8f592 left behind, which looks for new versions by itself."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ringpull import Client
from ringpull.inference.client.operations import GetChange, OperationsClient, Publish
from ringpull.ps.errors import Forbidden
from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.models import write_model
from tests.cluster.watching import Watch, until
from tests.saved_state import newest_state

pytestmark = pytest.mark.ray

ROWS = {1: 1000, 2: 500}
"""Version -> rows of its user table: every answer tells which version it is from."""


OLD_STATE = Path(__file__).parent.parent / "golden" / "ba8f592" / "state" / "coordinator.json"


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coordinator")
    shutil.copy(OLD_STATE, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "ranker", 1, rows=ROWS[1])


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "verbs.jsonl"


@pytest.fixture(scope="module")
def serving(folder: Path, state_dir: Path, audit: Path, serve: Callable[..., Serving]) -> Serving:
    return serve(folder, "--watch", 0.2, "--shards", 2, "--state-dir", state_dir, "--audit-log", audit)


def test_no_epoch_of_an_older_deployment_is_used_twice(
    serving: Serving, state_dir: Path, ringpull: RingpullRun
) -> None:
    """Heads and shards tell old maps from new ones by it."""
    before, after = json.loads(OLD_STATE.read_text()), newest_state(state_dir)
    status = json.loads(ringpull("status", "--json", "--target", serving.ready["grpc"]).stdout)
    assert after["deployment"] != before["deployment"]
    assert status["epoch"] == after["state"]["epoch"] > before["state"]["epoch"]


def test_a_new_version_goes_live_everywhere(serving: Serving, folder: Path) -> None:
    """No prediction fails, and the one before can still be asked for."""
    with Watch(serving.ready["grpc"], ROWS, retries=0) as watch:
        watch.goes_on()
        write_model(folder, 2, rows=ROWS[2])
        until("version 2 is live", lambda: 2 in watch.versions)
        watch.goes_on()
    assert (watch.wrong, watch.failed, watch.versions) == ([], [], {1, 2})
    with Client(serving.ready["grpc"]) as client:
        assert client.predict("ranker", {"user_id": [7], "genres": [[]]}, version=1).version == 1


def test_operators_go_through_the_door_and_are_told_of(serving: Serving, audit: Path, ringpull: RingpullRun) -> None:
    """The last one here: it ends the deployment, and its door goes with it."""
    target, door = serving.ready["grpc"], serving.ready["admin"]
    socket = Path(door.removeprefix("unix:"))
    assert (stat.S_IMODE(socket.stat().st_mode), stat.S_IMODE(socket.parent.stat().st_mode)) == (0o600, 0o700)
    with OperationsClient(target) as client:
        client._door = target  # as a stranger does, who knows of no door
        with pytest.raises(Forbidden, match="operators are not let in here"):
            client.call(Publish(model="ranker", version=1))
    for command in (("rollback", "ranker"), ("publish", "ranker/2"), ("rebalance", "--shards", 1, "--yes")):
        ran = ringpull(*command, "--target", target)
        assert ran.returncode == 0, ran.stderr
    with OperationsClient(door) as client:
        assert client.call(GetChange()).subject == "shards 2 -> 1"
    told = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(each["who"], each["verb"], each["outcome"]) for each in told] == [
        ("--watch", "publish", "ok"),
        ("", "publish", "PERMISSION_DENIED"),
        ("operator", "rollback", "ok"),
        ("operator", "publish", "ok"),
        ("operator", "rebalance", "ok"),
    ]
    assert serving.end() == 0
    assert not socket.parent.exists()
