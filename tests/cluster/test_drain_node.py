"""A node of a Ray of two is drained: not while its shards have pushed rows, and then with everything on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringpull import Client
from ringpull.loadtest.chaos.pushed_model import PUSHED, TABLE
from tests.cluster.conftest import RingpullRun
from tests.cluster.pushed import export, push, shown
from tests.cluster.test_two_coordinators import TwoNodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def two_nodes(environment: dict[str, str]) -> Iterator[TwoNodes]:
    nodes = TwoNodes(environment)
    yield nodes
    nodes.end()


def shards(client: Client) -> list[int]:
    return sorted(shard.shard for shard in client.status().shards)


def test_a_node_whose_shards_have_pushed_rows_is_drained_after_a_new_lineage(
    two_nodes: TwoNodes, tmp_path: Path, ringpull: RingpullRun
) -> None:
    folder = tmp_path / "models" / PUSHED
    export(folder, 1)
    kept = ("--data-dir", tmp_path / "rows", "--state-dir", tmp_path / "state", "--keep", 0)
    ports = ("--grpc-port", 0, "--http-port", 0)
    ran = ringpull("serve", folder, "--address", two_nodes.address, "--detach", "--shards", 2, *kept, *ports)
    assert ran.returncode == 0, ran.stderr
    target = dict(word.split("=", 1) for word in ran.stdout.split()[2:])["grpc"]
    with Client(target, timeout_s=60) as client:
        push(client, 5)
        refused = ringpull("rebalance", "--drain-node", "nowhere", "--yes", "--target", target).stderr
        node = refused.partition("there is no node nowhere; there is ")[2].split()[0].rstrip(",")
        drain = ("rebalance", "--drain-node", node, "--yes", "--target", target)
        ran = ringpull(*drain)
        assert (ran.returncode, f"{PUSHED}/{TABLE}, on shards 0, 1" in ran.stderr) == (1, True), ran.stderr
        assert shards(client) == [0, 1]
        assert set(shown(client)) == {5.0}
        push(client, 6)
        assert set(shown(client)) == {6.0}

        export(folder, 2)
        ran = ringpull("publish", f"{PUSHED}/2", "--target", target)
        assert ran.returncode == 0, ran.stderr
        ran = ringpull(*drain)
        assert ran.returncode == 0, ran.stderr
        assert shards(client) in ([0, 2], [1, 2])  # the one of that node is another one, elsewhere
        push(client, 7)
        assert set(shown(client)) == {7.0}
    ran = ringpull("stop", "--target", target)
    assert ran.returncode == 0, ran.stderr
