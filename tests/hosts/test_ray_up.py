"""`ray up` on own machines, for real: hosts with addresses, processes and ssh daemons of their own.

Two hosts at first, one of which says that it has a GPU; a model served across them; a third host added and used; that
one cut off and brought back; everything ended by `ray down`. Predictions are held against the model's own arithmetic.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.cluster.models import score, write_model
from tests.hosts.cluster import BIN, RayHosts, ray_hosts
from tests.hosts.namespaces import missing

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "hosts can be made"),
]

USERS = [*range(0, 1000, 37), 5000]


def test_a_model_is_served_across_hosts_that_come_and_go(tmp_path: Path) -> None:
    model = write_model(tmp_path / "ranker", user_replicas=2)
    with ray_hosts(3, tmp_path, [tmp_path]) as cluster:
        cluster.hosts[1].run("bash", "-c", "echo --num-gpus=1 > ~/resources")
        cluster.up(workers=1)
        door = ("--admin-host", "0.0.0.0", "--admin-port", 8502)
        served = cluster.ringpull("serve", model, "--address", "auto", "--shards", 2, "--detach", *door)
        assert f"ringpull ready grpc={cluster.hosts[1].address}:8500" in served.stdout, served.stdout + served.stderr
        assert shard_hosts(cluster) == {host.address for host in cluster.hosts[:2]}
        check_predictions(cluster)

        cluster.add(cluster.hosts[2])
        cluster.ringpull("rebalance", "--shards", 3, "--yes", "--target", target(cluster))
        assert shard_hosts(cluster) == {host.address for host in cluster.hosts}
        check_predictions(cluster)

        cluster.cut_off(cluster.hosts[2])
        time.sleep(5)
        cluster.bring_back(cluster.hosts[2])
        check_predictions(cluster)

        assert cluster.ringpull("stop").stdout == f"stopped {target(cluster)}\n"
        cluster.down()
        for host in cluster.hosts:
            left = host.run("pgrep", "-fa", "raylet|gcs_server|ray::", check=False).stdout
            assert not left, f"{host.name}: {left}"


def target(cluster: RayHosts) -> str:
    return f"{cluster.hosts[1].address}:8500"


def shard_hosts(cluster: RayHosts) -> set[str]:
    """The hosts that shards listen on, from the operator's machine."""
    said = cluster.operator.run(str(BIN / "ringpull"), "status", "--json", "--target", target(cluster)).stdout
    return {shard["address"].rpartition(":")[0] for shard in json.loads(said)["shards"]}


def check_predictions(cluster: RayHosts) -> None:
    """Predict from the operator's machine; a host that was away may need a moment."""
    features = {"user_id": USERS, "genres": [["drama", "crime"][: user % 3] for user in USERS]}
    request = json.dumps({"features": features})
    for _ in range(60):
        said = cluster.operator.run(
            *[str(BIN / "ringpull"), "predict", "ranker", "--target", target(cluster), "--json"],
            *["--json-request", "/dev/stdin"],
            given=request,
            check=False,
        )
        if said.returncode == 0:
            break
        time.sleep(1)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)["outputs"]["score"]
    expected = [score(user, ["drama", "crime"][: user % 3]) for user in USERS]
    assert found == pytest.approx(expected, rel=1e-5)
