"""What the planner is told of a deployment: the share of keys that heads will read themselves after a move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringpull.deploy.planned_move import automatic, planned_move
from ringpull.deploy.planned_tables import tables_that_serve
from ringpull.router.control.moves import move_plan
from ringpull.router.control.observed import TableTraffic
from ringpull.router.control.operations import DeploymentStatus, Rebalance
from tests.deploy.fake_operations import FakeOperations, spec

DIMS = {"ranker/item": 16, "ranker/genre": 16}
GIB = 1 << 30


def status(nodes: str, item_here: int, genre_here: int = 0) -> DeploymentStatus:
    """A deployment with a shard on the node of each letter, whose heads have read so many keys themselves."""
    return replace(
        FakeOperations().status_now,
        spec=spec(len(nodes)),
        nodes=dict(enumerate(nodes)),
        traffic={
            "ranker/item": TableTraffic(keys=1000, bags=100, missing=0, here=item_here),
            "ranker/genre": TableTraffic(keys=1000, bags=100, missing=0, here=genre_here),
        },
    )


@pytest.mark.parametrize(
    ("nodes", "here", "shards", "drained", "share"),
    [
        ("aa", 1000, None, "", 1.0),
        ("aa", 1000, 1, "", 1.0),
        ("aa", 1000, 4, "", 0.5),
        ("aa", 0, 4, "", 0.0),
        ("aa", 1000, None, "a", 0.0),
        ("abab", 1000, None, "", 0.5),
        ("abbb", 250, None, "", 0.25),
        ("abbb", 250, 8, "", 0.25),
    ],
)
def test_heads_read_no_more_than_the_shards_of_one_node(
    nodes: str, here: int, shards: int | None, drained: str, share: float
) -> None:
    found = {each.name: each for each in tables_that_serve(status(nodes, here), DIMS, shards=shards, drained=drained)}
    assert found["ranker/item"].read_here == share
    assert found["ranker/genre"].read_here == 0.0


def test_a_table_that_was_on_every_shard_tells_nothing_of_the_others() -> None:
    """It was read whole while it was; on four nodes a quarter of it is beside heads now, and of the other as before."""
    found = tables_that_serve(status("abcd", 200, 990), DIMS)
    assert {each.name: each.read_here for each in found} == {"ranker/item": 0.2, "ranker/genre": 0.25}


def test_a_plan_of_more_shards_counts_on_none_of_the_new_ones() -> None:
    """All were on the heads' node: `all` is worth it once they are elsewhere, and a move without it costs more."""
    now = status("aa", 1000, 1000)
    request, reasons = automatic(now, Rebalance(shards=4), DIMS, memory=GIB, min_copies=None)
    assert request.replicas["ranker/genre"] == "all"
    assert not any("-> 1: heads read it themselves" in each for each in reasons)
    target = replace(now.spec, ring=spec(4).ring)
    move = planned_move(now, Rebalance(shards=4), move_plan(now.spec, target, streamed=False), DIMS, memory=None)
    assert move.cost_before is not None
    assert move.cost_after is not None
    assert move.cost_before.bytes == 0 < move.cost_after.bytes
