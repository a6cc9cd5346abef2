"""Heads that share a port, and stop and come under load: what is in flight is answered, the others take over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ringpull.inference.client.client import AsyncClient
from ringpull.ps.errors import RingpullError, Unavailable
from tests.inference.served import CONFIG, ROWS, Served
from tests.inference.small_model import columns_of

pytestmark = pytest.mark.net

CHANNELS = 8
"""The kernel spreads them over both heads by chance: all are at one of them once in 128 runs."""


@pytest.fixture
async def heads() -> AsyncIterator[list[Served]]:
    """Two heads that share a port."""
    with ThreadPoolExecutor(1) as executor:
        config = replace(CONFIG, share_port=True)
        first = Served(executor, config)
        port = await first.server.start()
        second = Served(executor, replace(config, grpc_port=port))
        assert await second.server.start() == port
        heads = [first, second]
        for head in heads:
            head.target = f"127.0.0.1:{port}"
        yield heads
        for head in heads:
            head.router.gate.set()
            await head.server.stop(grace_s=0)
            await head.version.batcher.close(timeout_s=60)


class Load:
    """Calls side by side, each again as soon as it is answered."""

    def __init__(self, client: AsyncClient, side_by_side: int = 16) -> None:
        self._client = client
        self._callers = [asyncio.create_task(self._call_on()) for _ in range(side_by_side)]
        self._end = False
        self.right = 0
        self.failed: list[RingpullError] = []

    async def goes_on(self, answers: int = 100) -> None:
        """Wait for so many more right answers."""
        wanted = self.right + answers
        while self.right < wanted:
            await asyncio.sleep(0)

    async def end(self) -> None:
        self._end = True
        await asyncio.gather(*self._callers)

    async def _call_on(self) -> None:
        while not self._end:
            try:
                prediction = await self._client.predict("ranker", columns_of(ROWS), outputs=["input11"])
            except RingpullError as error:
                self.failed.append(error)
                continue
            assert prediction.outputs["input11"].tolist() == [[1.0, 2.0, 3.0]] * 3
            self.right += 1


@pytest.mark.parametrize("stopping", [0, 1], ids=["first", "second"])
async def test_nothing_is_lost_when_one_of_two_heads_stops(heads: list[Served], stopping: int) -> None:
    async with AsyncClient(heads[0].target, channels=CHANNELS, timeout_s=60) as client:
        load = Load(client)
        await load.goes_on()
        await heads[stopping].server.stop(grace_s=60)
        answered = heads[stopping].counts.requests
        await load.goes_on()
        await load.end()
    assert load.failed == []
    assert heads[stopping].counts.requests == answered, "it took calls after it had stopped"
    assert heads[stopping].counts.failed == 0


async def test_without_retries_a_call_is_answered_or_refused(heads: list[Served]) -> None:
    """Refused are those that came as the head stopped: a handful, each as Unavailable."""
    async with AsyncClient(heads[0].target, channels=CHANNELS, timeout_s=60, retries=0) as client:
        load = Load(client)
        await load.goes_on()
        await heads[0].server.stop(grace_s=60)
        await load.goes_on()
        await load.end()
    assert {type(error) for error in load.failed} <= {Unavailable}
    assert [head.counts.failed for head in heads] == [0, 0]


async def test_a_call_in_flight_is_answered_while_new_ones_go_to_the_other_head(heads: list[Served]) -> None:
    for head in heads:
        head.router.gate.clear()
    async with AsyncClient(heads[0].target, channels=1, timeout_s=60) as client:
        held = asyncio.create_task(client.predict("ranker", columns_of(ROWS)))
        while not any(head.counts.requests for head in heads):
            await asyncio.sleep(0)
        stopped, other = heads if heads[0].counts.requests else heads[::-1]
        other.router.gate.set()
        stopping = asyncio.create_task(stopped.server.stop(grace_s=60))
        while stopped.server.serving:
            await asyncio.sleep(0)
        answers = [await client.predict("ranker", columns_of(ROWS)) for _ in range(5)]
        assert not stopping.done()
        assert other.counts.requests >= 5
        stopped.router.gate.set()
        assert {answer.version for answer in [*answers, await held]} == {3}
        await stopping


async def test_a_head_that_comes_gets_its_part_of_clients_that_are_connected() -> None:
    """Their connections are renewed, which no call notices."""
    with ThreadPoolExecutor(1) as executor:
        config = replace(CONFIG, share_port=True, max_connection_age_s=0.1)
        first = Served(executor, config)
        port = await first.server.start()
        async with AsyncClient(f"127.0.0.1:{port}", channels=CHANNELS, timeout_s=60, retries=0) as client:
            load = Load(client)
            await load.goes_on()
            second = Served(executor, replace(config, grpc_port=port))
            await second.server.start()
            while not second.counts.requests:
                await load.goes_on()
            await load.end()
        for head in (first, second):
            await head.server.stop(grace_s=0)
            await head.version.batcher.close(timeout_s=60)
    assert load.failed == []
