"""Another process at the port of a shard: no row of it is in any answer, and a newer map is all that is needed.

Ports are reused: by a later life of the shard, by another shard, by another deployment's, by what is no shard at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import DeadlineExceeded, OtherContent, RingpullError, Unavailable
from ringpull.ps.placement import ServedRanges
from ringpull.ps.pull_messages import PullReply, PullRequest
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.ps.spec import OnUnavailable, Pooling, TableSpec
from ringpull.ps.store.writer import TableWriter
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.messages import Hello
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads
from ringpull.router.client import Router
from ringpull.router.lookup import Lookup, LookupResult
from ringpull.router.settings import RouterSettings
from ringpull.router.shard_map import ShardAddress, ShardMap

pytestmark = pytest.mark.net

MODEL, VERSION, TABLE = "model", 1, "items"
DEPLOYMENT = "ours"
KEYS = np.arange(400, dtype=np.uint64)
OURS, THEIRS = 1.0, 2.0
"""What every row of our table holds, and of a table of that name elsewhere."""

SETTINGS = RouterSettings(give_up_s=0.2, hedge_floor_s=0.02, hedge_cap_s=0.05)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """The table here and the one elsewhere, by what their rows hold."""
    folders = {}
    for content in (OURS, THEIRS):
        folders[content] = tmp_path_factory.mktemp("tables") / TABLE
        with TableWriter(folders[content], TableSpec(name=TABLE, dim=2)) as writer:
            writer.add(KEYS, np.full((KEYS.size, 2), content, np.float32))
            writer.finish()
    return folders


class Place:
    """Shards 0 and 1 of our deployment, and whoever else listens; all of it ends with the context."""

    def __init__(self, tables: dict[float, Path], copies: int, threads: LookupThreads, ends: AsyncExitStack) -> None:
        self.tables = tables
        self.ring = Ring.even(range(2), copies)
        self.replicas = {(MODEL, TABLE): copies}
        self.threads = threads
        self.ends = ends
        self.map: ShardMap | None = None
        self.newest: ShardMap | None = None
        """What the coordinator says; None: it is not there."""
        self.refreshes = 0

    async def refresh(self) -> ShardMap:
        self.refreshes += 1
        if self.newest is None:
            raise Unavailable("the coordinator is gone")
        return self.newest

    async def serve(self, hello: Hello, content: float, port: int = 0) -> tuple[ShardServer, int]:
        shard = Shard(hello.shard)
        shard.open(MODEL, VERSION, {TABLE: self.tables[content]})
        # Every shard has and serves everything: only by its hello can a stranger be told.
        shard.assign(1, [ServedRanges(Ring.even([hello.shard]), {})], {(MODEL, VERSION)})
        server = ShardServer(shard, self.threads, hello=hello)
        _, bound = await server.start("127.0.0.1", port)
        self.ends.push_async_callback(server.close, grace_s=0.1)
        return server, bound

    async def serve_bytes(self, behave: Callable[..., Awaitable[None]], port: int) -> None:
        server = await asyncio.start_server(behave, "127.0.0.1", port)
        self.ends.callback(server.close)

    def router(self, on_unavailable: OnUnavailable) -> Router:
        assert self.map is not None
        shard_map = self.map

        async def connect(address: ShardAddress) -> Connection:
            hello = Hello(shard_map.deployment, address.shard, address.incarnation)
            return await Connection.connect(address.host, address.port, hello=hello)

        router = Router(connect, refresh=self.refresh, settings=SETTINGS)
        router.update(shard_map)
        router.register(MODEL, VERSION, {TABLE: TableSpec(name=TABLE, dim=2, on_unavailable=on_unavailable)})
        self.ends.push_async_callback(router.close)
        return router


@asynccontextmanager
async def place(tables: dict[float, Path], copies: int = 1) -> AsyncIterator[tuple[Place, ShardServer, int]]:
    """Yield our deployment, its shard 1, and the port of that."""
    with LookupThreads(2) as threads:
        async with AsyncExitStack() as ends:
            made = Place(tables, copies, threads, ends)
            _, first = await made.serve(Hello(DEPLOYMENT, 0, "a"), OURS)
            second, port = await made.serve(Hello(DEPLOYMENT, 1, "b"), OURS)
            addresses = (ShardAddress(0, "127.0.0.1", first, "a"), ShardAddress(1, "127.0.0.1", port, "b"))
            made.map = ShardMap(1, addresses, made.ring, made.replicas, deployment=DEPLOYMENT)
            yield made, second, port


async def moved(made: Place, incarnation: str = "c") -> ShardMap:
    """Start shard 1 anew, on another port; return the map that says so."""
    assert made.map is not None
    _, port = await made.serve(Hello(DEPLOYMENT, 1, incarnation), OURS)
    anew = ShardAddress(1, "127.0.0.1", port, incarnation)
    return replace(made.map, epoch=2, shards=(made.map.shards[0], anew))


async def pull(router: Router, within_s: float = 60.0) -> LookupResult:
    offsets = np.arange(0, KEYS.size + 1, 1)
    asked = [Lookup(TABLE, Pooling.SUM, KEYS, offsets)]
    [result] = await router.pull(MODEL, VERSION, asked, deadline_s=time.monotonic() + within_s)
    return result


def is_ours(result: LookupResult) -> bool:
    return bool((result.values == OURS).all()) and result.lost == 0


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


STRANGERS = {
    "another deployment's shard 1": Hello("theirs", 1, "x"),
    "another deployment's shard 1 of an unlikely life": Hello("theirs", 1, "b"),
    "another shard of ours": Hello(DEPLOYMENT, 2, "x"),
    "a shard of ours that says another's life": Hello(DEPLOYMENT, 0, "b"),
    "another life of shard 1": Hello(DEPLOYMENT, 1, "x"),
    "an HTTP server": http,
    "silence": silence,
    "somebody who hangs up": hang_up,
}


async def take_port(made: Place, second: ShardServer, port: int, stranger: str) -> None:
    """End shard 1, and give its port to a stranger."""
    await second.close(grace_s=0.1)
    who = STRANGERS[stranger]
    if isinstance(who, Hello):
        await made.serve(who, THEIRS, port)
    else:
        await made.serve_bytes(who, port)


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_no_row_of_a_stranger_is_answered_and_a_newer_map_is_the_end_of_it(
    tables: dict[float, Path], stranger: str
) -> None:
    async with place(tables) as (made, second, port):
        router = made.router(OnUnavailable.ERROR)
        assert is_ours(await pull(router))
        await take_port(made, second, port, stranger)
        for _ in range(3):
            with pytest.raises((Unavailable, DeadlineExceeded)):
                await pull(router, 0.3)
        assert made.refreshes >= 1, "a newer map was asked for"
        made.newest = await moved(made)
        router.update(made.newest)
        assert is_ours(await pull(router))
        assert is_ours(await pull(router, 1.0))


@pytest.mark.parametrize("stranger", [name for name in STRANGERS if name != "silence"])
async def test_the_pull_that_meets_a_stranger_asks_for_the_map_and_is_answered(
    tables: dict[float, Path], stranger: str
) -> None:
    async with place(tables) as (made, second, port):
        router = made.router(OnUnavailable.ERROR)
        assert is_ours(await pull(router))
        made.newest = await moved(made)
        await take_port(made, second, port, stranger)
        assert is_ours(await pull(router))
        assert (router.epoch, made.refreshes, router.counters().failed) == (2, 1, 0)


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_what_a_strangers_keys_lose_is_said(tables: dict[float, Path], stranger: str) -> None:
    """By the table's policy: default vectors, which are zeros here, and counted."""
    async with place(tables) as (made, second, port):
        router = made.router(OnUnavailable.DEFAULT)
        await take_port(made, second, port, stranger)
        result = await pull(router)
        values = result.values[:, 0]
        assert set(values.tolist()) == {0.0, OURS}
        assert (values == 0.0).sum() == result.lost > 0


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_with_another_copy_nobody_waits_for_a_map(tables: dict[float, Path], stranger: str) -> None:
    """Even from a coordinator that hangs."""
    async with place(tables, copies=2) as (made, second, port):

        async def hang() -> ShardMap:
            made.refreshes += 1
            await asyncio.Event().wait()
            raise AssertionError

        made.refresh = hang  # type: ignore[method-assign]
        router = made.router(OnUnavailable.ERROR)
        assert is_ours(await pull(router))
        await take_port(made, second, port, stranger)
        for _ in range(20):
            assert is_ours(await pull(router, 5.0))
        assert router.counters().failed == 0
        assert made.refreshes <= 1


async def test_a_stranger_is_ejected_and_its_shards_next_life_on_that_port_is_not(tables: dict[float, Path]) -> None:
    async with place(tables, copies=2) as (made, second, port):
        router = made.router(OnUnavailable.ERROR)
        await second.close(grace_s=0.1)
        anew, _ = await made.serve(Hello(DEPLOYMENT, 1, "c"), OURS, port)
        while "ejected: [1]" not in repr(router):
            assert is_ours(await pull(router))
        assert made.map is not None
        there = ShardAddress(1, "127.0.0.1", port, "c")
        router.update(replace(made.map, epoch=2, shards=(made.map.shards[0], there)))
        assert "ejected: []" in repr(router)
        assert is_ours(await pull(router))
        assert anew.connections == 1


@pytest.mark.parametrize("error", [Unavailable("too much to do"), OtherContent("other content")], ids=["busy", "other"])
async def test_a_shard_that_answers_is_where_the_map_says(
    tables: dict[float, Path], monkeypatch: pytest.MonkeyPatch, error: RingpullError
) -> None:
    """Overload is not made worse by asking for maps, and no pull waits for one."""
    async with place(tables) as (made, _, _):
        router = made.router(OnUnavailable.ERROR)
        assert is_ours(await pull(router))
        real = Shard.pull

        def refusing(shard: Shard, request: PullRequest) -> PullReply:
            if shard.shard == 1:
                raise error
            return real(shard, request)

        monkeypatch.setattr(Shard, "pull", refusing)
        with pytest.raises(Unavailable):
            await pull(router)
        assert made.refreshes == 0
