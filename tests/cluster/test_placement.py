"""Where Ray places what prefers a node, on a Ray of three nodes: there, again and again, until the node is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ringpull.deploy.cluster import members
from tests.deploy.actor_specs import make_actor_spec

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PLACED = """
import json, os, time

import ray
from ray.cluster_utils import Cluster

from ringpull.deploy.cluster.calls import result
from ringpull.deploy.cluster.members import make, preferring
from ringpull.deploy.cluster.actor_spec import NAMESPACE
from ringpull.ps.errors import Unavailable

class Placed:
    def node(self):
        return ray.get_runtime_context().get_node_id()

    def die(self):
        os._exit(1)

def nodes_of(placed):
    return [node_of(each) for each in placed]

def node_of(each):
    while True:
        try:
            return result(each.node.remote())
        except Unavailable:
            time.sleep(0.05)

node = {"num_cpus": 1, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
preferred, other = (cluster.add_node(**node) for _ in range(2))
ray.init(cluster.address, namespace=NAMESPACE, log_to_driver=False)
placed = [make(f"placed-{i}", Placed, **preferring(preferred.node_id)) for i in range(4)]
began = nodes_of(placed)
for each in placed:
    try:
        result(each.die.remote())
    except Unavailable:
        pass
again = nodes_of(placed)
cluster.remove_node(preferred)
left = nodes_of(placed)
print(json.dumps({"preferred": preferred.node_id, "began": began, "again": again, "left": left}))
ray.shutdown()
cluster.shutdown()
"""


def test_what_prefers_a_node_is_there_until_it_is_lost(environment: dict[str, str]) -> None:
    """Asking for nothing at all, it would be on any of the three, and on another one after every restart."""
    ran = subprocess.run(
        [sys.executable, "-c", PLACED],
        capture_output=True,
        text=True,
        env={**environment, "RAY_AUTH_MODE": "disabled"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    assert set(said["began"]) == {said["preferred"]}
    assert set(said["again"]) == {said["preferred"]}
    assert said["preferred"] not in said["left"]


def test_a_head_prefers_a_node_unless_it_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which node has a GPU to give, Ray knows."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(members, "make", lambda *args, **options: made.append(options))
    node = "ab" * 28
    members.make_head(make_actor_spec(), 0, node)
    members.make_head(make_actor_spec(gpus=0.5), 0, node)
    [plain, on_gpu] = made
    assert plain["scheduling_strategy"].node_id == node
    assert plain["scheduling_strategy"].soft
    assert plain["memory"] > 0
    assert on_gpu["num_gpus"] == 0.5
    assert "scheduling_strategy" not in on_gpu
