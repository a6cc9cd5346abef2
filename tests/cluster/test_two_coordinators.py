"""A raylet that is stopped for longer than Ray waits: Ray takes its node for dead and starts the deployment's actors on
the other one, beside the old ones, which live on. So there are two coordinators for a while, and two of each head."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import psutil
import pytest

from ringpull import Client
from ringpull.ps.errors import RingpullError
from tests.cluster.conftest import RingpullRun
from tests.cluster.models import score, write_model
from tests.cluster.watching import Watch, until
from tests.ports import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROWS: Final = {1: 1000, 2: 500}
"""Version -> rows of its user table: every answer tells which version it is from."""

MARK: Final = "RINGPULL_TEST_TWO_NODES"
"""In the environment of every process of that Ray."""

CONNECTIONS: Final = 16
"""Of a client that comes anew: the kernel spreads them over whoever listens, so every head has some of them."""

TWO_NODES: Final = """
import json, sys

from ray.cluster_utils import Cluster

node = {"num_cpus": 8, "object_store_memory": 80 << 20}
# A node counts as dead about two seconds after its raylet has fallen silent, not half a minute.
quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 500}
quick["health_check_failure_threshold"] = 3
cluster = Cluster(
    initialize_head=True, head_node_args={**node, "include_dashboard": False, "_system_config": quick}
)
cluster.add_node(**node)
cluster.wait_for_nodes()
[raylet] = cluster.head_node.all_processes["raylet"]
print(json.dumps({"address": cluster.address, "raylet": raylet.process.pid}), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


class TwoNodes:
    """A Ray of two nodes on this machine. Whoever joins it here is on the first one, as its driver."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._mark = uuid4().hex
        environment.update({MARK: self._mark, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"})
        self.process = subprocess.Popen(
            [sys.executable, "-c", TWO_NODES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.address: str = said["address"]
        self.raylet = psutil.Process(said["raylet"])
        self._before: set[int] = set()

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def actors(self, kind: str) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if "".join(process.cmdline()).startswith(f"ray::{kind}"):  # Empty of one that ends.
                    found.append(process)
        return found

    def has_second_coordinator(self) -> bool:
        """Whether another one was started than was there when the node fell silent, which ends soon after."""
        return any(process.pid not in self._before for process in self.actors("Coordinator"))

    @contextmanager
    def first_node_silent(self) -> Iterator[None]:
        """Stop the raylet of the first node, and never leave it stopped."""
        self._before = {process.pid for process in self.actors("Coordinator")}
        self.raylet.suspend()
        try:
            yield
        finally:
            with suppress(psutil.NoSuchProcess):
                self.raylet.resume()

    def end(self) -> None:
        with suppress(psutil.NoSuchProcess):
            self.raylet.resume()
        self.process.communicate("")
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        until("all of Ray is gone", lambda: not self.processes())


@pytest.fixture
def two_nodes(environment: dict[str, str]) -> Iterator[TwoNodes]:
    before = dict(environment)
    nodes = TwoNodes(environment)
    try:
        yield nodes
    finally:
        nodes.end()
        environment.clear()
        environment.update(before)


@pytest.fixture
def target(tmp_path: Path, two_nodes: TwoNodes, ringpull: RingpullRun) -> str:
    """Of a deployment whose coordinator and heads are on the first node, and whose shards are on both."""
    model = write_model(tmp_path / "ranker", 1, rows=ROWS[1], user_replicas=2)
    ports = ("--grpc-port", free_port(), "--http-port", free_port())
    where = ("--address", two_nodes.address, "--host", "127.0.0.1", "--state-dir", tmp_path / "state", *ports)
    ran = ringpull("serve", model, *where, "--shards", 2, "--heads", 2, "--replicas", "genre=all", "--detach")
    assert ran.returncode == 0, ran.stderr
    write_model(tmp_path / "ranker", 2, rows=ROWS[2], user_replicas=2)
    return f"127.0.0.1:{ports[1]}"


@pytest.mark.slow
def test_what_was_published_is_shown_by_every_head(two_nodes: TwoNodes, target: str, ringpull: RingpullRun) -> None:
    """By those that are there twice, too: the old ones have a coordinator that does not know that its term is over.

    And when the node wakes up, nobody goes back to what the old coordinator believed.
    """
    with Watch(target, ROWS) as watch:
        watch.goes_on()
        with two_nodes.first_node_silent():
            until("a second coordinator", two_nodes.has_second_coordinator)
            until("it publishes", lambda: ringpull("publish", "ranker/2", "--target", target).returncode == 0)
            seen = [shown(target)]
            try:
                until("every head shows version 2", lambda: seen.append(shown(target)) or set(seen[-1]) == {2})
            except AssertionError as exc:
                raise AssertionError(f"{exc}; answers by version: at first {seen[0]}, then {seen[-1]}") from None
            watch.goes_on()
        until("one coordinator", lambda: len(two_nodes.actors("Coordinator")) == 1)
        until("two heads", lambda: len(two_nodes.actors("Head")) == 2)
        watch.goes_on()
        for _ in range(5):
            assert set(shown(target)) == {2}
        rebalanced = ringpull("rebalance", "--shards", "3", "--yes", "--target", target)
        assert rebalanced.returncode == 0, rebalanced.stderr
        watch.goes_on()
    assert watch.wrong == []
    assert watch.filled == 0


@pytest.mark.slow
def test_what_a_leader_of_a_term_that_is_over_is_told_it_refuses(
    two_nodes: TwoNodes, target: str, tmp_path: Path, ringpull: RingpullRun
) -> None:
    """Whichever coordinator a command comes to: what exits with 0 is so, and the state is written by one of them."""
    with Watch(target, ROWS) as watch:
        watch.goes_on()
        with two_nodes.first_node_silent():
            until("a second coordinator", two_nodes.has_second_coordinator)
            shards = 2
            for wanted in (3, 2, 3, 2):
                ran = ringpull("rebalance", "--shards", wanted, "--yes", "--json", "--target", target)
                if ran.returncode == 0:
                    shards = wanted
                else:
                    assert "error: " in ran.stderr, "it is refused in words"
                watch.goes_on()
            newest = newest_name(tmp_path / "state")
        until("one coordinator", lambda: len(two_nodes.actors("Coordinator")) == 1)
        until("a status", lambda: ringpull("status", "--json", "--target", target).returncode == 0)
        status = json.loads(ringpull("status", "--json", "--target", target).stdout)
        assert len(status["shards"]) == shards
        assert newest_name(tmp_path / "state") >= newest, "nobody goes back"
        watch.goes_on()
    assert watch.wrong == []


def shown(target: str) -> Counter[int]:
    """Return by which versions a client with connections of its own is answered; 0 stands for wrong scores."""
    versions = Counter[int]()
    with Client(target, timeout_s=10.0, channels=CONNECTIONS) as client:
        for _ in range(4 * CONNECTIONS):
            with suppress(RingpullError):
                answer = client.predict("ranker", {"user_id": [7], "genres": [["drama"]]})
                right = score(7, ["drama"], rows=ROWS[answer.version])
                versions[answer.version if abs(answer.outputs["score"][0] - right) < 1e-5 else 0] += 1
    return versions


def newest_name(folder: Path) -> str:
    """Return the name of the newest state, which has its term and generation."""
    return max(path.name for path in folder.iterdir() if path.name.startswith("state-"))
