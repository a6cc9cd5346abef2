"""Addresses in the maps that a coordinator makes: of processes, not of ports; and whose map it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.router.members import FakeShard
from tests.router.test_process import Deployment, over, spec, until


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """Of shards each of which always listens on one and the same port."""
    heartbeat = FakeShard.heartbeat
    monkeypatch.setattr(FakeShard, "heartbeat", lambda shard: replace(heartbeat(shard), port=7000 + shard.shard))
    made = Deployment(tmp_path)
    yield made
    made.kill()


def test_a_shard_that_is_back_on_the_port_it_had_is_another_address(deployment: Deployment) -> None:
    """Heads ask for the process that they mean, so they have to be told of the next one."""
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    before = coordinator.map()
    deployment.members.crash_shard(1)
    until(lambda: deployment.serves(spec(2)) and coordinator.map().epoch > before.epoch)
    after = coordinator.map()
    assert [(each.host, each.port) for each in after.shards] == [(each.host, each.port) for each in before.shards]
    assert after.shards[0] == before.shards[0]
    lives = [deployment.members.shards[shard].incarnation for shard in range(2)]
    assert [each.incarnation for each in after.shards] == lives
    until(lambda: deployment.members.heads[0].map == after)


def test_a_map_says_whose_it_is_and_of_which_term(deployment: Deployment) -> None:
    """The next coordinator's is newer, whatever the one before it has made meanwhile."""
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    before = coordinator.map()
    assert before.deployment
    coordinator = deployment.start()
    head = deployment.members.heads[0]
    until(lambda: head.map is not None and head.map.term > before.term)
    after = coordinator.map()
    assert after.deployment == before.deployment
    assert after == head.map
    assert after.edition > replace(before, epoch=after.epoch + 100).edition
