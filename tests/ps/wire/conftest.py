"""Every test of the wire runs on uvloop, which serves, and on asyncio's own loop, which must behave alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
import uvloop

from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads
from tests.ps.wire.fake_shard import FakeShard


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@dataclass
class Served:
    """A fake shard behind a real server, and connections to it that are closed with the test."""

    shard: FakeShard
    server: ShardServer
    host: str
    port: int
    connections: list[Connection] = field(default_factory=list)

    async def connect(self) -> Connection:
        connection = await Connection.connect(self.host, self.port)
        self.connections.append(connection)
        return connection


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    shard = FakeShard()
    with LookupThreads(2) as threads:
        server = ShardServer(shard, threads)
        host, port = await server.start()
        everything = Served(shard, server, host, port)
        yield everything
        shard.gate.set()
        for connection in everything.connections:
            await connection.close()
        await server.close()
