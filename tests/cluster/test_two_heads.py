"""Two heads behind one port, as `--heads auto` starts them on two cores: both are used, and nothing is lost to a client
that retries in a rolling restart of everything, when one dies, or at the deployment's end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ringpull.deploy.head_count import HEAD_BYTES, Circumstances, head_count
from ringpull.ps import allowance
from ringpull.ps.errors import Unavailable
from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.models import write_model
from tests.cluster.watching import Watch, actors, until

pytestmark = pytest.mark.ray

TWO_CORES = Circumstances(cores=2, threads=1, memory_bytes=allowance.memory_bytes(), head_bytes=HEAD_BYTES + (64 << 20))
"""What `--heads auto` is to find, with memory to spare for its programs."""
HEADS = "auto" if allowance.cores() >= 2 and head_count(TWO_CORES).heads == 2 else 2
CHANNELS = 8
THREADS = 4


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Serving]) -> Serving:
    """Two copies of everything on three shards, and two heads."""
    model: Path = write_model(tmp_path_factory.mktemp("models") / "ranker", user_replicas=2)
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:2])  # of this thread, and of what it starts
    try:
        return serve(model, "--shards", 3, "--replicas", "genre=all", "--heads", HEADS, "--device", "cpu")
    finally:
        os.sched_setaffinity(0, every)


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


@pytest.mark.skipif(HEADS != "auto", reason="there are no two cores, or no memory for two heads")
def test_it_is_said_why_there_are_two(serving: Serving, ringpull: RingpullRun) -> None:
    told = "--heads auto: 2 heads, for 2 cores"
    assert serving.log.read_text().splitlines().count(told) == 1
    assert told in ringpull("status", "--target", serving.ready["grpc"]).stdout


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
