"""`ringpull restart --rolling` of everything, under load: every process is another one afterwards, nothing failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.models import write_model
from tests.cluster.watching import Watch, actors

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Serving]) -> Serving:
    """Two copies of everything on three shards, and two heads."""
    model: Path = write_model(tmp_path_factory.mktemp("models") / "ranker", user_replicas=2)
    return serve(model, "--shards", 3, "--replicas", "genre=all", "--heads", 2)


@pytest.mark.parametrize(("kind", "count"), [("shard", 3), ("head", 2)])
def test_nothing_fails_while_all_are_restarted(serving: Serving, ringpull: RingpullRun, kind: str, count: int) -> None:
    process = psutil.Process(serving.process.pid)
    before = {each.pid for each in actors(process, kind.capitalize())}
    with Watch(serving.ready["grpc"]) as watch:
        watch.goes_on()
        ran = ringpull("restart", "--rolling", f"--{kind}s", "--json", "--target", serving.ready["grpc"])
        watch.goes_on()
    assert ran.returncode == 0, ran.stderr
    fields = json.loads(ran.stdout)
    print(f"{kind}s restarted, seconds:", *[each["seconds"] for each in fields["restarted"]])
    assert [(each["role"], each["number"]) for each in fields["restarted"]] == [(kind, i) for i in range(count)]
    assert (watch.wrong, watch.failed, watch.filled) == ([], [], 0)
    after = {each.pid for each in actors(process, kind.capitalize())}
    assert len(after) == len(before) == count
    assert not before & after
