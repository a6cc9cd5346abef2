"""A version exported anew under its own number, and one whose folder is removed: no answer is of two contents, and
whatever does not need the files goes on.

One deployment of two models on two shards, without copies of their own: a shard that restarts opens what lies there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import pytest

from ringpull import Client
from ringpull.ps.errors import RingpullError, Unavailable
from tests.cluster.conftest import RingpullRun, Serving, StatusOf
from tests.cluster.models import score, write_model
from tests.cluster.watching import USERS, actors, until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EXPECTED: Final = np.array([score(user, ["drama"]) for user in USERS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def serving(folder: Path, serve: Callable[..., Serving]) -> Serving:
    return serve(write_model(folder / "ranker"), write_model(folder / "other"), "--shards", 2)


@pytest.fixture
def process(serving: Serving) -> psutil.Process:
    return psutil.Process(serving.process.pid)


class Asked:
    """Answers of the models, each held against the content that the deployment was brought up with."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.refused: list[RingpullError] = []
        self.answered = 0

    def answers(self, model: str, version: int | None = None) -> bool:
        """Ask; return whether there was an answer, which must be right."""
        features = {"user_id": USERS, "genres": [["drama"]] * len(USERS)}
        try:
            answer = self._client.predict(model, features, version=version)
        except RingpullError as exc:
            self.refused.append(exc)
            return False
        np.testing.assert_allclose(answer.outputs["score"], EXPECTED)
        assert answer.filled == ()
        self.answered += 1
        return True


Warns = Callable[..., bool]


@pytest.fixture
def warns(serving: Serving, status_of: StatusOf) -> Warns:
    """Return whether one of the warnings of `status` has all of some words."""

    def told(*words: str) -> bool:
        warnings = status_of(serving.ready["grpc"]).get("warnings", ())
        return any(all(word in warning for word in words) for warning in warnings)

    return told


def test_exported_anew_under_its_number_no_answer_is_of_both(
    serving: Serving,
    process: psutil.Process,
    folder: Path,
    ringpull: RingpullRun,
    status_of: StatusOf,
    warns: Warns,
    tmp_path: Path,
) -> None:
    """A shard, then the head restart: what they cannot serve they refuse in words, until the right files are back."""
    target = serving.ready["grpc"]
    with Client(target, timeout_s=5.0, retries=0) as client:
        asked = Asked(client)
        assert asked.answers("ranker")
        (folder / "ranker" / "1").rename(tmp_path / "right")
        manifest = write_model(folder / "ranker", factor=2.0) / "1" / "manifest.json"
        manifest.write_text(manifest.read_text() + "\n")  # So that it is another version to heads, too.
        actors(process, "Shard")[0].kill()
        until("a refusal", lambda: not asked.answers("ranker"))
        until("the other model", lambda: asked.answers("other"))
        until("a warning", lambda: warns("shard", "ranker/1 is not served", "under a new number"))
        for _ in range(50):
            asked.answers("ranker")
            assert asked.answers("other")
        assert type(asked.refused[-1]) is Unavailable
        assert "export under a new number" in str(asked.refused[-1])
        published = ringpull("publish", "ranker/1", "--target", target)
        assert published.returncode == 1
        assert "other content now" in published.stderr
        assert "export under a new number" in published.stderr
        actors(process, "Head")[0].kill()
        until("the other model", lambda: asked.answers("other"))
        until("a warning", lambda: warns("head", "ranker/1 is not served", "under a new number"))
        for _ in range(20):
            assert not asked.answers("ranker")
        shutil.rmtree(folder / "ranker" / "1")
        (tmp_path / "right").rename(folder / "ranker" / "1")
        until("all is well", lambda: asked.answers("ranker") and status_of(target).get("warnings") == [])


def test_the_folder_of_a_version_that_is_kept_is_removed(
    serving: Serving, process: psutil.Process, folder: Path, ringpull: RingpullRun, warns: Warns
) -> None:
    """Publish, rebalance and restart go on, and `status` says what was let go."""
    target = serving.ready["grpc"]

    def done(*command: object) -> str:
        ended = ringpull(*command, "--target", target)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    for number in (2, 3, 4):
        write_model(folder / "ranker", number)
    with Client(target, timeout_s=20.0) as client:
        asked = Asked(client)
        done("publish", "ranker/2")
        shutil.rmtree(folder / "ranker" / "1")
        actors(process, "Shard")[0].kill()
        until("a warning", lambda: warns("ranker/1 was let go", "removed"))
        until("all is well", lambda: asked.answers("ranker"))
        done("publish", "ranker/3")
        shutil.rmtree(folder / "ranker" / "2")
        done("rebalance", "--shards", 3, "--yes")
        until("a warning", lambda: warns("ranker/2 was let go", "removed"))
        assert asked.answers("ranker")
        assert "ranker/2 was let go" in ringpull("rollback", "ranker", "--target", target).stderr
        done("restart", "--rolling", "--force", "--yes")
        done("publish", "ranker/4")
        until("all is well", lambda: asked.answers("ranker", 3) and asked.answers("ranker", 4))
