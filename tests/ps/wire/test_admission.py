"""What a shard takes in, on a fake clock; and over real connections: who is refused, and that all others are served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ringpull.ps.errors import InvalidInput, Unavailable
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.service_rate import Work
from ringpull.ps.wire.admission import PULL_COST_BYTES, Admission, AdmissionLimits
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.messages import ShardStatistics, StatisticsRequest
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.tally import ServerTally
from ringpull.ps.wire.threads import LookupThreads
from tests.clock import Clock
from tests.ps.wire.fake_shard import GATED, FakeShard, pull_of, soon

SIZE = 10_000 - PULL_COST_BYTES
"""So that a pull costs 10,000."""
FAR_S = 1e6


@pytest.fixture
def clock() -> Clock:
    return Clock(50.0)


@pytest.fixture
def admission(clock: Clock) -> Admission:
    """Has learnt that a pull takes 10 ms."""
    admission = Admission(AdmissionLimits(max_in_flight_bytes=100 * SIZE), clock)
    waiting: list[Work] = []
    for ahead in [0] * 50 + [5] * 100 + [0] * 6:
        waiting += [admission.begin(SIZE, FAR_S) for _ in range(ahead + 1 - len(waiting))]
        clock.now_s += 0.01
        admission.end(waiting.pop(0), SIZE, served=True)
    assert not waiting
    return admission


def test_a_pull_that_would_wait_too_long_is_refused(admission: Admission, clock: Clock) -> None:
    works = [admission.begin(SIZE, FAR_S) for _ in range(20)]
    with pytest.raises(Unavailable, match=r"a pull waits 200\.0 ms for others, and this one has 150\.0 ms left"):
        admission.begin(SIZE, clock.now_s + 0.15)
    admission.begin(SIZE, clock.now_s + 0.25)
    for work in works:
        admission.end(work, SIZE, served=True)
    admission.begin(SIZE, clock.now_s + 0.15)


def test_an_idle_shard_tries_whatever_comes(admission: Admission, clock: Clock) -> None:
    work = admission.begin(1_000_000 * SIZE, clock.now_s + 1e-6)
    with pytest.raises(Unavailable, match="max_in_flight_bytes is"):
        admission.begin(SIZE, FAR_S)
    admission.end(work, 1_000_000 * SIZE, served=False)
    admission.begin(SIZE, clock.now_s - 1.0)


def test_what_is_late_already_is_not_called_overload(admission: Admission, clock: Clock) -> None:
    for _ in range(20):
        admission.begin(SIZE, FAR_S)
    admission.begin(SIZE, clock.now_s - 0.1)


@pytest.mark.parametrize("name", ["max_connections", "max_in_flight_bytes"])
def test_limits_below_one_are_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} is 0"):
        AdmissionLimits(**{name: 0})


@asynccontextmanager
async def serving(
    limits: AdmissionLimits,
) -> AsyncIterator[tuple[FakeShard, ServerTally, ShardServer, tuple[str, int]]]:
    shard, tally = FakeShard(), ServerTally()
    with LookupThreads() as threads:
        server = ShardServer(shard, threads, admission_limits=limits, tally=tally)
        address = await server.start()
        yield shard, tally, server, address
        shard.gate.set()
        await server.close()


@pytest.mark.net
async def test_bytes_are_bounded_over_all_connections() -> None:
    keys = range(100)
    async with serving(AdmissionLimits(max_in_flight_bytes=2 * 800)) as (shard, tally, server, address):
        connections = [await Connection.connect(*address) for _ in range(3)]
        stuck = [
            asyncio.create_task(connection.request(pull_of(*keys, model=GATED), deadline_s=soon()))
            for connection in connections[:2]
        ]
        while server.in_flight < 2:
            await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="pulls of 1600 bytes are in flight, and this one has 800"):
            await connections[2].request(pull_of(*keys), deadline_s=soon())
        assert tally.requests["pull", "UNAVAILABLE"] == 1
        assert shard.pulls <= 1
        small = asyncio.create_task(connections[2].request(StatisticsRequest(), deadline_s=soon()))
        shard.gate.set()
        assert isinstance(await small, ShardStatistics), "what takes no room is not refused"
        assert [type(reply) for reply in await asyncio.gather(*stuck)] == [PullReply, PullReply]
        assert isinstance(await connections[2].request(pull_of(*keys), deadline_s=soon()), PullReply)
        for connection in connections:
            await connection.close()


@pytest.mark.net
async def test_one_connection_too_many_is_told_and_ended_and_no_other_notices() -> None:
    async with serving(AdmissionLimits(max_connections=2)) as (_, _, server, address):
        kept = [await Connection.connect(*address) for _ in range(2)]
        while server.connections < 2:
            await asyncio.sleep(0)
        extra = await Connection.connect(*address)
        with pytest.raises(Unavailable, match="2 connections, which is max_connections"):
            await extra.request(pull_of(1), deadline_s=soon())
        for connection in kept:
            assert isinstance(await connection.request(pull_of(1), deadline_s=soon()), PullReply)
        await kept[0].close()
        while server.connections > 1:
            await asyncio.sleep(0.001)
        again = await Connection.connect(*address)
        assert isinstance(await again.request(pull_of(1), deadline_s=soon()), PullReply)
        for connection in (extra, again, *kept):
            await connection.close()
