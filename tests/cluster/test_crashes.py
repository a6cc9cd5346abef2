"""kill -9 of everything that can be killed, on one private Ray: all of it comes back by itself."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Callable

import psutil
import pytest

from tests.cluster.conftest import Serving, alive
from tests.cluster.models import write_model
from tests.cluster.watching import Watch, actors, until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Serving]) -> Serving:
    """Two copies of everything on three shards: one may always be lost."""
    model = write_model(tmp_path_factory.mktemp("models") / "ranker", user_replicas=2)
    return serve(model, "--shards", 3, "--replicas", "genre=all")


@pytest.fixture
def process(serving: Serving) -> psutil.Process:
    return psutil.Process(serving.process.pid)


def kill(process: psutil.Process, kind: str) -> None:
    """kill -9 of the oldest actor of a kind; return when there is another in its place."""
    before = actors(process, kind)
    before[0].kill()
    gone = {each.pid for each in before}
    until(f"another {kind}", lambda: any(each.pid not in gone for each in actors(process, kind)))


def test_a_killed_shard_comes_back_and_nothing_failed_meanwhile(serving: Serving, process: psutil.Process) -> None:
    """Another can be killed then, whose ranges only the one that came back has besides."""
    with Watch(serving.ready["grpc"], retries=0) as watch:
        watch.goes_on()
        for _ in range(3):
            kill(process, "Shard")
            until("three shards that answer", lambda: answering(serving) == 3)
            watch.goes_on()
    assert (watch.wrong, watch.failed, watch.filled) == ([], [], 0)


def test_a_killed_coordinator_is_not_missed(serving: Serving, process: psutil.Process) -> None:
    """And the next one knows the deployment: it heals what is killed then."""
    with Watch(serving.ready["grpc"], retries=0) as watch:
        kill(process, "Coordinator")
        kill(process, "Shard")
        until("three shards that answer", lambda: answering(serving) == 3)
        watch.goes_on()
    assert (watch.wrong, watch.failed, watch.filled) == ([], [], 0)


def test_a_killed_head_comes_back_on_its_ports(serving: Serving, process: psutil.Process) -> None:
    with Watch(serving.ready["grpc"], retries=0) as watch:
        watch.goes_on()
        kill(process, "Head")
        watch.goes_on()
    assert watch.wrong == []
    assert serving.process.poll() is None


def test_a_kill_of_serve_leaves_nothing(serving: Serving, process: psutil.Process) -> None:
    """Not even actors that are detached; Ray's own agents take up to a minute."""
    below = [each for kind in ("Shard", "Head", "Coordinator") for each in actors(process, kind)]
    assert len(below) == 5
    serving.end(signal.SIGKILL)
    assert alive(below) == []


def answering(serving: Serving) -> int:
    """How many shards answer the head, by the addresses it routes to."""
    with urllib.request.urlopen(f"http://{serving.ready['http']}/status") as answer:
        return sum(shard["alive"] for shard in json.load(answer)["shards"])
