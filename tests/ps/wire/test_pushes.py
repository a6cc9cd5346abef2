"""Pushes at a shard's server: answered whenever they are durable, bounded by themselves, and in no pull's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from ringpull.ps.errors import StaleNumber, Unavailable, UnmetCondition
from ringpull.ps.wire import server as server_module
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.loans import Loan
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads
from tests.ps.wire.fake_shard import FakeShard, pull_of, soon


def push_of(*keys: int, table: str = "user") -> PushRequest:
    return PushRequest("ranker", table, 1, 9, 4, 7, True, np.array(keys, np.uint64))


class HeldPushes:
    """Answers pushes when it is told to."""

    def __init__(self) -> None:
        self.held: list[tuple[PushRequest, Callable[[PushReply | Exception], None]]] = []

    def push(self, request: PushRequest, deadline_s: float, answer: Callable[[PushReply | Exception], None]) -> None:
        self.held.append((request, answer))

    def borrow(self, loan: Loan) -> bool:
        return False

    def answer(self) -> None:
        for request, answer in self.held:
            size = len(request.positions)
            answer(StaleNumber("too late") if request.table == "stale" else PushReply(9, size, 0, 0))
        self.held.clear()


async def served(pushes: HeldPushes | None, run: Callable[[Connection], object]) -> None:
    with LookupThreads(1) as threads:
        server = ShardServer(FakeShard(), threads, pushes=pushes)
        connection = await Connection.connect(*await server.start())
        try:
            await run(connection)  # type: ignore[misc]
        finally:
            await connection.close()
            await server.close()


def test_a_push_is_answered_when_the_shard_says_so_and_pulls_pass_it() -> None:
    pushes = HeldPushes()

    async def run(connection: Connection) -> None:
        asked = [
            asyncio.create_task(connection.request(each, deadline_s=soon()))
            for each in (push_of(1, 2), push_of(3, table="stale"))
        ]
        while len(pushes.held) < 2:
            await asyncio.sleep(0)
        await connection.request(pull_of(5), deadline_s=soon())
        assert not any(each.done() for each in asked)
        pushes.answer()
        assert await asked[0] == PushReply(9, 2, 0, 0)
        with pytest.raises(StaleNumber, match="too late"):
            await asked[1]

    asyncio.run(served(pushes, run))


def test_pushes_over_their_limit_are_refused_and_pulls_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_PUSH_BYTES", 24)
    pushes = HeldPushes()

    async def run(connection: Connection) -> None:
        large = asyncio.create_task(connection.request(push_of(1, 2, 3, 4), deadline_s=soon()))  # alone it is let in
        while not pushes.held:
            await asyncio.sleep(0)
        with pytest.raises(Unavailable, match=r"32 bytes in hand, and this one has 8; 24 are the most"):
            await connection.request(push_of(5), deadline_s=soon())
        await connection.request(pull_of(5), deadline_s=soon())
        pushes.answer()
        await large
        next_one = asyncio.create_task(connection.request(push_of(5), deadline_s=soon()))
        while not pushes.held:
            await asyncio.sleep(0)
        pushes.answer()
        await next_one

    asyncio.run(served(pushes, run))


def test_a_shard_without_live_tables_says_so() -> None:
    async def run(connection: Connection) -> None:
        with pytest.raises(UnmetCondition, match="takes no pushes"):
            await connection.request(push_of(5), deadline_s=soon())

    asyncio.run(served(None, run))
