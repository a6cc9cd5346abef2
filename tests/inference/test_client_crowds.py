"""More calls at once than a head lets wait at its door, and calls that it ends at their deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ringpull import AsyncClient, Client
from ringpull.inference.client.client import IN_FLIGHT
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.prediction import Prediction
from ringpull.ps.errors import DeadlineExceeded, InvalidInput
from tests.inference.served import CONFIG, ROWS, Served
from tests.inference.small_model import columns_of
from tests.inference.test_client_retries import Head
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.net

COLUMNS = columns_of(ROWS)


@pytest.mark.medium
async def test_more_calls_than_a_head_lets_wait_are_answered(served: Served) -> None:
    async with AsyncClient(served.target, timeout_s=PATIENCE_S) as client:
        answers = await asyncio.gather(*(client.predict("ranker", COLUMNS) for _ in range(500)))
    assert {answer.version for answer in answers} == {3}
    assert served.counts.requests == 500, "none was turned away first"


@pytest.mark.medium
async def test_so_are_those_of_as_many_threads(served: Served) -> None:
    def ask_all() -> list[Prediction]:
        with Client(served.target, timeout_s=PATIENCE_S) as client, ThreadPoolExecutor(300) as threads:
            return list(threads.map(lambda _: client.predict("ranker", COLUMNS), range(500)))

    assert {answer.version for answer in await asyncio.to_thread(ask_all)} == {3}
    assert served.counts.requests == 500


@pytest.mark.medium
@pytest.mark.parametrize("served_with", [replace(CONFIG, max_pending_requests=10)], ids=["10 may wait"])
async def test_who_is_turned_away_comes_back(served_with: HeadConfig) -> None:
    """As among many programs, each of which keeps to its own bound."""
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor, served_with)
        target = f"127.0.0.1:{await served.server.start()}"
        try:
            async with AsyncClient(target, timeout_s=PATIENCE_S) as client:
                answers = await asyncio.gather(*(client.predict("ranker", COLUMNS) for _ in range(300)))
        finally:
            await served.server.stop(grace_s=0)
            await served.version.batcher.close(timeout_s=60)
    assert {answer.version for answer in answers} == {3}


@pytest.fixture
async def head() -> Head:
    head = Head()
    await head.server.start()
    head.held.clear()
    return head


async def out_at(head: Head, count: int) -> None:
    while len(head.peers) < count:
        await asyncio.sleep(0)


async def test_a_call_that_waits_for_its_turn_keeps_its_deadline(head: Head) -> None:
    async with AsyncClient(head.target, timeout_s=PATIENCE_S, channels=1) as client:
        first = [asyncio.create_task(client.predict("ranker", {"item": [1]})) for _ in range(IN_FLIGHT)]
        await out_at(head, IN_FLIGHT)
        with pytest.raises(DeadlineExceeded, match="while other calls of this client were in flight"):
            await client.predict("ranker", {"item": [1]}, timeout_s=0.01)
        waiting = asyncio.create_task(client.predict("ranker", {"item": [1]}))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(head.peers) == IN_FLIGHT
        head.held.set()
        await asyncio.gather(*first)
        assert (await client.predict("ranker", {"item": [1]})).version == 7, "all turns were given back"
    await head.server.stop(None)


async def test_so_does_one_of_a_thread(head: Head) -> None:
    with (
        Client(head.target, timeout_s=PATIENCE_S, channels=1) as client,
        ThreadPoolExecutor(IN_FLIGHT) as threads,
    ):
        ask: Callable[..., Prediction] = client.predict
        first = [threads.submit(ask, "ranker", {"item": [1]}) for _ in range(IN_FLIGHT)]
        await out_at(head, IN_FLIGHT)
        with pytest.raises(DeadlineExceeded, match="while other calls of this client were in flight"):
            await asyncio.to_thread(ask, "ranker", {"item": [1]}, timeout_s=0.01)
        assert len(head.peers) == IN_FLIGHT
        head.held.set()
        await asyncio.gather(*map(asyncio.wrap_future, first))
        assert (await asyncio.to_thread(ask, "ranker", {"item": [1]})).version == 7
    await head.server.stop(None)


async def test_a_call_takes_a_channel_that_has_a_free_turn(head: Head) -> None:
    other = Head()
    await other.server.start()
    async with AsyncClient([head.target, other.target], timeout_s=PATIENCE_S, channels=1, in_flight=1) as client:
        held = asyncio.create_task(client.predict("ranker", {"item": [1]}))
        while not head.peers:  # whichever came first
            await client.predict("ranker", {"item": [1]}) if other.peers else await asyncio.sleep(0)
        for _ in range(4):
            assert (await client.predict("ranker", {"item": [1]})).version == 7, "each second turn is the held one's"
        assert len(head.peers) == 1
        head.held.set()
        await held
    await head.server.stop(None)
    await other.server.stop(None)


async def test_so_does_one_of_a_thread_and_in_flight_may_be_another_number(head: Head) -> None:
    other = Head()
    await other.server.start()
    with (
        Client([head.target, other.target], timeout_s=PATIENCE_S, channels=1, in_flight=2) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        ask: Callable[..., Prediction] = client.predict
        held = []
        while len(head.peers) < 2:
            held.append(threads.submit(ask, "ranker", {"item": [1]}))
            await asyncio.sleep(0.001)
        for _ in range(4):
            assert (await asyncio.to_thread(ask, "ranker", {"item": [1]})).version == 7
        assert len(head.peers) == 2
        head.held.set()
        await asyncio.gather(*map(asyncio.wrap_future, held))
    await head.server.stop(None)
    await other.server.stop(None)


def test_in_flight_is_a_number() -> None:
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(InvalidInput, match="in_flight"):
            Client("localhost", in_flight=wrong)  # type: ignore[arg-type]
