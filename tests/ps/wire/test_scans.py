"""Scans at a shard's server: beside pulls, as long as somebody waits for them, and only those that come in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from ringpull.ps.errors import DeadlineExceeded, Unavailable
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.service_rate import Work
from ringpull.ps.top_k_messages import TopKReply
from ringpull.ps.wire.admission import Admission, AdmissionLimits
from ringpull.ps.wire.codec import encode_cancel
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.served import ServedConnection
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.tally import ServerTally
from ringpull.ps.wire.threads import LookupThreads
from tests.clock import Clock
from tests.ps.wire.fake_shard import GATED, FakeShard, pull_of, soon, top_k_of

LIMITS = AdmissionLimits(max_in_flight_bytes=1000)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[FakeShard, ServerTally, ShardServer, tuple[str, int]]]:
    shard, tally = FakeShard(), ServerTally()
    with LookupThreads() as threads, LookupThreads(name="scan", nice=5) as scans:
        server = ShardServer(shard, threads, scans=scans, tally=tally)
        yield shard, tally, server, await server.start()
        shard.gate.set()
        await server.close()


@pytest.mark.net
async def test_a_pull_does_not_wait_for_a_scan() -> None:
    async with serving() as (shard, tally, _, address):
        connection = await Connection.connect(*address)
        scan = asyncio.create_task(connection.request(top_k_of(3, GATED), deadline_s=soon()))
        assert isinstance(await connection.request(pull_of(1), deadline_s=soon()), PullReply)
        assert not scan.done()
        shard.gate.set()
        reply = await scan
        assert isinstance(reply, TopKReply)
        assert reply.scores.tolist() == [0.0, 1.0, 2.0]
        assert shard.threads == {"lookup-0", "scan-0"}
        assert (tally.requests["top_k", "OK"], tally.requests["pull", "OK"]) == (1, 1)
        await connection.close()


@pytest.mark.net
async def test_who_has_an_answer_finds_it_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics are read by another thread: an answer that is counted after it was sent is missing for a moment."""
    sent, answered = [], ServedConnection.answered
    async with serving() as (_, tally, _, address):

        def noted(*args: Any) -> None:
            sent.append((tally.requests["pull", "OK"], tally.received_bytes["pull"] > 0))
            answered(*args)

        monkeypatch.setattr(ServedConnection, "answered", noted)
        connection = await Connection.connect(*address)
        for _ in range(2):
            await connection.request(pull_of(1), deadline_s=soon())
        assert sent == [(1, True), (2, True)]
        await connection.close()


@pytest.mark.net
async def test_a_scan_ends_when_its_time_is_up() -> None:
    async with serving() as (_, tally, server, address):
        connection = await Connection.connect(*address)
        with pytest.raises(DeadlineExceeded):
            await connection.request(top_k_of(1, GATED), deadline_s=time.monotonic() + 0.05)
        while server.in_flight:
            await asyncio.sleep(0.005)
        assert tally.requests["top_k", "DEADLINE_EXCEEDED"] == 1
        await connection.close()


@pytest.mark.net
async def test_a_scan_ends_when_its_caller_is_gone() -> None:
    async with serving() as (shard, tally, server, address):
        connection = await Connection.connect(*address)
        scan = asyncio.create_task(connection.request(top_k_of(1, GATED), deadline_s=soon()))
        while not shard.entered.is_set():
            await asyncio.sleep(0.005)
        await connection.close()
        await asyncio.gather(scan, return_exceptions=True)
        other = await Connection.connect(*address)
        assert isinstance(await other.request(top_k_of(), deadline_s=soon()), TopKReply), "its thread is free"
        assert tally.requests["top_k", "OK"] == 1
        assert server.pulls_in_flight is False
        await other.close()


@pytest.mark.net
async def test_a_scan_ends_when_its_caller_gives_up_and_the_connection_goes_on() -> None:
    async with serving() as (shard, tally, server, address):
        connection = await Connection.connect(*address)
        asked = [asyncio.create_task(connection.request(top_k_of(1, GATED), deadline_s=soon())) for _ in range(2)]
        while not shard.entered.is_set():
            await asyncio.sleep(0.005)
        for each in asked:  # one runs, and one waits for its thread
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(await connection.request(top_k_of(), deadline_s=soon()), TopKReply), "its thread is free"
        assert (tally.requests["top_k", "CANCELLED"], tally.requests["top_k", "OK"]) == (2, 1)
        assert connection.in_flight == server.in_flight == 0
        connection.send(encode_cancel(10**6))  # of none that is in flight: it says nothing
        assert isinstance(await connection.request(top_k_of(), deadline_s=soon()), TopKReply)
        await connection.close()


def test_scans_wait_for_each_other_and_not_for_pulls() -> None:
    clock = Clock(50.0)
    pulls = Admission(LIMITS, clock)
    scans = pulls.scans()
    cost = 1e6
    waiting: list[Work] = []
    for ahead in [0] * 50 + [5] * 100 + [0] * 6:  # learns that a scan takes 10 ms
        waiting += [scans.begin(10, clock.now_s + 99, cost=cost) for _ in range(ahead + 1 - len(waiting))]
        clock.now_s += 0.01
        scans.end(waiting.pop(0), 10, served=True)
    running = scans.begin(10, clock.now_s + 9, cost=60 * cost)
    with pytest.raises(Unavailable, match=r"a scan waits \d+\.\d ms for others, and this one has 500\.0 ms left"):
        scans.begin(10, clock.now_s + 0.5, cost=cost)
    pull = pulls.begin(10, clock.now_s + 0.001)
    assert pulls.ledger.requests == 20
    with pytest.raises(Unavailable, match="max_in_flight_bytes is 1000"):
        scans.begin(990, clock.now_s + 60, cost=0.0)
    pulls.end(pull, 10, served=True)
    scans.end(running, 10, served=True)
    assert pulls.ledger.requests == 0


def test_a_parked_scan_holds_up_no_other() -> None:
    clock = Clock(50.0)
    scans = Admission(LIMITS, clock).scans()
    work = scans.begin(10, clock.now_s + 9, cost=1e9)
    work = scans.unpark(scans.park(work), 10, cost=1e9)
    assert work.cost > 1e9
    scans.end(work, 10, served=False)
    assert scans.idle


def test_a_scan_of_no_queries_has_no_rows() -> None:
    assert top_k_of(0).slots().sum() == 65_536
    assert np.array_equal(top_k_of(0).lengths, [])
