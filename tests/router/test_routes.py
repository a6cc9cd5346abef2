"""Newer maps: which are, who waits for one and for how long, and that a coordinator which hangs is waited for once."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

import pytest

from ringpull.ps.errors import NotOwner, Unavailable
from ringpull.ps.ring import Ring
from ringpull.router.routes import ASK_AGAIN_S, PATIENCE_S, Routes
from ringpull.router.shard_map import NO_MAP, MapEdition, ShardAddress, ShardMap
from tests.router.cases import assert_reference, some_lookups, tables
from tests.router.fakes import MODEL, PATIENT, VERSION, FakeCluster
from tests.router.virtual_time import run, virtual_now

RING = Ring.even([0])


def map_of(epoch: int, term: int = 0) -> ShardMap:
    return ShardMap(epoch, (ShardAddress(0, "host", epoch),), RING, {}, term=term)


class Asked:
    """A coordinator that is asked for its map."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch
        self.asked_s: list[float] = []
        self.takes_s = 0.01
        self.error: Exception | None = None
        self.routes = Routes(self.map, lambda _: None, clock=virtual_now)
        self.routes.update(map_of(1))

    async def map(self) -> ShardMap:
        self.asked_s.append(virtual_now())
        answer = map_of(self.epoch)
        await asyncio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return answer

    async def renewed(self, within_s: float = 60.0, *, sparingly: bool = False) -> tuple[bool, float]:
        """Return whether there is a newer map than the first, and how long that took."""
        began_s = virtual_now()
        found = await self.routes.renewed(MapEdition(0, 1), began_s + within_s, sparingly=sparingly)
        return found, round(virtual_now() - began_s, 6)


def test_a_map_is_newer_by_its_term_then_by_its_epoch():
    routes = Routes(None, lambda _: None)
    assert routes.edition == NO_MAP
    assert routes.update(map_of(1))
    for stale in (map_of(1), map_of(0)):
        assert not routes.update(stale)
    assert routes.update(map_of(7, term=3))
    assert routes.update(map_of(6, term=4)), "a deposed leader went on for a while"
    for stale in (map_of(6, term=4), map_of(99, term=3), map_of(5, term=4)):
        assert not routes.update(stale)
    assert routes.current().shard_map == map_of(6, term=4)


def test_a_map_of_another_deployment_is_none_of_ours():
    """Somebody may serve under the name that ours had."""
    routes = Routes(None, lambda _: None, deployment="ours")
    assert not routes.update(replace(map_of(99), deployment="theirs"))
    assert routes.edition == NO_MAP
    for epoch, deployment in enumerate(("", "ours"), 1):
        assert routes.update(replace(map_of(epoch), deployment=deployment))
    assert not routes.update(replace(map_of(99, term=9), deployment="theirs"))
    assert routes.edition == MapEdition(0, 2)


def test_pulls_share_one_fetch():
    async def main() -> None:
        asked = Asked(epoch=2)
        assert await asyncio.gather(*[asked.renewed() for _ in range(5)]) == [(True, 0.01)] * 5
        assert len(asked.asked_s) == 1
        assert await asked.renewed() == (True, 0.0)

    run(main())


def test_an_answer_that_was_under_way_may_be_too_old_and_is_asked_for_once_more():
    async def main() -> None:
        asked = Asked()
        first = asyncio.create_task(asked.renewed())
        await asyncio.sleep(0.005)
        asked.epoch = 2
        assert await asyncio.gather(*[asked.renewed() for _ in range(3)]) == [(True, 0.015)] * 3
        assert await first == (False, 0.01)
        assert len(asked.asked_s) == 2

    run(main())


@pytest.mark.parametrize("within_s", [0.05, 3.0])
def test_nobody_waits_beyond_its_time_and_a_coordinator_that_hangs_is_waited_for_once(within_s):
    async def main() -> None:
        asked = Asked(epoch=2)
        asked.takes_s = 30.0
        assert await asked.renewed(within_s) == (False, min(within_s, PATIENCE_S))
        await asyncio.sleep(PATIENCE_S)
        assert await asyncio.gather(*[asked.renewed() for _ in range(100)]) == [(False, 0.0)] * 100
        asked.routes.ask_soon()
        await asyncio.sleep(30.0)
        assert len(asked.asked_s) == 1, "one question waits, and not one for every request"
        assert await asked.renewed() == (True, 0.0)

    run(main())


def test_who_gives_up_does_not_take_the_question_with_it():
    async def main() -> None:
        asked = Asked(epoch=2)
        first = asyncio.create_task(asked.renewed())
        await asyncio.sleep(0.001)
        first.cancel()
        assert await asked.renewed() == (True, 0.009)
        assert len(asked.asked_s) == 1

    run(main())


@pytest.mark.parametrize("error", [Unavailable("it is gone"), OSError("a bug")])
def test_nobody_to_ask_is_no_newer_map(error, caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        asked = Asked(epoch=2)
        asked.error = error
        assert await asked.renewed() == (False, 0.01)
        with pytest.raises(type(error)):
            await asked.routes.refresh()
        assert asked.routes.edition == MapEdition(0, 1)
        asked.error = None
        await asked.routes.refresh()
        assert asked.routes.edition == MapEdition(0, 2)

    with caplog.at_level(logging.ERROR):
        run(main())
    assert bool(caplog.records) is isinstance(error, OSError)


def test_what_may_bring_nothing_is_asked_sparingly():
    async def main() -> None:
        asked, began_s = Asked(), virtual_now()
        for _ in range(500):
            await asked.renewed(sparingly=True)
            asked.routes.ask_soon()
            await asyncio.sleep(0.01)
        assert len(asked.asked_s) == round((virtual_now() - began_s) / ASK_AGAIN_S)
        before = len(asked.asked_s)
        assert await asked.renewed() == (False, 0.01), "a shard that refuses is ahead of us, for certain"
        assert len(asked.asked_s) == before + 1

    run(main())


def test_without_a_coordinator_there_is_nobody_to_ask():
    async def main() -> None:
        routes = Routes(None, lambda _: None, clock=virtual_now)
        routes.update(map_of(1))
        assert not await routes.renewed(MapEdition(0, 1), virtual_now() + 60)
        routes.ask_soon()
        with pytest.raises(Unavailable, match="nobody to ask"):
            await routes.refresh()

    run(main())


def test_closing_ends_the_question():
    async def main() -> None:
        asked = Asked(epoch=2)
        asked.takes_s = 30.0
        asked.routes.ask_soon()
        await asyncio.sleep(0.001)
        asked.routes.close()
        await asyncio.sleep(60.0)
        assert asked.routes.edition == MapEdition(0, 1)

    run(main())


# -- in pulls ----------------------------------------------------------------------------------------------------------

NAMES = ["users", "items"]


class Hanging(FakeCluster):
    """A cluster whose coordinator is stopped: asked for the map it says nothing."""

    async def refresh(self) -> ShardMap:
        self.refreshes += 1
        await asyncio.sleep(30.0)
        return self.shard_map


async def timed_pull(cluster: FakeCluster, within_s: float) -> float:
    """Pull, hold it against the reference, and return how long it took."""
    asked = some_lookups(NAMES, 200)
    began_s = virtual_now()
    results = await cluster.router.pull(MODEL, VERSION, asked, deadline_s=began_s + within_s)
    assert_reference(tables(dict.fromkeys(NAMES, 3)), asked, results)
    return virtual_now() - began_s


def test_a_shard_that_is_gone_costs_nothing_where_others_have_its_rows_though_the_coordinator_hangs():
    async def main() -> None:
        cluster = Hanging(
            Ring.even(range(3), 2), tables(dict.fromkeys(NAMES, 3)), dict.fromkeys(NAMES, 2), clock=virtual_now
        )
        cluster.shards[1].up = False
        for _ in range(10):
            assert await timed_pull(cluster, 0.1) < 0.01
        assert cluster.refreshes == 1

    run(main())


def test_refused_rows_are_waited_for_once_while_the_coordinator_hangs():
    """A map that nobody has costs the first pull half of its time, and later ones nothing."""

    async def main() -> None:
        cluster = Hanging(
            Ring.even(range(3), 2), tables(dict.fromkeys(NAMES, 3)), dict.fromkeys(NAMES, 2), clock=virtual_now
        )
        cluster.shards[1].maps = []
        cluster.shards[1].failures = [NotOwner("not here", epoch=9)] * 1000
        assert 0.03 < await timed_pull(cluster, 0.1) < 0.06
        await asyncio.sleep(PATIENCE_S)
        for _ in range(10):
            assert await timed_pull(cluster, 0.1) < 0.01
        assert cluster.refreshes == 1

    run(main())


async def test_a_shard_that_is_elsewhere_by_now_is_found_though_nobody_refused():
    """All copies are gone, and the coordinator knows where they are now: no failed pull."""
    cluster = FakeCluster(Ring.even(range(2)), made := tables(dict.fromkeys(NAMES, 3)), settings=PATIENT)
    asked = some_lookups(NAMES, 200)
    cluster.shards[1].up = False
    moved = cluster.assign(Ring.even([0, 2]))
    assert_reference(made, asked, await cluster.router.pull(MODEL, VERSION, asked, deadline_s=time.monotonic() + 60))
    assert cluster.router.epoch == moved.epoch
    assert cluster.router.counters().failed == 0
