"""The router against the slow reference, over shards in memory, in good times and bad."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import (
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotFound,
    NotOwner,
    OtherContent,
    RingpullError,
    Unavailable,
)
from ringpull.ps.hashing import positions_of
from ringpull.ps.pull_messages import PullReply, PullRequest
from ringpull.ps.ring import Ring
from ringpull.ps.spec import ALL, OnUnavailable, Pooling
from ringpull.ps.wire.messages import ShardStatistics
from ringpull.router.client import Router
from ringpull.router.lookup import Lookup, LookupResult
from tests.reference import assert_close
from tests.router.cases import assert_reference, lookups, some_lookups, tables
from tests.router.fakes import MODEL, PATIENT, VERSION, FakeCluster, FakeShard
from tests.router.virtual_time import run, virtual_now

DIMS = {"users": 3, "items": 8, "tags": 1, "lists": 0}
NAMES = list(DIMS)


def soon() -> float:
    return time.monotonic() + 60


async def pull(cluster: FakeCluster, asked: list[Lookup]) -> list[LookupResult]:
    return await cluster.router.pull(MODEL, VERSION, asked, deadline_s=soon())


@pytest.mark.medium
@settings(deadline=None, max_examples=150)
@given(
    asked=st.lists(lookups(NAMES), max_size=6),
    shards=st.integers(1, 8),
    replicas=st.fixed_dictionaries({name: st.sampled_from([1, 2, 3, ALL]) for name in NAMES}),
)
def test_any_lookups_over_any_shards_and_replicas_equal_the_reference(asked, shards, replicas):
    """For any keys, shard counts 1..8 and any replicas, the result equals the slow reference."""
    made = tables(DIMS)
    ring = Ring.even(range(0, 3 * shards, 3), max(r for r in [*replicas.values(), 1] if r != ALL))
    cluster = FakeCluster(ring, made, replicas)
    assert_reference(made, asked, asyncio.run(pull(cluster, asked)))


@pytest.mark.parametrize("shards", [1, 3])
async def test_rows_of_bytes_are_no_more_than_asked_for(shards):
    """Every shard is told how many bytes may come, and what comes is no more together."""
    made = tables({"lists": 0})
    cluster = FakeCluster(Ring.even(range(shards)), made)
    keys = np.arange(100, dtype=np.uint64)
    asked = [Lookup("lists", Pooling.NONE, keys)]
    size = sum(map(len, cluster.references["lists"].pull(keys)[0]))
    [result] = await cluster.router.pull(MODEL, VERSION, asked, deadline_s=soon(), max_reply_bytes=size)
    assert result.bytes_rows.data.nbytes == size
    with pytest.raises(LimitExceeded, match=f"have {size} bytes; the limit is {size - 1}"):
        await cluster.router.pull(MODEL, VERSION, asked, deadline_s=soon(), max_reply_bytes=size - 1)
    told = [request.max_reply_bytes for shard in cluster.shards.values() for request in shard.requests]
    assert told == [size, size - 1] * shards


async def test_one_message_per_shard_however_many_lookups():
    cluster = FakeCluster(Ring.even(range(4)), made := tables(DIMS))
    asked = some_lookups(NAMES, 500)
    assert_reference(made, asked, await pull(cluster, asked))
    assert [len(shard.requests) for shard in cluster.shards.values()] == [1, 1, 1, 1]
    assert cluster.router.counters().messages == 4
    assert len(cluster.connections) == 4
    await pull(cluster, asked)
    assert len(cluster.connections) == 4, "connections are kept"


async def test_equal_maps_and_equal_load_give_equal_bits():
    asked = some_lookups(NAMES, 2000, seed=5)
    clusters = [FakeCluster(Ring.even(range(5), 2), tables(DIMS), {"items": 2, "tags": ALL}) for _ in range(2)]
    first, second = [await pull(cluster, asked) for cluster in clusters]
    for a, b in zip(first, second, strict=True):
        assert a.values.tobytes() == b.values.tobytes()


async def test_tables_on_all_shards_go_together_to_one():
    cluster = FakeCluster(Ring.even(range(4)), tables(DIMS), dict.fromkeys(NAMES, ALL))
    await pull(cluster, some_lookups(NAMES, 300))
    assert [len(shard.requests) for shard in cluster.shards.values()] == [1, 0, 0, 0]


async def test_a_busy_shard_is_spared_where_there_is_another_owner():
    """While shard 0 sits on its keys, further keys go to other owners; those that only it owns still go to it."""
    cluster = FakeCluster(Ring.even(range(2), 2), tables(DIMS), {"items": 2})
    cluster.shards[0].gate = asyncio.Event()
    keys = np.arange(4000, dtype=np.uint64)
    waiting = asyncio.create_task(pull(cluster, [Lookup("users", Pooling.NONE, keys)]))
    while not cluster.shards[1].requests or ", 1: " in repr(cluster.router):
        await asyncio.sleep(0)
    (result,) = await pull(cluster, [Lookup("items", Pooling.NONE, keys[:500])])
    assert result.values.shape == (500, 8)
    assert sum(lookup.keys for lookup in cluster.shards[1].requests[1].lookups) == 500
    cluster.shards[0].gate.set()
    await waiting


async def test_a_batch_is_spread_over_the_owners_of_its_keys():
    """One key a thousand times does not make one of its two owners do all the work."""
    cluster = FakeCluster(Ring.even(range(2), 2), tables(DIMS), {"items": 2})
    await pull(cluster, [Lookup("items", Pooling.NONE, np.full(4000, 7, np.uint64))])
    counts = [shard.requests[0].positions.size for shard in cluster.shards.values()]
    assert sum(counts) == 4000
    assert max(counts) <= 2200


async def test_shards_of_an_earlier_build_answer_without_what_they_do_not_know():
    cluster = FakeCluster(Ring.even(range(2)), tables(DIMS))
    for shard in cluster.shards.values():
        shard.tells_absent = False
    asked = some_lookups(["users"], 100)
    for result, lookup in zip(await pull(cluster, asked), asked, strict=True):
        assert result.missing > 0
        assert result.absent is None
        assert lookup.pooling is not Pooling.NONE or not result.found.all()


async def test_absent_keys_are_told_where_bags_are_asked_for():
    cluster = FakeCluster(Ring.even(range(1)), tables(DIMS))
    keys = np.arange(3, dtype=np.uint64)
    await pull(cluster, [Lookup("users", Pooling.NONE, keys)])
    await pull(cluster, [Lookup("users", Pooling.SUM, keys, np.array([0, 3]))])
    assert [request.tell_absent for request in cluster.shards[0].requests] == [False, True]


# -- shards are gone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [2, 3, ALL])
async def test_replicas_answer_for_a_shard_that_is_gone(replicas):
    cluster = FakeCluster(Ring.even(range(4), 3), made := tables(DIMS), dict.fromkeys(NAMES, replicas))
    cluster.shards[0].up = False
    asked = some_lookups(NAMES, 300)
    assert_reference(made, asked, await pull(cluster, asked))
    assert cluster.router.counters().unavailable == 1


async def test_a_connection_that_breaks_in_a_pull_is_opened_again_for_the_next():
    cluster = FakeCluster(Ring.even(range(3), 2), made := tables(DIMS), dict.fromkeys(NAMES, 2))
    asked = some_lookups(NAMES, 300)
    await pull(cluster, asked)
    cluster.shards[2].up = False
    assert_reference(made, asked, await pull(cluster, asked))
    cluster.shards[2].up = True
    before = len(cluster.shards[2].requests)
    assert_reference(made, asked, await pull(cluster, asked))
    assert len(cluster.shards[2].requests) == before + 1
    assert len(cluster.connections) == 4


async def test_rows_of_bytes_are_not_pooled():
    cluster = FakeCluster(Ring.even(range(2)), tables(DIMS))
    keys, offsets = np.arange(3, dtype=np.uint64), np.array([0, 3])
    for pooling in (Pooling.SUM, Pooling.MEAN, Pooling.MAX):
        with pytest.raises(InvalidInput, match=rf"look-up in lists: .* cannot be pooled; pooling is {pooling}"):
            await pull(cluster, [Lookup("lists", pooling, keys, offsets)])
    assert not any(shard.requests for shard in cluster.shards.values())


@pytest.mark.parametrize(
    ("lengths", "size"), [([3], 3), ([3, 4], 6), ([], 0), ([1, 1, 1], 3)], ids=["few", "short", "none", "many"]
)
async def test_a_shard_whose_rows_of_bytes_do_not_fit_is_not_believed(monkeypatch, lengths, size):
    cluster = FakeCluster(Ring.even([0]), tables(DIMS))

    def wrong(self: FakeShard, request: PullRequest) -> PullReply:
        nothing = np.empty(0, np.float32)
        missing, found = np.zeros(1, np.uint32), np.ones(2, np.uint8)
        return PullReply(nothing, missing, found, np.array(lengths, np.uint32), np.zeros(size, np.uint8))

    monkeypatch.setattr(FakeShard, "pull", wrong)
    with pytest.raises(RingpullError, match="rows of bytes with"):
        await pull(cluster, [Lookup("lists", Pooling.NONE, np.arange(2, dtype=np.uint64))])


async def test_without_an_owner_the_policy_error_names_the_tables():
    cluster = FakeCluster(Ring.even(range(3), 2), tables(DIMS), {"users": 2})
    cluster.shards[1].up = False
    with pytest.raises(Unavailable, match=r"keys of items, lists, tags .*shard 1") as caught:
        await pull(cluster, some_lookups(NAMES, 300))
    assert "users" not in str(caught.value)
    assert cluster.router.counters().failed == 1


async def test_without_an_owner_the_policy_default_fills_in_and_counts_each_key_once():
    """Lost keys get the default vector as unknown ones do, and are counted lost, not missing."""
    made = tables(DIMS, OnUnavailable.DEFAULT)
    cluster = FakeCluster(Ring.even(range(3)), made)
    cluster.shards[1].up = False
    asked = some_lookups(NAMES, 300)
    results = await pull(cluster, asked)
    owners = cluster.shard_map.ring.owner_table(1)[:, 0]
    for lookup, result in zip(asked, results, strict=True):
        table = made[lookup.table][1]
        gone = owners[(positions_of(lookup.keys) >> np.uint64(48)).astype(int)] == 1
        assert result.lost == gone.sum()
        assert 0 < result.lost < 300
        assert result.missing == (~table.pull(lookup.keys)[1] & ~gone).sum()
        # An unknown key has the default vector, so replacing what is lost by one shows what must come out.
        keys = np.where(gone, np.uint64(10**9), lookup.keys)
        if lookup.pooling is Pooling.NONE:
            rows, found = table.pull(keys)
            if result.bytes_rows is None:
                np.testing.assert_array_equal(result.values, rows)
            else:
                assert list(result.bytes_rows) == rows
            np.testing.assert_array_equal(result.found, found)
        else:
            expected = table.pull_bags(keys, lookup.offsets, lookup.pooling, lookup.weights)
            assert_close(result.values, expected, largest=50.0)
    assert cluster.router.counters().tables[MODEL, "items"].lost > 0


async def test_all_shards_gone_leaves_default_vectors_only():
    made = tables(DIMS, OnUnavailable.DEFAULT)
    cluster = FakeCluster(Ring.even(range(2)), made, {"items": ALL})
    for shard in cluster.shards.values():
        shard.up = False
    (result,) = await pull(cluster, [Lookup("items", Pooling.NONE, np.arange(5, dtype=np.uint64))])
    np.testing.assert_array_equal(result.values, np.tile(made["items"][0].default_vector(), (5, 1)))
    assert result.lost == 5


async def test_a_shard_that_answers_nonsense_is_not_believed():
    cluster = FakeCluster(Ring.even(range(2), 2), made := tables(DIMS), dict.fromkeys(NAMES, 2))
    honest = cluster.shards[0].pull

    def short(request):
        reply = honest(request)
        return PullReply(reply.values[:-1], reply.missing, reply.found)

    cluster.shards[0].pull = short
    asked = some_lookups(NAMES, 300)
    assert_reference(made, asked, await pull(cluster, asked))
    cluster.shards[1].up = False
    with pytest.raises(Unavailable, match="were due"):
        await pull(cluster, asked)


# -- another content under the number ----------------------------------------------------------------------------------


IDENTITY = "00000000000000a1"


async def test_every_pull_names_the_content_that_its_version_was_registered_with():
    cluster = FakeCluster(Ring.even(range(2), 2), made := tables(DIMS), dict.fromkeys(NAMES, 2))
    specs = {name: spec for name, (spec, _) in made.items()}
    for identity, number in (("", 0), (IDENTITY, 0xA1)):
        cluster.router.register(MODEL, VERSION, specs, identity=identity)
        await pull(cluster, some_lookups(NAMES, 100))
        for shard in cluster.shards.values():
            assert {request.identity for request in shard.requests[-1:]} <= {number}


async def test_a_shard_of_another_content_is_none_and_its_replicas_answer():
    """Not an error of the request: it is one shard's, and its rows are in no answer."""
    cluster = FakeCluster(Ring.even(range(3), 2), made := tables(DIMS), dict.fromkeys(NAMES, 2))
    cluster.shards[1].failures = [OtherContent.found("model/3 on shard 1", "b2", IDENTITY)] * 9
    asked = some_lookups(NAMES, 300)
    assert_reference(made, asked, await pull(cluster, asked))


@pytest.mark.parametrize("policy", list(OnUnavailable))
async def test_without_a_replica_the_policy_holds_and_the_error_says_what_to_do(policy):
    cluster = FakeCluster(Ring.even(range(2)), tables(DIMS, policy))
    cluster.shards[1].failures = [OtherContent.found("model/3 on shard 1", "b2", IDENTITY)] * 9
    if policy is OnUnavailable.ERROR:
        with pytest.raises(Unavailable, match=r"shard 1: model/3 on shard 1 has other content.*export under a new num"):
            await pull(cluster, some_lookups(NAMES, 300))
    else:
        assert all(result.lost for result in await pull(cluster, some_lookups(NAMES, 300)))


# -- time, errors, numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), InvalidInput("bad frame")])
async def test_errors_that_another_owner_would_give_too_are_raised(error):
    cluster = FakeCluster(Ring.even(range(2), 2), tables(DIMS), dict.fromkeys(NAMES, 2))
    cluster.shards[1].failures.append(error)
    with pytest.raises(type(error), match=str(error)):
        await pull(cluster, some_lookups(NAMES, 100))


async def test_a_pull_without_time_is_deadline_exceeded():
    cluster = FakeCluster(Ring.even([0]), tables(DIMS))
    with pytest.raises(DeadlineExceeded, match="no time was left"):
        await cluster.router.pull(MODEL, VERSION, some_lookups(NAMES, 10), deadline_s=time.monotonic() - 1)
    assert not cluster.connections


async def test_time_that_runs_out_while_connecting_is_deadline_exceeded():
    """Before a shard is late, that there is no answer says nothing of the shard."""
    cluster = FakeCluster(Ring.even([0]), tables(DIMS))
    never = asyncio.Event()

    async def connect(address):
        await never.wait()

    router = Router(connect, settings=PATIENT)
    router.update(cluster.shard_map)
    router.register(MODEL, VERSION, {name: spec for name, (spec, _) in tables(DIMS).items()})
    with pytest.raises(DeadlineExceeded, match="no connection to shard 0"):
        await router.pull(MODEL, VERSION, some_lookups(NAMES, 10), deadline_s=time.monotonic() + 0.01)
    await router.close()


def test_a_map_that_does_not_come_is_waited_for_in_half_of_the_time_only():
    """Whoever hands out maps hangs: the rest of the time is for other owners."""

    async def main() -> None:
        made = tables(DIMS)
        cluster = FakeCluster(Ring.even(range(2), 2), made, dict.fromkeys(NAMES, 2), clock=virtual_now)
        never = asyncio.Event()

        async def refresh():
            await never.wait()

        router = Router(cluster.connect, refresh=refresh, clock=virtual_now, settings=PATIENT)
        router.update(cluster.shard_map)
        router.register(MODEL, VERSION, {name: spec for name, (spec, _) in made.items()})
        cluster.shards[0].failures.append(NotOwner("moved", epoch=2))
        asked, began_s = some_lookups(NAMES, 10), virtual_now()
        assert_reference(made, asked, await router.pull(MODEL, VERSION, asked, deadline_s=began_s + 1))
        assert 0.4 < virtual_now() - began_s < 0.5
        await router.close()

    run(main())


async def test_requests_in_need_of_one_connection_share_one_attempt():
    cluster = FakeCluster(Ring.even([0]), tables(DIMS))
    await asyncio.gather(*[pull(cluster, some_lookups(NAMES, 10)) for _ in range(5)])
    assert len(cluster.connections) == 1


async def test_a_connection_error_of_the_system_is_unavailable():
    cluster = FakeCluster(Ring.even([0]), made := tables(DIMS))

    async def connect(address):
        raise ConnectionRefusedError("refused")

    router = Router(connect)
    router.update(cluster.shard_map)
    router.register(MODEL, VERSION, {name: spec for name, (spec, _) in made.items()})
    with pytest.raises(Unavailable, match="refused"):
        await router.pull(MODEL, VERSION, some_lookups(NAMES, 10), deadline_s=soon())


async def test_a_cancelled_pull_leaves_no_load_behind():
    cluster = FakeCluster(Ring.even(range(2)), tables(DIMS))
    for shard in cluster.shards.values():
        shard.gate = asyncio.Event()
    pulling = asyncio.create_task(pull(cluster, some_lookups(NAMES, 100)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert "<Loads {}>" not in repr(cluster.router)
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    while "<Loads {}>" not in repr(cluster.router):
        await asyncio.sleep(0)


async def test_what_is_not_registered_is_not_found():
    cluster = FakeCluster(Ring.even([0]), tables(DIMS))
    asked = some_lookups(NAMES, 10)
    with pytest.raises(NotFound, match="model/9 is not registered"):
        await cluster.router.pull(MODEL, 9, asked, deadline_s=soon())
    with pytest.raises(NotFound, match="has no table 'nope'"):
        await pull(cluster, [Lookup("nope", Pooling.NONE, np.zeros(1, np.uint64))])
    cluster.router.retire(MODEL, VERSION)
    with pytest.raises(NotFound):
        await pull(cluster, asked)
    with pytest.raises(NotFound):
        cluster.router.retire(MODEL, VERSION)


async def test_without_a_map_nothing_is_available():
    router = Router(FakeCluster(Ring.even([0]), made := tables(DIMS)).connect)
    router.register(MODEL, VERSION, {name: spec for name, (spec, _) in made.items()})
    with pytest.raises(Unavailable, match="no shard map"):
        await router.pull(MODEL, VERSION, some_lookups(NAMES, 10), deadline_s=soon())


async def test_statistics_hold_an_error_for_a_shard_that_is_gone():
    cluster = FakeCluster(Ring.even(range(3)), tables(DIMS))
    cluster.shards[1].up = False
    statistics = await cluster.router.statistics(deadline_s=soon())
    assert list(statistics) == [0, 1, 2]
    assert isinstance(statistics[0], ShardStatistics)
    assert isinstance(statistics[1], RingpullError)


async def test_counters_count_keys_missing_ones_and_bytes():
    cluster = FakeCluster(Ring.even([0]), tables(DIMS))
    keys = np.array([1, 2, 1000, 1], np.uint64)
    await pull(cluster, [Lookup("items", Pooling.SUM, keys, np.array([0, 4]))] * 2)
    counters = cluster.router.counters()
    assert (counters.pulls, counters.failed, counters.messages) == (1, 0, 1)
    table = counters.tables[MODEL, "items"]
    assert (table.keys, table.missing, table.lost) == (8, 2, 0)
    assert counters.sent_bytes == 2 * (4 * 8 + 4)
    assert counters.received_bytes == 2 * (8 * 4 + 4) + 2 * 4  # two keys are absent, and told


async def test_close_closes_connections_and_attempts():
    cluster = FakeCluster(Ring.even([0]), tables(DIMS))
    await pull(cluster, some_lookups(NAMES, 10))
    await cluster.router.close()
    assert cluster.connections[0].closed
    with pytest.raises(Unavailable, match="the router is closed"):
        await pull(cluster, some_lookups(NAMES, 10))


async def test_a_pull_that_waits_for_a_connection_fails_when_the_router_closes():
    cluster = FakeCluster(Ring.even([0]), made := tables(DIMS))
    connecting, never = asyncio.Event(), asyncio.Event()

    async def connect(address):
        connecting.set()
        await never.wait()

    router = Router(connect)
    router.update(cluster.shard_map)
    router.register(MODEL, VERSION, {name: spec for name, (spec, _) in made.items()})
    waiting = asyncio.create_task(router.pull(MODEL, VERSION, some_lookups(NAMES, 10), deadline_s=soon()))
    await connecting.wait()
    await router.close()
    with pytest.raises(Unavailable, match="closed while it connected"):
        await waiting
