"""A state folder that commit ba8f592 left behind: a new deployment on it goes on counting where that one stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ringpull import Client
from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.models import score, write_model

pytestmark = pytest.mark.ray

STATE = Path(__file__).parent.parent / "golden" / "ba8f592" / "state"


def test_no_epoch_is_used_twice(tmp_path: Path, serve: Callable[..., Serving], ringpull: RingpullRun) -> None:
    """Heads and shards tell old maps from new ones by it."""
    state_dir = tmp_path / "state"
    shutil.copytree(STATE, state_dir)
    [saved] = state_dir.iterdir()
    before = json.loads(saved.read_text())
    model = write_model(tmp_path / "ranker")
    serving = serve(model, "--shards", 2, "--state-dir", state_dir)
    with Client(serving.ready["grpc"]) as client:
        outputs = client.predict("ranker", {"user_id": [7], "genres": [["drama"]]}).outputs
    assert outputs["score"].tolist() == pytest.approx([score(7, ["drama"])])
    status = json.loads(ringpull("status", "--json", "--target", serving.ready["grpc"]).stdout)
    assert serving.end() == 0
    after = json.loads(saved.read_text())
    assert after["deployment"] != before["deployment"]
    assert status["epoch"] == after["state"]["epoch"] == before["state"]["epoch"] + 1
