"""Two heads behind one port: both are used; a rolling restart of everything, one that dies, or the deployment's end,
loses nothing to a client that retries."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from ringpull import Client
from ringpull.ps.errors import Unavailable
from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.models import score, write_model
from tests.cluster.watching import USERS, Watch, actors, until
from tests.metrics_page import Page

pytestmark = pytest.mark.ray

CHANNELS = 8
THREADS = 4


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Serving]) -> Serving:
    """Two copies of everything on three shards, and two heads."""
    model: Path = write_model(tmp_path_factory.mktemp("models") / "ranker", user_replicas=2)
    return serve(model, "--shards", 3, "--replicas", "genre=all", "--heads", 2, "--hand-over", "auto")


def heads(serving: Serving) -> list[psutil.Process]:
    return actors(psutil.Process(serving.process.pid), "Head")


def connections(head: psutil.Process, serving: Serving) -> int:
    """How many clients' connections a head has: each is one that the kernel gave it."""
    port = int(serving.ready["grpc"].rpartition(":")[2])
    try:
        found = head.net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return 0
    return sum(each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in found)


def all_take_part(serving: Serving, count: int = 2) -> bool:
    """Whether there are so many heads, and a client that comes now reaches each."""
    with Watch(serving.ready["grpc"], threads=THREADS, channels=4 * CHANNELS) as watch:
        watch.goes_on(4 * CHANNELS)
        found = [connections(head, serving) for head in heads(serving)]
    assert watch.wrong == []
    return len(found) == count and all(found)


def kill_one(serving: Serving) -> None:
    """kill -9 of a head that has connections; return when there is another process in its place."""
    before = heads(serving)
    victim = max(before, key=lambda head: connections(head, serving))
    assert connections(victim, serving)
    victim.kill()
    gone = {head.pid for head in before}
    until("another head", lambda: any(head.pid not in gone for head in heads(serving)))


@pytest.mark.parametrize(("kind", "count"), [("shard", 3), ("head", 2)])
def test_nothing_fails_while_all_are_restarted(serving: Serving, ringpull: RingpullRun, kind: str, count: int) -> None:
    """`ringpull restart --rolling` under load: every process is another one afterwards."""
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


def test_both_heads_get_traffic(serving: Serving) -> None:
    assert len(heads(serving)) == 2
    until("connections at both heads", lambda: all_take_part(serving))


def handed_over(serving: Serving) -> float:
    """How many requests heads have answered for each other, by what those say that handed them over."""
    with urllib.request.urlopen(f"http://{serving.ready['http']}/metrics/targets") as answer:
        targets = [each for each in json.load(answer) if each["labels"]["member"].startswith("head-")]
    pages = [Page.of(*each["targets"][0].rsplit(":", 1)) for each in targets]
    samples = [each for page in pages for each in page.samples("ringpull_handed_over_total")]
    return sum(value for labels, value in samples if labels["outcome"] == "answered")


def test_a_busy_head_has_the_other_one_answer(serving: Serving) -> None:
    """All requests come over one connection, to one head, in crowds, and are large: some are handed over."""
    users = np.tile(np.array(USERS), 16_000 // len(USERS))
    expected = np.array([score(user, ["drama"]) for user in users.tolist()])
    genres = [["drama"]] * len(users)

    def ask(client: Client) -> bool:
        found = client.predict("ranker", {"user_id": users, "genres": genres}, timeout_s=60).outputs["score"]
        return bool(np.allclose(found, expected, rtol=1e-5, atol=1e-5))

    with Client(serving.ready["grpc"], channels=1) as client, ThreadPoolExecutor(THREADS) as threads:
        answers: list[bool] = []

        def some_were() -> bool:
            answers.extend(threads.map(ask, [client] * 2 * THREADS))
            return handed_over(serving) > 0

        until("a request that was handed over", some_were)
    assert all(answers)


def test_a_killed_head_loses_nothing_and_comes_back(serving: Serving) -> None:
    """Whichever it is, and again when all connections are at the one that was not killed before."""
    with Watch(serving.ready["grpc"], threads=THREADS, channels=CHANNELS) as watch:
        for _ in range(2):
            watch.goes_on()
            kill_one(serving)
            watch.goes_on()
            until("connections at both heads", lambda: all_take_part(serving))
        watch.goes_on()
    assert (watch.wrong, watch.failed, watch.filled) == ([], [], 0)


def test_without_retries_what_was_in_flight_ends_as_unavailable(serving: Serving) -> None:
    with Watch(serving.ready["grpc"], threads=THREADS, channels=CHANNELS, retries=0) as watch:
        watch.goes_on()
        while not watch.failed:  # nearly always there is a call in flight at the first
            kill_one(serving)
            watch.goes_on()
    assert watch.wrong == []
    assert {type(error) for error in watch.failed} == {Unavailable}


def test_sigterm_under_load_answers_or_refuses_every_call(serving: Serving) -> None:
    with Watch(serving.ready["grpc"], threads=THREADS, channels=CHANNELS, retries=0) as watch:
        watch.goes_on()
        assert serving.end(signal.SIGTERM) == 0
        until("a refusal", lambda: watch.failed)
    assert watch.wrong == []
    assert {type(error) for error in watch.failed} == {Unavailable}
