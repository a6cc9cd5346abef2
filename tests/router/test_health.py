"""Shards that are ejected, given up, pinged and taken back; and what that makes of the policies of tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from ringpull.ps.errors import ConnectionLost, Unavailable
from ringpull.ps.ring import Ring
from ringpull.ps.spec import OnUnavailable, Pooling
from ringpull.router.lookup import Lookup, LookupResult
from ringpull.router.settings import RouterSettings
from tests.router.cases import Tables, assert_reference, some_lookups, tables
from tests.router.fakes import MODEL, VERSION, FakeCluster
from tests.router.virtual_time import VirtualTimeLoop, run, virtual_now

DIMS = {"users": 3, "items": 8, "lists": 0}
NAMES = list(DIMS)
ASKED = [each for each in some_lookups(NAMES, 60) if each.pooling in (Pooling.NONE, Pooling.SUM)][:4]
"""Few, because shards in memory are slow, and keys of every shard."""


def cluster_of(made: Tables, copies: int, shards: int = 2, **settings: float) -> FakeCluster:
    values = {"hedge_floor_s": 0.005, "hedge_cap_s": 0.02, "give_up_s": 1.0, **settings}
    return FakeCluster(
        Ring.even(range(shards), copies),
        made,
        dict.fromkeys(made, copies),
        settings=RouterSettings(**values),
        clock=virtual_now,
    )


async def pull(cluster: FakeCluster, asked: list[Lookup] = ASKED, deadline_s: float = 5.0) -> list[LookupResult]:
    return await cluster.router.pull(MODEL, VERSION, asked, deadline_s=virtual_now() + deadline_s)


async def until(condition: Callable[[], bool], every_s: float = 0.001) -> None:
    while not condition():
        await asyncio.sleep(every_s)


def ejected(cluster: FakeCluster) -> str:
    return repr(cluster.router).split("ejected: ")[1].split(">")[0]


# -- with another owner ------------------------------------------------------------------------------------------------


def test_a_stopped_shard_is_ejected_and_comes_back_when_it_goes_on():
    """No pull fails, none takes longer than a hedge, and once it is ejected none waits at all."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=2)
        await pull(cluster)
        shard = cluster.shards[0]
        shard.running.clear()
        before = len(shard.requests)
        while ejected(cluster) == "[]]":
            began_s = virtual_now()
            assert_reference(made, ASKED, await pull(cluster))
            assert virtual_now() - began_s <= 0.0201
            await asyncio.sleep(0.01)
        for _ in range(20):
            began_s = virtual_now()
            assert_reference(made, ASKED, await pull(cluster))
            assert virtual_now() == began_s
            await asyncio.sleep(0.05)
        assert cluster.router.counters().ejections == 1
        assert len(shard.requests) == before
        shard.running.set()
        await until(lambda: ejected(cluster) == "[]]")
        await pull(cluster)
        assert len(shard.requests) == before + 1
        assert cluster.router.counters().failed == 0
        await cluster.router.close()

    run(main())


def test_without_budget_what_waits_for_a_shard_goes_on_elsewhere_when_it_is_ejected():
    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=2, hedge_share=0.0)
        cluster.shards[1].running.clear()
        began_s = virtual_now()
        for results in await asyncio.gather(*[pull(cluster) for _ in range(20)]):
            assert_reference(made, ASKED, results)
        assert virtual_now() - began_s == pytest.approx(0.02 + 0.1)
        counters = cluster.router.counters()
        assert (counters.hedges, counters.retries, counters.ejections) == (0, 20, 1)
        await cluster.router.close()

    run(main())


@pytest.mark.medium
def test_a_shard_that_refuses_is_ejected_and_pinged_at_growing_waits():
    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=2)
        await pull(cluster)
        cluster.shards[1].up = False
        began_s = virtual_now()
        while virtual_now() < began_s + 40:
            await pull(cluster)
            await asyncio.sleep(0.3)
        assert_reference(made, ASKED, await pull(cluster))
        counters = cluster.router.counters()
        assert (counters.ejections, counters.unavailable, counters.retries) == (1, 3, 3)
        times_s = [at_s for shard, at_s in cluster.attempts_s if shard == 1 and at_s >= began_s]
        gaps_s = [after - before for before, after in pairwise(times_s)]
        assert 18 <= len(times_s) <= 60
        assert max(gaps_s) <= 2.1
        assert min(gaps_s[-10:]) >= 0.9
        cluster.shards[1].up = True
        back_s = virtual_now()
        await until(lambda: ejected(cluster) == "[]]")
        assert virtual_now() - back_s <= 2.1
        await cluster.router.close()

    run(main())


@pytest.mark.medium
def test_a_pause_that_a_hedge_bridges_ejects_nobody():
    """A shard that is late and then says something is alive."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=2)
        for _ in range(30):
            cluster.shards[0].running.clear()
            pulling = asyncio.create_task(pull(cluster))
            await asyncio.sleep(0.08)
            cluster.shards[0].running.set()
            assert_reference(made, ASKED, await pulling)
            await asyncio.sleep(0.1)
            await pull(cluster)
        counters = cluster.router.counters()
        assert (counters.hedges, counters.ejections) == (30, 0)
        await cluster.router.close()

    run(main())


def test_a_router_that_lags_itself_ejects_nobody():
    """Its loop stands still for 0.3 s again and again: pings and pulls time out although their answers are there."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=1)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        for shard in cluster.shards.values():
            shard.takes_s = 0.01

        async def lag() -> None:
            while True:
                await asyncio.sleep(0.004)
                loop.jump(0.3)

        lagging = asyncio.create_task(lag())
        for _ in range(30):
            assert_reference(made, ASKED, await pull(cluster))
        assert cluster.router.counters().ejections == 0
        lagging.cancel()
        await cluster.router.close()

    run(main())


def test_an_answer_that_came_while_the_loop_stood_still_is_not_waited_for_any_longer():
    """The pull finds its time over and its answers there at once; a second wait would be for nobody."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=2, hedge_cap_s=0.1)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        for shard in cluster.shards.values():
            shard.takes_s = 0.2
        began_s = virtual_now()
        pulling = asyncio.create_task(pull(cluster))
        await asyncio.sleep(0.05)
        loop.jump(0.2)
        assert_reference(made, ASKED, await pulling)
        assert virtual_now() - began_s == pytest.approx(0.25)
        await cluster.router.close()

    run(main())


def test_a_ping_whose_answer_is_there_already_ejects_nobody():
    """The loop stands still while a busy shard is pinged: the time for the answer is over, and the answer is there."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=1)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        shard = cluster.shards[0]
        shard.takes_s, shard.pull_takes_s = 0.01, 1.0
        pulling = asyncio.create_task(pull(cluster))
        await asyncio.sleep(0.025)
        assert shard.pings == 0
        loop.jump(0.3)
        assert_reference(made, ASKED, await pulling)
        assert shard.pings == 1
        assert cluster.router.counters().ejections == 0
        await cluster.router.close()

    run(main())


@pytest.mark.medium
@pytest.mark.parametrize("ping_takes_s", [0.0, 0.09])
def test_a_shard_that_is_late_again_and_again_is_ejected_although_it_answers_pings(ping_takes_s):
    """And having come back, it is sent away for longer each time."""

    async def main() -> None:
        cluster = cluster_of(tables(DIMS), copies=2, hedge_share=1.0, eject_slow=5)
        cluster.shards[1].takes_s, cluster.shards[1].pull_takes_s = ping_takes_s, 0.05
        away_s: list[float] = []
        began_s = virtual_now()
        while virtual_now() < began_s + 20:
            await pull(cluster)
            if ejected(cluster) == "[1]]":
                left_s = virtual_now()
                await until(lambda: ejected(cluster) == "[]]")
                away_s.append(virtual_now() - left_s)
            await asyncio.sleep(0.03)
        assert cluster.router.counters().ejections == len(away_s) > 5
        assert 0.02 < away_s[0] < 0.06 + ping_takes_s
        assert min(away_s[-3:]) > 0.7
        await cluster.router.close()

    run(main())


@pytest.mark.medium
@pytest.mark.parametrize("slow", [3, 4])
def test_where_most_shards_are_slow_nobody_is_ejected_for_it(slow):
    """It is the load; others would only get more of it."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=2, shards=4, eject_slow=5)
        for shard in range(slow):
            cluster.shards[shard].pull_takes_s = 0.05
        for _ in range(20):
            await pull(cluster)
        assert_reference(made, ASKED, await pull(cluster))
        assert cluster.router.counters().ejections == 0
        await cluster.router.close()

    run(main())


def test_a_shard_that_has_too_much_to_do_is_spared_but_not_ejected():
    """It says so, at once: another owner answers, and the next pull may ask it again."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=2)
        cluster.shards[0].failures += [Unavailable("this shard is overloaded")] * 10
        for _ in range(10):
            assert_reference(made, ASKED, await pull(cluster))
        counters = cluster.router.counters()
        assert (counters.unavailable, counters.retries, counters.hedges, counters.ejections) == (10, 10, 0, 0)
        await cluster.router.close()

    run(main())


def test_ejected_shards_are_asked_when_all_owners_are():
    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=2, backoff_first_s=100.0, backoff_max_s=100.0)
        for shard in cluster.shards.values():
            shard.failures += [ConnectionLost("broke off")] * 3
        for _ in range(3):
            with pytest.raises(Unavailable):
                await pull(cluster)
        assert ejected(cluster) == "[0, 1]]"
        assert_reference(made, ASKED, await pull(cluster))
        assert ejected(cluster) == "[]]", "they answered, promptly"
        await cluster.router.close()

    run(main())


def test_a_shard_that_left_the_map_is_forgotten():
    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=2, shards=3)
        cluster.shards[2].running.clear()
        await pull(cluster)
        await until(lambda: ejected(cluster) == "[2]]")
        cluster.router.update(cluster.assign(cluster.shard_map.ring.leave(2)))
        assert ejected(cluster) == "[]]"
        assert_reference(made, ASKED, await pull(cluster))
        await asyncio.sleep(10)
        assert cluster.shards[2].pings == 0
        await cluster.router.close()
        assert len(asyncio.all_tasks()) == 1, "nothing is left running"

    run(main())


def test_the_connection_to_a_shard_that_stays_silent_is_replaced():
    """Its machine may be gone without a word; a new connection finds the one that came in its place."""

    async def main() -> None:
        cluster = cluster_of(tables(DIMS), copies=2)
        cluster.shards[0].running.clear()
        await pull(cluster)
        await asyncio.sleep(30)
        opened = [connection for connection in cluster.connections if connection.shard.shard == 0]
        assert 5 < len(opened) < 30
        assert all(connection.closed for connection in opened[:-1])
        await cluster.router.close()

    run(main())


# -- with nobody else --------------------------------------------------------------------------------------------------


def test_with_one_copy_default_vectors_answer_for_a_stopped_shard_in_time():
    """The first pulls wait until there is just time to answer; after `give_up_s` of silence, none waits."""

    async def main() -> None:
        made = tables(DIMS, OnUnavailable.DEFAULT)
        cluster = cluster_of(made, copies=1)
        assert_reference(made, ASKED, await pull(cluster))
        cluster.shards[1].running.clear()
        began_s = virtual_now()
        results = await pull(cluster, deadline_s=0.5)
        assert virtual_now() - began_s == pytest.approx(0.45)
        assert all(0 < result.lost < 60 for result in results)
        patient = await pull(cluster, deadline_s=60)
        assert virtual_now() - began_s == pytest.approx(0.02 + 0.1 + 1.0)
        assert [result.lost for result in patient] == [result.lost for result in results]
        for _ in range(50):
            before_s = virtual_now()
            later = await pull(cluster)
            assert virtual_now() == before_s
            assert [result.lost for result in later] == [result.lost for result in results]
            await asyncio.sleep(0.1)
        cluster.shards[1].running.set()
        await until(lambda: ejected(cluster) == "[]]")
        assert_reference(made, ASKED, await pull(cluster))
        await cluster.router.close()

    run(main())


def test_with_one_copy_an_error_names_the_tables_in_time():
    async def main() -> None:
        cluster = cluster_of(tables(DIMS), copies=1)
        cluster.shards[1].running.clear()
        began_s = virtual_now()
        with pytest.raises(Unavailable, match=r"keys of items, users \(shard 1: .*did not answer in time"):
            await pull(cluster, deadline_s=0.5)
        assert virtual_now() - began_s < 0.5
        with pytest.raises(Unavailable, match=r"keys of items, users .*shard 1: said nothing for 1 s"):
            await pull(cluster)
        before_s = virtual_now()
        with pytest.raises(Unavailable, match=r"keys of items, users .*shard 1: said nothing for"):
            await pull(cluster)
        assert virtual_now() == before_s
        await cluster.router.close()

    run(main())


def test_with_one_copy_a_pause_is_waited_for():
    """Ejected, yet not given up: nobody else has the keys, so they are worth some patience."""

    async def main() -> None:
        made = tables(DIMS, OnUnavailable.DEFAULT)
        cluster = cluster_of(made, copies=1, give_up_s=3.0)
        cluster.shards[1].running.clear()
        pulling = [asyncio.create_task(pull(cluster))]
        await asyncio.sleep(0.5)
        assert ejected(cluster) == "[1]]"
        pulling.append(asyncio.create_task(pull(cluster)))
        await asyncio.sleep(2.0)
        cluster.shards[1].running.set()
        for results in await asyncio.gather(*pulling):
            assert_reference(made, ASKED, results)
        assert ejected(cluster) == "[]]"
        await cluster.router.close()

    run(main())


def test_who_waits_for_a_shard_that_leaves_the_map_goes_by_the_new_one():
    """Its ranges are somebody else's now: there is no point in waiting for it any longer."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=1)
        cluster.shards[1].running.clear()
        began_s = virtual_now()
        pulling = asyncio.create_task(pull(cluster))
        await asyncio.sleep(0.3)
        cluster.router.update(cluster.assign(cluster.shard_map.ring.with_shards([0, 2])))
        assert_reference(made, ASKED, await pulling)
        assert virtual_now() - began_s == pytest.approx(0.3)
        await cluster.router.close()

    run(main())


@pytest.mark.medium
def test_with_one_copy_a_shard_that_refuses_costs_no_time():
    async def main() -> None:
        made = tables(DIMS, OnUnavailable.DEFAULT)
        cluster = cluster_of(made, copies=1)
        cluster.shards[0].up = False
        for _ in range(200):
            before_s = virtual_now()
            assert all(result.lost for result in await pull(cluster))
            assert virtual_now() == before_s
            await asyncio.sleep(0.05)
        assert len([shard for shard, _ in cluster.attempts_s if shard == 0]) < 25
        cluster.shards[0].up = True
        await asyncio.sleep(2.1)
        assert_reference(made, ASKED, await pull(cluster))
        await cluster.router.close()

    run(main())


def test_a_slow_shard_is_not_given_up_for_what_nobody_asked_it():
    """Sent away for its lateness again and again, it is pinged ever less often, and seldom asked: it may be silent."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=1, eject_slow=5, give_up_s=0.3)
        cluster.shards[1].pull_takes_s = 0.15
        waited = 0
        for _ in range(20):
            while ejected(cluster) == "[]]":
                assert_reference(made, ASKED, await pull(cluster))
            await asyncio.sleep(0.9)
            waited += ejected(cluster) == "[1]]"
            assert_reference(made, ASKED, await pull(cluster))
        assert waited > 5
        await cluster.router.close()

    run(main())


def test_a_slow_shard_that_stops_is_given_up_once_it_leaves_a_ping_unanswered():
    async def main() -> None:
        made = tables(DIMS, OnUnavailable.DEFAULT)
        cluster = cluster_of(made, copies=1, eject_slow=5, backoff_first_s=1.0)
        cluster.shards[1].pull_takes_s = 0.15
        while ejected(cluster) == "[]]":
            await pull(cluster)
        cluster.shards[1].running.clear()
        began_s = virtual_now()
        assert all(result.lost for result in await pull(cluster, deadline_s=60))
        # The first ping comes after half a second to a second, of which the last pull took some.
        assert 0.3 + 0.1 + 1.0 < virtual_now() - began_s < 1.0 + 0.1 + 1.0
        cluster.shards[1].running.set()
        await until(lambda: ejected(cluster) == "[]]")
        assert_reference(made, ASKED, await pull(cluster))
        await cluster.router.close()

    run(main())


def test_a_slow_shard_is_not_taken_for_a_silent_one():
    """It answers others meanwhile, too late each: that there is no time is not the shard's silence."""

    async def main() -> None:
        made = tables(DIMS, OnUnavailable.DEFAULT)
        cluster = cluster_of(made, copies=1)
        cluster.shards[0].pull_takes_s = 0.7
        pulls = []
        for _ in range(40):
            pulls.append(asyncio.create_task(pull(cluster)))
            await asyncio.sleep(0.1)
        for results in await asyncio.gather(*pulls):
            assert_reference(made, ASKED, results)
        await cluster.router.close()

    run(main())
