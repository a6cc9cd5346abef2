"""Who may ask for the rows with the largest scores, and how much; deadlines, and versions that go."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ringpull.inference.client.client import AsyncClient, Client
from ringpull.inference.head.tokens.entries import parse_tokens
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.head.tokens.tokens import Tokens
from ringpull.inference.model.manifest import TableEntry
from ringpull.ps.errors import (
    DeadlineExceeded,
    Forbidden,
    LimitExceeded,
    NotFound,
    Unavailable,
)
from ringpull.ps.spec import KeyType, TableSpec
from tests.inference.served import Served
from tests.inference.small_model import DIM
from tests.inference.top_k_cases import QUERIES, check, expected, keyed_by

pytestmark = pytest.mark.net

# -- callers, deadlines, versions --------------------------------------------------------------------------------------


SMALL = "s" * 32
TOKENS = f"""
[[token]]
name = "small"
token = "{SMALL}"
roles = ["predict"]
rows_per_s = 40

[[token]]
name = "reader"
token = "{"r" * 32}"
roles = ["read"]
"""


async def test_every_row_that_is_looked_at_is_one_of_a_quota() -> None:
    access = Tokens(TokenSettings(entries=parse_tokens(TOKENS, "here")))
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor, access=access)
        served.target = f"127.0.0.1:{await served.server.start()}"
        async with AsyncClient(served.target, timeout_s=60, retries=0, token=SMALL) as client:
            await client.top_k("ranker", "users", QUERIES)  # 4 times 12 rows
            with pytest.raises(LimitExceeded, match="rows_per_s is 40") as raised:
                await client.top_k("ranker", "users", QUERIES[0])
            assert raised.value.retry_after_s is not None
        async with AsyncClient(served.target, timeout_s=60, retries=0, token="r" * 32) as client:
            with pytest.raises(Forbidden, match="predict"):
                await client.top_k("ranker", "users", QUERIES)
        assert served.calls.callers["small", "OK"] == 1
        assert served.calls.top_ks["", "PERMISSION_DENIED"] == 1
        await served.server.stop(grace_s=0)
        await served.version.close(timeout_s=60)


async def test_work_is_counted_by_rows_and_bytes_of_replies_take_room(served: Served, client: AsyncClient) -> None:
    table = TableSpec(name="users", dim=DIM)
    served.version.rows._tables["users"] = TableEntry(spec=table, path="users", rows=10**9, bytes=1)
    served.router.gate.clear()
    served.router.shards = 64
    asked = asyncio.create_task(client.top_k("ranker", "users", QUERIES, 100))
    while not served.router.pulls_begun:
        await asyncio.sleep(0)
    admission = served.predictor.admission
    assert admission._rate.idle, "predictions do not wait for it"
    # Rows are read once, whatever the number of queries.
    assert admission.scans._rate.in_flight == pytest.approx(10**9 * (4 * DIM + 4 * DIM / 2) / 512, rel=0.001)
    assert admission.in_flight_bytes > len(QUERIES) * 100 * (12 + 64 * 32), "all shards answer with as many rows each"
    served.router.gate.set()
    await asked
    assert (admission.scans._rate.in_flight, admission.in_flight_bytes) == (0, 0)


async def test_a_deadline_ends_it_and_errors_of_shards_are_told(client: AsyncClient, served: Served) -> None:
    served.router.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await client.top_k("ranker", "users", QUERIES, timeout_s=0.05)
    served.router.gate.set()
    await client.top_k("ranker", "users", QUERIES)
    served.router.error = Unavailable("table users: no live shard")
    with pytest.raises(Unavailable, match="table users: no live shard"):
        await client.top_k("ranker", "users", QUERIES)
    assert served.calls.top_ks["ranker", "UNAVAILABLE"] == 1


async def test_a_version_waits_for_its_answers_before_it_goes(served: Served, client: AsyncClient) -> None:
    async with keyed_by(served, KeyType.INT64, np.array([1, 2])) as version:
        served.router.gate.clear()
        asked = asyncio.create_task(client.top_k("feed", "t", like=[1]))
        while not served.router.pulls_begun:
            await asyncio.sleep(0)
        # Another version is live from now on, this one goes: the answer is of one version, query and rows.
        served.catalog.show({"ranker": 3}, [("ranker", 3)])
        closing = asyncio.create_task(version.close(timeout_s=60))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not closing.done()
        served.router.gate.set()
        answer = await asked
        assert (answer.version, answer.items()) == (1, [[(2, 3.0)]])
        await closing
        with pytest.raises(NotFound, match="feed"):
            await client.top_k("feed", "t", like=[1])


async def test_threads_ask_the_same(served: Served) -> None:
    with Client(served.target, timeout_s=60, retries=0) as client:
        answer = await asyncio.to_thread(client.top_k, "ranker", "users", QUERIES, 3)
    check(answer, expected("users", QUERIES, 3))
