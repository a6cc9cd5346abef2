"""The router while its map changes: refused and refreshed, falling back, draining."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from ringpull.ps.errors import (
    DeadlineExceeded,
    NotFound,
    NotOwner,
    Unavailable,
)
from ringpull.ps.ring import Ring
from ringpull.router.client import Router
from ringpull.router.lookup import Lookup, LookupResult
from tests.router.cases import assert_reference, some_lookups, tables
from tests.router.fakes import MODEL, VERSION, FakeCluster

DIMS = {"users": 3, "items": 8, "tags": 1, "lists": 0}
NAMES = list(DIMS)


def soon() -> float:
    return time.monotonic() + 60


async def pull(cluster: FakeCluster, asked: list[Lookup]) -> list[LookupResult]:
    return await cluster.router.pull(MODEL, VERSION, asked, deadline_s=soon())


async def test_not_owner_makes_the_router_refresh_and_route_again():
    """Shards are a map ahead; each key is answered once, and counted once."""
    cluster = FakeCluster(Ring.even(range(3)), made := tables(DIMS))
    cluster.assign(cluster.shard_map.ring.join(3))
    asked = some_lookups(NAMES, 400)
    assert_reference(made, asked, await pull(cluster, asked))
    assert cluster.refreshes == 1, "three refusals, one refresh"
    counters = cluster.router.counters()
    assert counters.not_owner == 3
    assert counters.tables[MODEL, "items"].keys == sum(len(a.keys) for a in asked if a.table == "items")
    assert cluster.shards[3].requests, "the newcomer was asked"


async def test_while_a_move_drains_the_old_owner_answers_for_a_new_one_that_died():
    cluster = FakeCluster(Ring.even(range(2)), made := tables(DIMS))
    cluster.router.update(cluster.moving_to(cluster.shard_map.ring.with_shards([0, 2])))
    asked = some_lookups(NAMES, 400)
    assert_reference(made, asked, await pull(cluster, asked))
    assert not cluster.shards[1].requests, "new owners are asked first"
    cluster.shards[2].up = False
    assert_reference(made, asked, await pull(cluster, asked))
    assert cluster.shards[1].requests, "the old owner stood in"
    counters = cluster.router.counters()
    assert counters.tables[MODEL, "items"].keys == 2 * sum(len(a.keys) for a in asked if a.table == "items")
    cluster.shards[1].up = False
    with pytest.raises(Unavailable, match="no live shard could answer for keys of"):
        await pull(cluster, asked)


async def test_once_a_move_has_drained_old_owners_are_let_go_of():
    cluster = FakeCluster(Ring.even(range(2)), tables(DIMS))
    asked = some_lookups(NAMES, 100)
    moving = cluster.moving_to(cluster.shard_map.ring.with_shards([0, 2]))
    cluster.router.update(moving)
    await pull(cluster, asked)
    cluster.router.update(replace(moving, epoch=moving.epoch + 1, previous=None))
    await asyncio.sleep(0)
    assert {each.shard.shard for each in cluster.connections if not each.closed} <= {0, 2}
    cluster.shards[2].up = False
    with pytest.raises(Unavailable):
        await pull(cluster, asked)


async def test_an_epoch_is_drained_when_nobody_is_asked_by_an_older_map():
    cluster = FakeCluster(Ring.even(range(2)), made := tables(DIMS))
    for shard in cluster.shards.values():
        shard.gate = asyncio.Event()
    asked = some_lookups(NAMES, 100)
    old = asyncio.create_task(pull(cluster, asked))
    while not all(shard.gate for shard in cluster.shards.values()) or not cluster.connections:
        await asyncio.sleep(0)
    await cluster.router.drained(1)
    cluster.router.update(cluster.moving_to(cluster.shard_map.ring.with_shards([0, 1, 2])))
    drained = asyncio.create_task(cluster.router.drained(2))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not drained.done(), "a pull by epoch 1 is in flight"
    for shard in cluster.shards.values():
        if shard.gate is not None:
            shard.gate.set()
    assert_reference(made, asked, await old)
    await drained


async def test_a_version_that_a_shard_has_retired_is_as_good_as_refused():
    """The shard is ahead of our map; with no newer one to be had, another owner answers."""
    cluster = FakeCluster(Ring.even(range(2), 2), made := tables(DIMS), dict.fromkeys(NAMES, 2))
    cluster.shards[1].failures += [NotFound("model, version 3 is not open here")] * 2
    asked = some_lookups(NAMES, 100)
    assert_reference(made, asked, await pull(cluster, asked))
    assert cluster.refreshes == 1


async def test_only_the_refused_keys_are_asked_again():
    """Parts that were answered under the old map stand."""
    ring = Ring.even(range(4))
    cluster = FakeCluster(ring, made := tables(DIMS))
    cluster.assign(ring.with_shards([0, 1, 2, 4]))
    asked = some_lookups(NAMES, 400)
    assert_reference(made, asked, await pull(cluster, asked))
    assert [len(cluster.shards[shard].requests) for shard in range(5)] == [1, 1, 1, 1, 1]


async def test_a_pull_that_meets_two_new_maps_in_a_row_ends_well():
    cluster = FakeCluster(Ring.even(range(2)), made := tables(DIMS))
    cluster.assign(cluster.shard_map.ring.join(2))
    old_refresh = cluster.refresh

    async def refresh_behind():
        shard_map = await old_refresh()
        if cluster.refreshes == 1:
            cluster.assign(cluster.shard_map.ring.join(3))
        return shard_map

    cluster.router = Router(cluster.connect, refresh=refresh_behind)
    cluster.router.update(cluster.shard_map)
    cluster.router.register(MODEL, VERSION, {name: spec for name, (spec, _) in made.items()})
    cluster.assign(cluster.shard_map.ring.join(5))
    asked = some_lookups(NAMES, 600)
    assert_reference(made, asked, await pull(cluster, asked))
    assert cluster.refreshes == 2


async def test_not_owner_without_a_newer_map_goes_to_another_owner():
    cluster = FakeCluster(Ring.even(range(3), 2), made := tables(DIMS), dict.fromkeys(NAMES, 2))
    cluster.shards[1].failures.append(NotOwner("confused", epoch=1))
    asked = some_lookups(NAMES, 300)
    assert_reference(made, asked, await pull(cluster, asked))


async def test_not_owner_without_a_newer_map_and_other_owner_is_unavailable():
    cluster = FakeCluster(Ring.even(range(3)), tables(DIMS))
    cluster.shards[1].failures.append(NotOwner("confused", epoch=1))
    with pytest.raises(Unavailable, match=r"items.*shard 1: confused"):
        await pull(cluster, some_lookups(["items"], 300))


async def test_the_data_plane_outlives_who_hands_out_maps():
    """A refresh that fails leaves the router with its map and the other owners."""
    made = tables(DIMS)
    cluster = FakeCluster(Ring.even(range(3), 2), made, dict.fromkeys(NAMES, 2))

    async def dead() -> None:
        raise Unavailable("the coordinator is gone")

    cluster.router = Router(cluster.connect, refresh=dead)
    cluster.router.update(cluster.shard_map)
    cluster.router.register(MODEL, VERSION, {name: spec for name, (spec, _) in made.items()})
    cluster.shards[0].failures.append(NotOwner("moved", epoch=2))
    asked = some_lookups(NAMES, 300)
    assert_reference(made, asked, await pull(cluster, asked))


async def test_an_older_map_is_ignored_and_connections_of_leavers_close():
    cluster = FakeCluster(Ring.even(range(3)), tables(DIMS))
    old = cluster.shard_map
    await pull(cluster, some_lookups(NAMES, 300))
    cluster.router.update(cluster.assign(old.ring.leave(2)))
    cluster.router.update(old)
    assert "epoch=2" in repr(cluster.router)
    await pull(cluster, some_lookups(NAMES, 300))
    assert [connection.closed for connection in sorted(cluster.connections, key=lambda c: c.shard.shard)] == [
        False,
        False,
        True,
    ]


async def test_a_pull_in_flight_at_a_leaver_is_answered_before_its_connection_closes():
    cluster = FakeCluster(Ring.even(range(2)), made := tables(DIMS))
    leaver = cluster.shards[1]
    leaver.gate = asyncio.Event()
    asked = some_lookups(NAMES, 300)
    pulling = asyncio.create_task(pull(cluster, asked))
    while not cluster.shards[0].requests:
        await asyncio.sleep(0)
    old = cluster.shard_map
    cluster.router.update(cluster.assign(old.ring.leave(1)))
    leaver.shard_map = old
    await asyncio.sleep(0)
    leaver.gate.set()
    assert_reference(made, asked, await pulling)
    assert cluster.refreshes == 0
    assert next(c for c in cluster.connections if c.shard is leaver).closed


async def test_a_connection_to_a_leaver_that_opens_too_late_is_closed():
    """The pull that wanted it ran out of time, and the map has changed meanwhile."""
    cluster = FakeCluster(Ring.even(range(2)), made := tables(DIMS))
    opens = asyncio.Event()

    async def connect(address):
        await opens.wait()
        return await cluster.connect(address)

    router = Router(connect)
    router.update(cluster.shard_map)
    router.register(MODEL, VERSION, {name: spec for name, (spec, _) in made.items()})
    with pytest.raises(DeadlineExceeded):
        await router.pull(MODEL, VERSION, some_lookups(NAMES, 300), deadline_s=time.monotonic() + 0.01)
    router.update(cluster.assign(cluster.shard_map.ring.leave(1)))
    opens.set()
    while len(cluster.connections) < 2:
        await asyncio.sleep(0)
    assert {connection.shard.shard: connection.closed for connection in cluster.connections} == {0: False, 1: True}
    await router.close()
    assert all(connection.closed for connection in cluster.connections)
