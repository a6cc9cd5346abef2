"""Straight pushes over real shards and a head: they pass through no head, and whatever fails on the way does."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull import AsyncClient, Client
from ringpull.inference.client import straight as straight_module
from ringpull.inference.client import straight_hosts
from ringpull.inference.client.straight import StraightPushes
from ringpull.inference.client.straight_ways import RENEW_S
from ringpull.inference.client.stubs import PUSH, Rpc
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.push_route import PushRoute
from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.inference.wire.push_codec import PushTarget, SinglePush
from ringpull.ps.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Unavailable,
    UnmetCondition,
)
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring
from ringpull.ps.spec import TableSpec
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.messages import Reply, Request
from ringpull.ps.wire.push_messages import PushRequest
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.clock import Clock
from tests.integration.local import LocalCluster, local_cluster
from tests.integration.test_writer import DIM, as_stored, export
from tests.patience import PATIENCE_S
from tests.ports import free_port

pytestmark = [pytest.mark.net, pytest.mark.medium]

ROW = np.ones((1, DIM), np.float32)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no reason to go through a head."""
    monkeypatch.setattr("ringpull.inference.client.straight_ways.ASK_S", 60.0)
    monkeypatch.setattr(straight_module, "CONNECT_S", 60.0)
    monkeypatch.setattr(straight_hosts, "SILENT_S", 60.0)


def counted(client: Any) -> list[Any]:
    """Return a list that grows with every push that goes through a head from now on."""
    through: list[Any] = []

    def counting(method: Any) -> Any:
        def call(request: Any, **given: Any) -> Any:
            through.append(request)
            return method(request, **given)

        return call

    client._push = [counting(each) for each in client._push]
    return through


@contextmanager
def serving(folder: Path, shards: int = 2, config: HeadConfig | None = None) -> Iterator[LocalCluster]:
    with local_cluster([export(folder)], shards=shards, data_dir=folder / "data", config=config) as cluster:
        yield cluster


@pytest.mark.parametrize("shards", [1, 3])
def test_rows_of_every_kind_of_table_pass_through_no_head(tmp_path: Path, shards: int) -> None:
    rng = np.random.default_rng(5)
    keys = np.r_[5:25, 1000:1030]
    rows = (10 * rng.normal(size=(len(keys), DIM))).astype(np.float32)
    with serving(tmp_path, shards) as cluster, cluster.client() as client, cluster.client() as other:
        through = counted(client)
        for table in ("user", "small", "texts"):
            sent: Any = [f"t{key}" for key in keys] if table == "texts" else keys
            done = client.push("feed", table, sent, rows)
            assert (done.rows, done.new_keys, done.repeated, done.copies) == (50, 50, 0, 1)
            assert client.status().straight_pushes == "on"
            assert (done.model, done.version, done.lineage) == ("feed", 1, client.model("feed").lineage)
            assert set(done.stamp) == set(range(shards))
            np.testing.assert_array_equal(other.lookup("feed", table, sent).rows, as_stored(rows, table))
            client.push("feed", table, sent[:3], remove=True)
            found = other.lookup("feed", table, sent[:4]).found
            assert found is not None
            assert found.tolist() == [False, False, False, True]
        texts = [b"x" * int(length) for length in rng.integers(0, 90, len(keys))]
        assert client.push("feed", "blobs", keys, texts).rows == 50
        assert list(other.lookup("feed", "blobs", keys).rows) == texts
        with client.pusher("feed", writer="trainer") as pusher:
            many = rng.permutation(30_000)
            pusher.push("user", many, np.repeat(many[:, None], DIM, axis=1).astype(np.float32))
            assert pusher.flush().rows == 30_000
        assert other.lookup("feed", "user", many[:50]).rows[:, 0].tolist() == many[:50].tolist()
        assert through == []


async def test_in_asyncio_rows_are_as_they_were_when_they_were_pushed(tmp_path: Path) -> None:
    with serving(tmp_path) as cluster:
        async with AsyncClient(cluster.target, timeout_s=60) as client:
            await client.push("feed", "user", [1], ROW)
            through, rows = counted(client), np.full((1, DIM), 7, np.float32)
            pushed = asyncio.ensure_future(client.push("feed", "user", [2], rows))
            await asyncio.sleep(0)
            rows[:] = 8
            assert (await pushed).rows == 1
            assert (await client.lookup("feed", "user", [2])).rows[0, 0] == 7
            await asyncio.gather(*[client.push("feed", "user", [n], ROW) for n in range(500, 540)])
            assert through == []


@pytest.mark.parametrize(
    ("table", "keys", "rows", "kind", "message"),
    [
        ("user", [1], [[1.0]], InvalidInput, r"shape \(1, 1\)"),
        ("user", [1], [[np.nan] * DIM], InvalidInput, "row 0, of key 1, has a number that is NaN"),
        ("user", ["a"], [[1.0] * DIM], InvalidInput, "keys: are strings"),
        ("blobs", [1], [b"x" * ((1 << 20) + 1)], InvalidInput, "has 1048577 bytes"),
        ("fixed", [1], [[1.0] * DIM], UnmetCondition, "takes no pushes"),
        ("none", [1], [[1.0] * DIM], NotFound, "has no table 'none'"),
    ],
)
def test_the_head_says_what_is_wrong(
    tmp_path: Path, table: str, keys: Any, rows: Any, kind: type[Exception], message: str
) -> None:
    with serving(tmp_path) as cluster, cluster.client() as client:
        client.push("feed", "user", [1], ROW)
        with pytest.raises(kind, match=message):
            client.push("feed", table, keys, rows)
        through = counted(client)
        client.push("feed", "user", [1], ROW)
        assert through == []


def test_a_head_that_says_no_and_a_client_that_wants_none(tmp_path: Path) -> None:
    with serving(tmp_path, config=HeadConfig(default_timeout_s=60, straight_pushes=False)) as cluster:
        for client in (cluster.client(), Client(cluster.target, straight_pushes=False)):
            with client:
                assert client.status().straight_pushes == "it is turned off (--straight-pushes off)"
                through = counted(client)
                client.push("feed", "user", [1], ROW)
                client.push("feed", "user", [2], ROW)
                assert len(through) == 2


def test_a_head_of_an_older_build_knows_no_route(tmp_path: Path) -> None:
    with serving(tmp_path) as cluster, cluster.client() as client:
        unknown = Rpc("/ringpull.v1.Writer/Unheard", PUSH.reply)
        client._push_route = client._method(unknown)
        through = counted(client)
        for _ in range(3):
            assert client.push("feed", "user", [1], ROW).rows == 1
        assert len(through) == 3
        assert client._ways is not None
        assert client._ways._here().by_model["feed"].next_s > client._ways.clock() + 20


def test_shards_that_cannot_be_reached_are_pushed_to_through_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    class Nowhere:
        @classmethod
        async def connect(cls, host: str, port: int, **given: Any) -> Connection:
            tried.append(port)
            raise Unavailable(f"no shard can be reached at {host}:{port}")

    monkeypatch.setattr(straight_module, "Connection", Nowhere)
    with serving(tmp_path) as cluster, cluster.client() as client:
        through = counted(client)
        for key in range(5):
            assert client.push("feed", "user", [key, key + 1000], np.ones((2, DIM), np.float32)).repeated == 0
        assert len(through) == 5
        assert 1 <= len(tried) <= 2
        assert (client.lookup("feed", "user", range(5)).rows == 1).all()


class Faulty:
    """Connection that is lost by some pushes: before the shard has seen them, or behind."""

    def __init__(self, connection: Connection, fails: Iterator[str]) -> None:
        self._connection, self._fails = connection, fails
        self.closed = False

    async def request(self, message: Request, *, deadline_s: float) -> Reply:
        if not isinstance(message, PushRequest):
            return await self._connection.request(message, deadline_s=deadline_s)
        how = next(self._fails)
        if how != "before":
            reply = await self._connection.request(message, deadline_s=deadline_s)
        if how:
            self.closed = True
            await self._connection.close()
            raise ConnectionLost("the connection was lost")
        return reply

    async def close(self) -> None:
        self.closed = True
        await self._connection.close()


def test_whatever_was_lost_on_the_way_applies_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = random.Random(4)
    fails = (drawn.choices(["", "before", "behind"], [8, 1, 1])[0] for _ in itertools.count())
    opened = StraightPushes._connect

    async def connect(self: StraightPushes, address: Any) -> Any:
        return Faulty(await opened(self, address), fails)

    monkeypatch.setattr(StraightPushes, "_connect", connect)
    monkeypatch.setattr("ringpull.inference.client.straight_ways.PAUSE_S", 0.0)
    rng = np.random.default_rng(1)
    with serving(tmp_path, 3) as cluster, cluster.client() as client:
        through, last, repeated, rows, pushed = counted(client), {}, 0, 0, 0
        for step in range(60):
            keys = rng.choice(400, int(rng.integers(1, 40)), replace=False)
            done = client.push("feed", "user", keys, np.full((len(keys), DIM), step, np.float32))
            assert done.rows + done.repeated == len(keys)
            repeated, rows, pushed = repeated + done.repeated, rows + done.rows, pushed + len(keys)
            last |= dict.fromkeys(keys.tolist(), float(step))
        assert client.lookup("feed", "user", list(last)).rows[:, 0].tolist() == list(last.values())
        assert 0 < len(through) < 60
        assert repeated > 0
        written = sum(actor.heartbeat().newer_rows for actor in cluster.shards)
        assert written == len(last)


def test_what_was_live_is_refused_by_the_shards_and_left_to_the_head(tmp_path: Path) -> None:
    """A shard that was not told which lineage is live, as in a change."""
    with serving(tmp_path) as cluster, cluster.client() as client:
        done = client.push("feed", "user", [1], ROW)
        for actor in cluster.shards:
            ranges = actor._shard.state.served_ranges
            assert ranges is not None
            pushed = {("feed", int(done.lineage, 16), "user")}
            actor.assign(2, ranges, actor._shard.state.assigned, pushed)
        through = counted(client)
        assert client.push("feed", "user", [1], 2 * ROW).rows == 1
        assert client.push("feed", "user", [1], 3 * ROW).rows == 1
        assert len(through) == 2
        assert (client.lookup("feed", "user", [1]).rows == 3).all()
        with pytest.raises(UnmetCondition, match="is not open here"):
            client.push("feed", "user", [1], ROW, lineage="0" * 16)


def test_rows_that_are_still_on_the_way_at_the_deadline_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, 1) as cluster, cluster.client() as client:
        client.push("feed", "user", [1], ROW)
        asked, sent = Connection.request, []

        async def silent(self: Connection, message: Request, *, deadline_s: float) -> Reply:
            if isinstance(message, PushRequest) and message.only_live:
                sent.append(message)
                raise DeadlineExceeded("no reply in time")
            return await asked(self, message, deadline_s=deadline_s)

        monkeypatch.setattr(Connection, "request", silent)
        rows = np.full((1, DIM), 7, np.float32)
        assert client.push("feed", "user", np.array([2]), rows).rows == 1
        rows[:] = 8
        [message] = sent
        assert (np.asarray(message.rows).view(np.float32) == 7).all()


def test_a_push_that_comes_while_the_thread_ends_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the loop has ended all that it knew of, and is not closed yet."""
    with serving(tmp_path) as cluster, cluster.client() as client:
        client.push("feed", "user", [1], ROW)
        thread, ended, failed = client._straight[os.getpid()], straight_module._ended, []
        route = client._ways and client._ways.known("feed")
        push = SinglePush(
            target=PushTarget(model="feed", table="user"), keyed=KeyedRows.of([1], ROW), writer=1, number=1
        )

        def late() -> None:
            with pytest.raises(Unavailable, match="the client was closed"):
                thread.push(route, push, time.monotonic() + PATIENCE_S)
            failed.append(True)

        async def then_late(pushes: StraightPushes) -> None:
            await ended(pushes)
            await asyncio.get_running_loop().run_in_executor(None, late)

        monkeypatch.setattr(straight_module, "_ended", then_late)
        client.close()
        assert failed == [True]


async def test_a_client_that_nobody_closes_leaves_no_connection_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, connect = [], Connection.connect

    class Noted:
        @classmethod
        async def connect(cls, host: str, port: int, **given: Any) -> Connection:
            opened.append(await connect(host, port, **given))
            return opened[-1]

    monkeypatch.setattr(straight_module, "Connection", Noted)
    with serving(tmp_path, 1) as cluster:
        client = AsyncClient(cluster.target, timeout_s=60)
        await client.push("feed", "user", [1], ROW)
        assert [each.closed for each in opened] == [False]
        for channel in client._channels:
            await channel.close()
        del client, channel
        gc.collect()
        for _ in range(3):  # turns of the loop: it is told, it makes a task, the task closes
            await asyncio.sleep(0)
        assert [each.closed for each in opened] == [True]


def test_a_client_of_another_loop_says_so(tmp_path: Path) -> None:
    with serving(tmp_path) as cluster:

        async def made() -> AsyncClient:
            client = AsyncClient(cluster.target, timeout_s=PATIENCE_S)
            await client.push("feed", "user", [1], ROW)
            return client

        async def pushed(client: AsyncClient) -> None:
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                await client.push("feed", "user", [1], ROW)

        with asyncio.Runner() as runner:
            client = runner.run(made())
            with ThreadPoolExecutor(1) as other:
                other.submit(asyncio.run, pushed(client)).result()
            runner.run(client.close())


def test_the_thread_ends_with_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = threading.enumerate()  # of other tests, which may be ending

    def threads() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "straight pushes" and each not in others]

    with serving(tmp_path) as cluster:
        with cluster.client() as client:
            assert threads() == []
            client.push("feed", "user", [1], ROW)
            client.push("feed", "user", [2], ROW)
            [first] = threads()
            with monkeypatch.context() as forked:
                process = os.getpid()
                forked.setattr(os, "getpid", lambda: process + 1)
                client.push("feed", "user", [3], ROW)
                assert len(threads()) == 2
                client._close_straight()
            assert threads() == [first]
        assert threads() == []
        dropped = cluster.client()
        dropped.push("feed", "user", [1], ROW)
        [thread] = threads()
        del dropped
        gc.collect()
        thread.join()


def test_pushes_go_on_straight_while_a_head_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = HeadConfig(default_timeout_s=60, grpc_port=free_port())
    clock = Clock(time.monotonic())
    with serving(tmp_path, config=config) as cluster, cluster.client() as client:
        monkeypatch.setattr(client._ways, "clock", clock)  # no route grows old of itself
        done = client.push("feed", "user", [1], ROW)
        through = counted(client)
        cluster.head.drain(5)
        for key in range(20):
            assert client.push("feed", "user", [key], 2 * ROW).lineage == done.lineage
        again = HeadProcess(config)
        try:
            again.start(cluster.shard_map, [str(tmp_path / "feed" / "1")])
            clock.now_s += RENEW_S
            with cluster.client() as other:
                assert (other.lookup("feed", "user", range(20)).rows == 2).all()
                other.push("feed", "user", [1], 3 * ROW)
            client.push("feed", "user", [2], 3 * ROW)
            assert (client.lookup("feed", "user", [1, 2]).rows == 3).all()
            assert through == []
        finally:
            again.drain(5)


@pytest.mark.parametrize("timeout_s", [1e-9, 1e-5, 1e-4, 1e-3, 4e-3])
def test_a_push_without_time_ends_as_one_that_missed_its_deadline(tmp_path: Path, timeout_s: float) -> None:
    with serving(tmp_path) as cluster, cluster.client() as client:
        for key in range(10):
            with suppress(DeadlineExceeded):
                assert client.push("feed", "user", [key], ROW, timeout_s=timeout_s).rows == 1


def test_shards_that_another_deployment_has_there_by_now_take_nothing() -> None:
    """As after `stop` and `serve` at the same ports: deployments differ, whatever else is the same."""
    actor = ShardProcess(0, deployment="new", metrics=False)
    keyed, target = KeyedRows.of([1], ROW), PushTarget(model="m", table="user")
    push = SinglePush(target=target, keyed=keyed, writer=1, number=1)

    async def pushed(deployment: str) -> None:
        address = ShardAddress(0, *actor.address())
        shard_map = ShardMap(1, (address,), Ring.even([0]), {}, deployment=deployment, term=1)
        specs = {"user": TableSpec(name="user", dim=DIM)}
        route = PushRoute(model="m", version=1, lineage="00000000000000aa", specs=specs, shard_map=shard_map)
        await pushes.push(route, push, time.monotonic() + PATIENCE_S)

    async def both() -> None:
        with pytest.raises(Unavailable, match=r"deployment old\) was meant"):
            await pushed("old")
        with pytest.raises(UnmetCondition, match="a shard needs a folder"):  # it is asked, and answers
            await pushed("new")
        await pushes.close()

    pushes = StraightPushes()
    try:
        asyncio.run(both())
    finally:
        actor.stop()
