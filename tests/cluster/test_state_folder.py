"""One folder of the coordinator's state, and two deployments; and the folder away while the coordinator restarts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ringpull import Client
from tests.cluster.conftest import RingpullRun, Serving, StatusOf
from tests.cluster.models import score, write_model
from tests.cluster.watching import actors, until
from tests.saved_state import newest_state

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "ranker")


def assert_answers(target: str) -> None:
    with Client(target) as client:
        answer = client.predict("ranker", {"user_id": [7], "genres": [["drama"]]})
    assert answer.outputs["score"].tolist() == pytest.approx([score(7, ["drama"])])


def test_what_was_live_is_served_again(
    tmp_path: Path, serve: Callable[..., Serving], ringpull: RingpullRun, status_of: StatusOf
) -> None:
    """Also by `serve` after `serve`, where nobody publishes in between, and with a watch."""
    model, state = write_model(tmp_path / "ranker", 1), ("--state-dir", tmp_path / "state")
    serving = serve(model, *state)
    write_model(model, 2)
    for words in (("publish", "ranker/2"), ("rollback", "ranker")):
        ran = ringpull(*words, "--target", serving.ready["grpc"])
        assert ran.returncode == 0, ran.stderr
    assert serving.end() == 0

    for watch in ((), ("--watch", 0.1)):
        serving = serve(model, *state, *watch)
        assert "ranker/1 was live, and is served again; 2 is in its folder" in serving.log.read_text()
        assert "it was live before: `ringpull publish ranker/2` makes it live" in serving.log.read_text()
        assert [each["version"] for each in status_of(serving.ready["grpc"])["models"]] == [1]
        if not watch:
            assert serving.end() == 0
    # Whoever watches goes on above what had ever been live.
    write_model(model, 3)
    until("3 is live", lambda: 3 in [each["version"] for each in status_of(serving.ready["grpc"])["models"]])
    assert 2 not in [each["version"] for each in status_of(serving.ready["grpc"])["models"]]
    assert serving.end() == 0


def test_a_folder_has_one_deployment_after_the_other(
    model: Path, tmp_path: Path, serve: Callable[..., Serving], ringpull: RingpullRun, status_of: StatusOf
) -> None:
    folder, away = tmp_path / "state", tmp_path / "away"
    first = serve(model, "--state-dir", folder)
    target, process = first.ready["grpc"], psutil.Process(first.process.pid)
    before = newest_state(folder)

    # While it lives, nobody else gets the folder, and what is there stays as it is.
    refused = ringpull("serve", model, "--state-dir", folder, "--name", "other", "--grpc-port", 0, "--http-port", 0)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "belongs to deployment ringpull on" in refused.stderr
    assert "which lives; stop it, or give another --state-dir" in refused.stderr
    assert newest_state(folder)["deployment"] == before["deployment"]

    # Away while its coordinator restarts, the folder is waited for; predictions need neither.
    folder.rename(away)
    [coordinator] = actors(process, "Coordinator")
    coordinator.kill()
    coordinator.wait()
    until("it is said", lambda: "is it mounted here" in ringpull("rollback", "ranker", "--target", target).stderr)
    assert_answers(target)
    assert not folder.exists(), "nobody makes up an empty one"
    away.rename(folder)
    until("it leads again", lambda: newest_state(folder)["term"] > before["term"])
    until("heads go by its map", lambda: status_of(target)["epoch"] == newest_state(folder)["state"]["epoch"])
    epoch = status_of(target)["epoch"]
    [shard] = actors(process, "Shard")
    shard.kill()
    shard.wait()
    until("the shard is back", lambda: status_of(target)["epoch"] > epoch)
    assert_answers(target)
    after = newest_state(folder)
    assert after["deployment"] == before["deployment"]

    # After it has stopped, another one takes the folder over at once; epochs and terms go on.
    assert first.end() == 0
    second = serve(model, "--state-dir", folder, "--name", "other")
    now = newest_state(folder)
    assert now["deployment"] != after["deployment"]
    assert now["term"] > after["term"]
    assert now["state"]["epoch"] > after["state"]["epoch"]
    assert status_of(second.ready["grpc"])["epoch"] > after["state"]["epoch"]
    assert_answers(second.ready["grpc"])
