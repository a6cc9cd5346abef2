"""Hosts that are not reached, shards that take requests and say nothing, and for how long that is remembered."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import numpy as np
import pytest

from ringpull.inference.client import straight_hosts
from ringpull.inference.client.straight import StraightPushes
from ringpull.inference.client.straight_hosts import FORGET_S, SURE_S, StraightConnections, StraightHosts
from ringpull.inference.push_route import PushRoute
from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.inference.wire.push_codec import PushTarget, SinglePush
from ringpull.ps.errors import ConnectionLost, DeadlineExceeded, NotFound, RingpullError, Unavailable
from ringpull.ps.ring import Ring
from ringpull.ps.spec import TableSpec
from ringpull.ps.wire.messages import DescribeReply, DescribeRequest, Reply, Request
from ringpull.router.backoff import Backoff
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.clock import Clock
from tests.patience import PATIENCE_S

ADDRESS = ShardAddress(0, "10.0.0.1", 5, "i1")
REQUEST = DescribeRequest("m", 1, "user", 0, 1)


def test_a_host_that_was_never_reached_is_forgotten_after_a_while() -> None:
    clock = Clock(100.0)
    hosts = StraightHosts(clock=clock)
    assert hosts.all_reached
    hosts.failed("a")
    clock.now_s += FORGET_S / 2
    hosts.failed("b")
    assert not hosts.all_reached
    clock.now_s += FORGET_S / 2
    assert not hosts.all_reached  # b
    clock.now_s += FORGET_S / 2
    assert hosts.all_reached
    hosts.failed("a")
    assert not hosts.all_reached
    hosts.reached("a")
    assert hosts.all_reached


def test_one_that_was_reached_is_restarted_perhaps_unless_it_says_nothing() -> None:
    hosts = StraightHosts(clock=Clock(100.0))
    hosts.reached("a")
    hosts.failed("a")
    assert hosts.all_reached
    hosts.silent("a")
    assert not hosts.all_reached
    hosts.failed("a")
    assert not hosts.all_reached
    hosts.reached("a")
    assert hosts.all_reached


@pytest.mark.net
async def test_a_shard_that_takes_bytes_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(straight_hosts, "SILENT_S", 0.05)
    monkeypatch.setattr("ringpull.inference.client.straight.CONNECT_S", PATIENCE_S)
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass
        writer.close()
        ended.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    shard_map = ShardMap(1, (ShardAddress(0, "127.0.0.1", port, "i"),), Ring.even([0]), {}, deployment="d", term=1)
    specs = {"user": TableSpec(name="user", dim=3)}
    route = PushRoute(model="m", version=1, lineage="00000000000000aa", specs=specs, shard_map=shard_map)
    keyed = KeyedRows.of([1], np.ones((1, 3), np.float32))
    push = SinglePush(target=PushTarget(model="m", table="user"), keyed=keyed, writer=1, number=1)
    pushes, told = StraightPushes(), list[tuple[type[RingpullError], bool]]()
    with pytest.raises(Unavailable):
        await pushes.push(
            route, push, time.monotonic() + PATIENCE_S, lambda error, reached: told.append((type(error), reached))
        )
    assert told == [(Unavailable, False)]
    await ended.wait()  # the connection is closed: the next push makes another one
    await pushes.close()
    server.close()
    await server.wait_closed()


class Answering:
    """Connection whose shard answers when it is told to."""

    def __init__(self) -> None:
        self.closed = False
        self.outcomes: asyncio.Queue[Any] = asyncio.Queue()
        self._ended = asyncio.Event()

    async def request(self, message: Request, *, deadline_s: float) -> Reply:
        told = asyncio.ensure_future(self.outcomes.get())
        ended = asyncio.ensure_future(self._ended.wait())
        done, _ = await asyncio.wait([told, ended], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        ended.cancel()
        outcome = told.result() if told in done else ConnectionLost("it was closed")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    async def close(self) -> None:
        self.closed = True
        self._ended.set()


async def connected(gate: asyncio.Event | None = None) -> tuple[StraightConnections, StraightHosts, Answering]:
    connection, hosts = Answering(), StraightHosts()

    async def connect(address: ShardAddress) -> Answering:
        if gate is not None:
            await gate.wait()
        hosts.reached(address.host)
        return connection

    connections = StraightConnections(connect, Backoff(0.1, 1.0, random.Random(1)), hosts)
    connections.want([ADDRESS])
    return connections, hosts, connection


@pytest.mark.parametrize("answer", [DescribeReply(np.empty(0, np.uint8), 1, 0), NotFound("no such table")])
async def test_a_shard_that_is_slow_with_one_request_and_answers_others_is_not(
    monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    monkeypatch.setattr(straight_hosts, "SILENT_S", PATIENCE_S)
    connections, hosts, connection = await connected()
    began_s = time.monotonic()
    slow = asyncio.ensure_future(connections.ask(ADDRESS, REQUEST, deadline_s=began_s + PATIENCE_S))
    await asyncio.sleep(0)
    other = asyncio.ensure_future(connections.ask(ADDRESS, REQUEST, deadline_s=began_s + PATIENCE_S))
    connection.outcomes.put_nowait(answer)
    done, waiting = await asyncio.wait([slow, other], return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == len(waiting) == 1
    [each.exception() for each in done]
    assert connections._look(ADDRESS, began_s) > 0
    assert not connection.closed
    assert hosts.all_reached
    monkeypatch.setattr(straight_hosts, "SILENT_S", 0.0)
    connections._look(ADDRESS, began_s)  # to which it is silent since then
    assert not hosts.all_reached
    with pytest.raises(ConnectionLost):
        await next(iter(waiting))
    assert connection.closed
    await connections.close()


@pytest.mark.parametrize("had_s", [0.0, SURE_S])
async def test_a_request_that_had_hardly_any_time_says_nothing_of_its_shard(
    monkeypatch: pytest.MonkeyPatch, had_s: float
) -> None:
    connections, hosts, connection = await connected()
    monkeypatch.setattr(straight_hosts, "SURE_S", SURE_S - had_s)
    connection.outcomes.put_nowait(DeadlineExceeded("no reply in time"))
    with pytest.raises(DeadlineExceeded):
        await connections.ask(ADDRESS, REQUEST, deadline_s=time.monotonic() + PATIENCE_S)
    assert hosts.all_reached is (had_s == 0.0)
    await connections.close()
    assert connection.closed


async def test_a_client_whose_loop_was_blocked_takes_no_shard_for_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came meanwhile is taken in the turn in which timers are late."""
    connections, hosts, connection = await connected()
    answer = DescribeReply(np.empty(0, np.uint8), 1, 0)
    connection.outcomes.put_nowait(answer)
    await connections.ask(ADDRESS, REQUEST, deadline_s=time.monotonic() + PATIENCE_S)
    monkeypatch.setattr(straight_hosts, "SILENT_S", 0.05)

    async def request(message: Request, *, deadline_s: float) -> Reply:
        loop = asyncio.get_running_loop()
        answered = loop.create_future()
        time.sleep(0.1)  # the loop is blocked
        loop.call_soon(answered.set_result, answer)
        return await answered  # type: ignore[no-any-return]

    monkeypatch.setattr(connection, "request", request)
    assert await connections.ask(ADDRESS, REQUEST, deadline_s=time.monotonic() + PATIENCE_S) is answer
    await connections.close()
    assert hosts.all_reached


async def test_a_silent_shard_is_given_up_also_where_it_was_slow_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(straight_hosts, "SILENT_S", 0.01)
    gate, looked = asyncio.Event(), asyncio.Event()
    connections, hosts, connection = await connected(gate)
    real = connections._look

    def look(*args: Any) -> float:
        looked.set()
        return real(*args)

    monkeypatch.setattr(connections, "_look", look)
    asked = asyncio.ensure_future(connections.ask(ADDRESS, REQUEST, deadline_s=time.monotonic() + PATIENCE_S))
    await looked.wait()
    assert hosts.all_reached
    gate.set()
    with pytest.raises(ConnectionLost):
        await asked
    assert connection.closed
    assert not hosts.all_reached
    await connections.close()
