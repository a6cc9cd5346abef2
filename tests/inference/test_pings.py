"""Keepalive pings, as bytes of HTTP/2: gRPC's own clients send none more often than every 10 s."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

import pytest

from ringpull.inference.head.frontends.grpc import server as server_module
from tests.inference.served import Served

pytestmark = pytest.mark.net

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS: Final = b"\0\0\0\x04\0" + bytes(4)
PING: Final = b"\0\0\x08\x06\0" + bytes(4) + b"ringpull"
PING_ANSWER, GO_AWAY = (6, 1), (7, 0)
PINGS: Final = 6
"""More than the strikes that gRPC's servers allow, which are two."""

SHORT_S: Final = 0.02


@asynccontextmanager
async def connected(served: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which nothing was ever called."""
    host, port = served.target.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(PREFACE + SETTINGS)
        yield reader, writer
    finally:
        writer.close()


async def next_answer(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Type and flags of the next frame that answers a ping, or ends the connection."""
    while True:
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3]))
        if (frame := (head[3], head[4])) in (PING_ANSWER, GO_AWAY):
            return frame


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """One at which an interval of milliseconds stands for the real one."""
    monkeypatch.setattr(server_module, "MIN_PING_INTERVAL_S", SHORT_S, raising=False)
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor)
        served.target = f"127.0.0.1:{await served.server.start()}"
        yield served
        await served.server.stop(grace_s=0)
        await served.version.batcher.close(timeout_s=60)


async def test_an_idle_client_may_ping_as_often_as_grpcs_do(served: Served) -> None:
    async with connected(served) as (reader, writer):
        answers = []
        for _ in range(PINGS):
            writer.write(PING)
            answers.append(await next_answer(reader))
            await asyncio.sleep(1.5 * SHORT_S)  # from the answer on: when the ping came in is not known here
    assert answers == [PING_ANSWER] * PINGS


async def test_a_flood_of_pings_is_still_ended(served: Served) -> None:
    async with connected(served) as (reader, writer):
        writer.write(PING * 1000)
        while (answer := await next_answer(reader)) == PING_ANSWER:
            pass
    assert answer == GO_AWAY


def test_the_interval_leaves_room_for_grpcs_shortest() -> None:
    assert server_module.MIN_PING_INTERVAL_S <= 10.0 / 2
