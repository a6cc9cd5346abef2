"""Late parts asked of other owners too: when, of whom, who wins, and how much that may cost."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.ps.ring import Ring
from ringpull.ps.spec import ALL, OnUnavailable, Pooling, TableSpec
from ringpull.router.hedging import LEARN_EVERY, REMEMBERED, AnswerTimes, HedgeBudget
from ringpull.router.lookup import Lookup, LookupResult
from ringpull.router.settings import RouterSettings
from tests.reference import ReferenceTable
from tests.router.cases import Tables, assert_reference, some_lookups, tables
from tests.router.fakes import MODEL, VERSION, FakeCluster
from tests.router.virtual_time import VirtualTimeLoop, run, virtual_now

DIMS = {"users": 3, "items": 8, "lists": 0}
NAMES = list(DIMS)
SETTINGS = RouterSettings(hedge_floor_s=0.005, hedge_cap_s=0.02)


def cluster_of(made: Tables, copies: int | str = 2, shards: int = 2, **settings: float) -> FakeCluster:
    values = {"hedge_floor_s": 0.005, "hedge_cap_s": 0.02, **settings}
    return FakeCluster(
        Ring.even(range(shards), min(2, shards)),
        made,
        dict.fromkeys(made, copies),
        settings=RouterSettings(**values),
        clock=virtual_now,
    )


async def pull(cluster: FakeCluster, asked: list[Lookup], deadline_s: float = 1.0) -> list[LookupResult]:
    return await cluster.router.pull(MODEL, VERSION, asked, deadline_s=virtual_now() + deadline_s)


# -- when an answer is late --------------------------------------------------------------------------------------------


@pytest.mark.medium
@given(
    times_s=st.lists(st.floats(0, 20), min_size=LEARN_EVERY, max_size=LEARN_EVERY),
    quantile=st.sampled_from([0.5, 0.9, 0.99]),
)
def test_the_delay_is_the_quantile_between_floor_and_cap(times_s, quantile):
    times = AnswerTimes(quantile=quantile, floor_s=0.002, cap_s=0.5)
    for took_s in times_s:
        assert times.delay_s == 0.5, "the cap, until enough was seen"
        times.add(took_s)
    exact_s = np.quantile(times_s, quantile, method="inverted_cdf")
    # Buckets grow by a fifth, and the upper bound of one stands for all in it.
    assert min(max(exact_s, 0.002), 0.5) <= times.delay_s <= min(max(exact_s * 1.2, 0.002), 0.5)


def test_the_delay_follows_what_shards_take():
    times = AnswerTimes(quantile=0.99, floor_s=0.001, cap_s=1.0)
    for took_s in (0.004, 0.1, 0.004):
        for _ in range(3 * REMEMBERED):
            times.add(took_s)
        learnt_s = times.delay_s
        for _ in range(4 * REMEMBERED):
            times.add(took_s)
        assert took_s <= times.delay_s <= 1.2 * took_s <= 2 * learnt_s


@given(
    share=st.floats(0, 1),
    burst_keys=st.integers(1, 500),
    parts=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300)), max_size=50),
)
def test_what_is_asked_twice_is_bounded_by_what_is_asked(share, burst_keys, parts):
    budget = HedgeBudget(share=share, burst_keys=burst_keys)
    asked = spent = 0
    for keys, late in parts:
        budget.asked(keys)
        asked += keys
        if budget.affords:
            budget.spend(late)
            spent += late
        assert spent <= (burst_keys + share * asked + 300) * (1 + 1e-9)
        assert share or not spent


# -- who is asked, and who wins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [2, ALL])
def test_the_other_owner_answers_for_one_that_is_late(copies):
    """The pull takes as long as the delay, and every key counts once."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies)
        cluster.shards[0].takes_s = 0.4
        asked, began_s = some_lookups(NAMES, 300), virtual_now()
        assert_reference(made, asked, await pull(cluster, asked))
        assert virtual_now() - began_s == pytest.approx(0.02)
        counters = cluster.router.counters()
        assert (counters.hedges, counters.hedges_won, counters.retries, counters.failed) == (1, 1, 0, 0)
        assert counters.tables[MODEL, "items"].keys == sum(a.keys.size for a in asked if a.table == "items")
        await asyncio.sleep(1)
        assert not cluster.shards[0].requests, "the loser was given up"
        assert "<Loads {}>" in repr(cluster.router)
        await cluster.router.close()

    run(main())


def test_a_late_owner_may_still_be_first():
    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS))
        asked = some_lookups(NAMES, 300)
        cluster.shards[0].takes_s = 0.03

        async def slow_down() -> None:
            await asyncio.sleep(0.01)
            cluster.shards[1].takes_s = 0.4

        slowing, began_s = asyncio.create_task(slow_down()), virtual_now()
        assert_reference(made, asked, await pull(cluster, asked))
        assert virtual_now() - began_s == pytest.approx(0.03)
        counters = cluster.router.counters()
        assert (counters.hedges, counters.hedges_won) == (1, 0)
        await slowing
        await cluster.router.close()

    run(main())


def test_of_three_owners_two_may_be_late():
    async def main() -> None:
        made = tables(DIMS)
        cluster = FakeCluster(
            Ring.even(range(3), 3), made, dict.fromkeys(NAMES, 3), settings=SETTINGS, clock=virtual_now
        )
        cluster.shards[0].takes_s = cluster.shards[2].takes_s = 0.9
        asked, began_s = some_lookups(NAMES, 300), virtual_now()
        assert_reference(made, asked, await pull(cluster, asked))
        assert virtual_now() - began_s <= 0.041
        await cluster.router.close()

    run(main())


def test_what_nobody_else_has_is_waited_for():
    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=1)
        cluster.shards[0].takes_s = 0.4
        asked, began_s = some_lookups(NAMES, 300), virtual_now()
        assert_reference(made, asked, await pull(cluster, asked))
        assert virtual_now() - began_s == pytest.approx(0.4)
        counters = cluster.router.counters()
        assert (counters.hedges, counters.messages) == (0, 2)
        await cluster.router.close()

    run(main())


@pytest.mark.parametrize("takes_s", [0.4, float("inf")])
def test_a_late_part_may_hold_keys_that_nobody_else_has(takes_s):
    """One message, two tables: with two copies, and with one whose keys may be lost. Nothing is lost while there is
    time; when there is none left, only what nobody else has."""

    async def main() -> None:
        made = dict(tables({"users": 3}))
        made.update(tables({"items": 8, "lists": 0}, OnUnavailable.DEFAULT))
        cluster = FakeCluster(Ring.even(range(2), 2), made, {"users": 2}, settings=SETTINGS, clock=virtual_now)
        cluster.shards[0].takes_s = takes_s
        asked, began_s = some_lookups(NAMES, 300), virtual_now()
        results = await pull(cluster, asked)
        if takes_s < 1:
            assert_reference(made, asked, results)
            assert virtual_now() - began_s == pytest.approx(takes_s)
        else:
            assert_reference(made, asked[:5], results[:5])
            assert all(0 < result.lost < 300 for result in results[5:])
            assert virtual_now() - began_s < 1
        assert cluster.router.counters().hedges == 1
        await cluster.router.close()

    run(main())


def test_while_a_move_drains_the_owner_before_it_is_asked_too():
    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), copies=1)
        cluster.router.update(cluster.moving_to(cluster.shard_map.ring.with_shards([0, 2])))
        cluster.shards[2].takes_s = 0.4
        asked, began_s = some_lookups(NAMES, 300), virtual_now()
        assert_reference(made, asked, await pull(cluster, asked))
        assert virtual_now() - began_s == pytest.approx(0.02)
        assert cluster.shards[1].requests
        assert cluster.router.counters().hedges_won == 1
        await cluster.router.close()

    run(main())


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("share", [0.0, 0.05])
def test_little_is_asked_twice(share):
    """One of two shards is always late, though never ejected: load grows by no more than the share."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS), hedge_share=share, hedge_burst_keys=400, eject_slow=10**6)
        cluster.shards[0].pull_takes_s = 0.05
        asked = some_lookups(NAMES, 100)[:2]
        keys = sum(lookup.keys.size for lookup in asked)
        for _ in range(99):
            await pull(cluster, asked)
        assert_reference(made, asked, await pull(cluster, asked))
        sent = sum(shard.keys_asked for shard in cluster.shards.values())
        assert 100 * keys <= sent
        assert sent <= 100 * keys * (1 + share) + (400 + keys if share else 0)
        counters = cluster.router.counters()
        assert bool(counters.hedges) is bool(share)
        assert counters.ejections == 0
        await cluster.router.close()

    run(main())


@pytest.mark.medium
def test_when_everybody_is_late_next_to_nothing_is_asked_twice():
    """As under overload, when another owner has no more time than the first."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS))
        for shard in cluster.shards.values():
            shard.pull_takes_s = 0.05
        asked = some_lookups(NAMES, 20)[:2]
        for _ in range(50):
            assert_reference(made, asked, await pull(cluster, asked))
        counters = cluster.router.counters()
        assert counters.hedges <= 2
        assert counters.ejections == 0
        await cluster.router.close()

    run(main())


@pytest.mark.medium
def test_losers_are_learnt_from():
    """A tenth of the answers is late and cut off by hedges: left out, they would bring the delay down to the floor."""

    async def main() -> None:
        cluster = cluster_of(tables(DIMS))
        asked = some_lookups(NAMES, 20)[:2]
        cluster.shards[1].takes_s = 0.001
        for number in range(300):
            cluster.shards[0].takes_s = 0.4 if number % 5 == 0 else 0.0
            await pull(cluster, asked)
        counters = cluster.router.counters()
        assert counters.hedges == counters.hedges_won == 60
        assert "delay=20 ms" in repr(cluster.router)
        await cluster.router.close()

    run(main())


@pytest.mark.medium
def test_shards_in_time_are_asked_once():
    async def main() -> None:
        cluster = cluster_of(tables(DIMS))
        asked = some_lookups(NAMES, 20)[:2]
        for _ in range(300):
            await pull(cluster, asked)
        counters = cluster.router.counters()
        assert (counters.messages, counters.hedges, counters.retries, counters.ejections) == (600, 0, 0, 0)
        assert sum(shard.pings for shard in cluster.shards.values()) == 0
        assert "delay=5 ms" in repr(cluster.router)
        await cluster.router.close()

    run(main())


def test_that_this_process_was_held_up_is_not_blamed_on_a_shard():
    """The loop stands still for a second; the other shard's answer arrives meanwhile."""

    async def main() -> None:
        cluster = cluster_of(made := tables(DIMS))
        honest = cluster.shards[0].pull

        def pull_and_stand_still(request):
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualTimeLoop)
            loop.jump(1.0)
            return honest(request)

        cluster.shards[0].pull = pull_and_stand_still
        cluster.shards[0].takes_s = 0.001
        cluster.shards[1].takes_s = 0.5
        asked = some_lookups(NAMES, 300)
        assert_reference(made, asked, await pull(cluster, asked, deadline_s=5))
        assert cluster.router.counters().hedges == 0
        await cluster.router.close()

    run(main())


def test_equal_rows_pooled_by_hedges_count_as_often_as_they_appear():
    """Duplicates in a bag, its sub-bags at two shards, of which one is late: the sum is that of the slow truth."""

    async def main() -> None:
        ones = ReferenceTable(1, {key: np.ones(1, np.float32) for key in range(100)})
        made = {"ones": (TableSpec(name="ones", dim=1), ones)}
        cluster = cluster_of(made)
        cluster.shards[1].takes_s = 0.4
        keys = np.tile(np.arange(100, dtype=np.uint64), 50)
        (result,) = await pull(cluster, [Lookup("ones", Pooling.SUM, keys, np.array([0, 1200, 5000]))])
        np.testing.assert_array_equal(result.values.ravel(), [1200, 3800])
        assert cluster.router.counters().hedges_won == 1
        await cluster.router.close()

    run(main())
