"""A deployment on a state folder that commit ba8f592 left behind, which looks for new versions by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ringpull import Client
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
def serving(folder: Path, state_dir: Path, serve: Callable[..., Serving]) -> Serving:
    return serve(folder, "--watch", 0.2, "--shards", 2, "--state-dir", state_dir)


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
