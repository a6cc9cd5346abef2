"""Slots that are damaged on one shard: other owners answer, or their table's policy; all other keys as ever."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import NotAnswered, Unavailable
from ringpull.ps.hashing import SLOT_SHIFT, positions_of
from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.ps.spec import ALL, OnUnavailable, Pooling, Replicas
from ringpull.ps.store.base import BadBlock
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads
from ringpull.router.client import Router
from ringpull.router.lookup import Lookup
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.ps.tables import rows_request
from tests.router.cases import Tables, assert_reference
from tests.router.fakes import PATIENT
from tests.router.test_real_shards import DIMS, MODEL, VERSION, lookups, written

__all__ = ["written"]

pytestmark = pytest.mark.net

Written = tuple[Path, Tables]


def damage(shard: Shard, table: str, *slots: tuple[int, int]) -> None:
    base = shard.base((MODEL, VERSION, table))
    assert base is not None
    assert shard.quarantine((MODEL, VERSION, table), base, [BadBlock(i, 0, 1, each) for i, each in enumerate(slots)])


@asynccontextmanager
async def routed(
    written: Written,
    ring: Ring,
    replicas: Mapping[str, Replicas],
    damaged: Callable[[Sequence[Shard]], None],
    on_unavailable: OnUnavailable = OnUnavailable.ERROR,
) -> AsyncIterator[Router]:
    """Real shards on TCP, some of their slots damaged, and a router over them."""
    folder, tables = written
    copies = {(MODEL, name): count for name, count in replicas.items()}
    shards = [Shard(shard) for shard in ring.shards]
    for shard in shards:
        shard.open(MODEL, VERSION, {name: folder / name for name in DIMS})
        shard.assign(1, [ServedRanges(ring, copies)], {(MODEL, VERSION)})
    damaged(shards)
    async with AsyncExitStack() as stack:
        addresses = []
        for shard in shards:
            server = ShardServer(shard, stack.enter_context(LookupThreads()))
            host, port = await server.start()
            stack.push_async_callback(server.close)
            addresses.append(ShardAddress(shard.shard, host, port))
        router = Router(lambda address: Connection.connect(address.host, address.port), settings=PATIENT)
        stack.push_async_callback(router.close)
        router.update(ShardMap(1, tuple(addresses), ring, copies))
        specs = {name: replace(spec, on_unavailable=on_unavailable) for name, (spec, _) in tables.items()}
        router.register(MODEL, VERSION, specs)
        yield router


async def test_another_copy_answers_for_damaged_slots_only(written: Written) -> None:
    """A table of one copy in the same pull is still answered by the shard whose other table is damaged."""
    replicas = {"users": 2, "items": 1, "tags": ALL}
    asked = lookups()

    def damaged(shards: Sequence[Shard]) -> None:
        damage(shards[0], "users", (100, 9_000), (30_000, 30_001))
        damage(shards[0], "tags", (0, 65_536))
        damage(shards[1], "users", (40_000, 60_000))

    async with routed(written, Ring.even([0, 1], 2), replicas, damaged) as router:
        assert_reference(written[1], asked, await router.pull(MODEL, VERSION, asked, deadline_s=time.monotonic() + 60))
        assert router.counters().failed == 0


def keys_in(written: Written, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys of `users`, and which of them are in these slots."""
    keys = np.array(sorted(written[1]["users"][1].rows), np.uint64)
    slots = positions_of(keys) >> np.uint64(SLOT_SHIFT)
    return keys, (slots >= begin) & (slots < end)


async def test_without_a_copy_pulls_of_other_keys_are_answered(written: Written) -> None:
    keys, bad = keys_in(written, 20_000, 20_400)
    assert 0 < bad.sum() < 100

    def damaged(shards: Sequence[Shard]) -> None:
        for shard in shards:
            damage(shard, "users", (20_000, 20_400))

    async with routed(written, Ring.even([0, 1]), {"users": 1}, damaged) as router:
        asked = [Lookup("users", Pooling.NONE, keys[~bad])]
        assert_reference(written[1], asked, await router.pull(MODEL, VERSION, asked, deadline_s=time.monotonic() + 60))
        asked = [Lookup("users", Pooling.NONE, keys[bad][:1])]
        with pytest.raises(Unavailable, match=r"keys of users .*quarantined"):
            await router.pull(MODEL, VERSION, asked, deadline_s=time.monotonic() + 60)


async def test_with_default_vectors_only_the_damaged_keys_get_them(written: Written) -> None:
    keys, bad = keys_in(written, 20_000, 20_400)
    ranges = [(20_000 + i, 20_001 + i) for i in range(0, 400, 2)]
    slots = positions_of(keys) >> np.uint64(SLOT_SHIFT)
    bad &= slots % 2 == 0

    def damaged(shards: Sequence[Shard]) -> None:
        for shard in shards:
            damage(shard, "users", *ranges)

    default = OnUnavailable.DEFAULT
    async with routed(written, Ring.even([0, 1]), {"users": 1}, damaged, default) as router:
        asked = [Lookup("users", Pooling.NONE, keys)]
        [result] = await router.pull(MODEL, VERSION, asked, deadline_s=time.monotonic() + 60)
        reference = written[1]["users"][1]
        due = np.array(
            [reference.default if gone else reference.row(int(key)) for key, gone in zip(keys, bad, strict=True)]
        )
        assert result.values.tobytes() == due.astype(np.float32).tobytes()
        assert result.lost == bad.sum()


def test_the_error_names_the_slots_that_were_asked_for(written: Written) -> None:
    shard = Shard(0)
    shard.open(MODEL, VERSION, {name: written[0] / name for name in DIMS})
    shard.assign(1, [ServedRanges(Ring.even([0]), {})], {(MODEL, VERSION)})
    keys, bad = keys_in(written, 20_000, 20_400)
    damage(shard, "users", *[(i, i + 1) for i in range(0, 20_400, 2)])
    with pytest.raises(NotAnswered) as raised:
        shard.pull(rows_request("users", keys[bad], model=MODEL, version=VERSION))
    begin, end = raised.value.slots[0]
    assert begin in (positions_of(keys[bad]) >> np.uint64(SLOT_SHIFT)).tolist()
    assert (raised.value.table, end - begin) == ("users", 1)
