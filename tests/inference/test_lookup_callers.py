"""Who may ask for rows, and how much: roles, quotas, admission, deadlines, and what the log tells."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.metrics import call_log
from ringpull.inference.head.metrics.call_tally import model_counts
from ringpull.inference.head.request.rows_by_key import RowsRequest
from ringpull.inference.head.tokens.entries import parse_tokens
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.head.tokens.tokens import Tokens
from ringpull.ps.errors import DeadlineExceeded, Forbidden, LimitExceeded, NotFound, Unauthenticated, Unavailable
from tests.inference.served import Served
from tests.inference.small_model import DIM

pytestmark = pytest.mark.net

WEB, READER, SMALL = "w" * 32, "r" * 32, "s" * 32
TOKENS = f"""
[[token]]
name = "web"
token = "{WEB}"
roles = ["predict"]

[[token]]
name = "reader"
token = "{READER}"
roles = ["read"]

[[token]]
name = "small"
token = "{SMALL}"
roles = ["predict"]
rows_per_s = 10
"""


@pytest.fixture
async def guarded() -> AsyncIterator[Served]:
    access = Tokens(TokenSettings(entries=parse_tokens(TOKENS, "here")))
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor, access=access)
        served.target = f"127.0.0.1:{await served.server.start()}"
        yield served
        await served.server.stop(grace_s=0)
        await served.version.close(timeout_s=60)


async def ask(served: Served, token: str | None, keys: int = 2) -> None:
    async with AsyncClient(served.target, timeout_s=60, retries=0, token=token) as client:
        await client.lookup("ranker", "users", np.arange(keys))


async def test_rows_are_for_whoever_may_predict(guarded: Served) -> None:
    await ask(guarded, WEB)
    with pytest.raises(Forbidden, match="predict"):
        await ask(guarded, READER)
    with pytest.raises(Unauthenticated):
        await ask(guarded, "x" * 32)
    assert guarded.calls.lookups["ranker", "OK"] == 1
    assert guarded.calls.callers["web", "OK"] == 1


async def test_a_key_is_a_row_of_a_quota(guarded: Served) -> None:
    for _ in range(20):  # some may come at once
        try:
            await ask(guarded, SMALL, keys=10)
        except LimitExceeded as exc:
            error = exc
            break
    assert error.retry_after_s is not None
    assert guarded.calls.over_quota["small", "rows_per_s"] == 1


async def test_a_deadline_ends_a_look_up(client: AsyncClient, served: Served) -> None:
    served.router.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await client.lookup("ranker", "users", [1], timeout_s=0.05)
    served.router.gate.set()
    async with asyncio.timeout(60):
        while served.predictor.admission.in_flight_bytes:
            await asyncio.sleep(0.01)


async def test_replies_take_room_while_they_are_made(served: Served) -> None:
    """As many as there is room for, however short their requests are."""
    config = HeadConfig(max_in_flight_bytes=10_000, max_message_bytes=100_000)
    with ThreadPoolExecutor(1) as executor:
        crowded = Served(executor, config)
        crowded.target = f"127.0.0.1:{await crowded.server.start()}"
        async with AsyncClient(crowded.target, timeout_s=60, retries=0) as client:
            crowded.router.gate.clear()
            keys = np.arange(300)  # of 8 bytes each, and rows of 12
            calls = [asyncio.create_task(client.lookup("ranker", "users", keys)) for _ in range(4)]
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            with pytest.raises(LimitExceeded, match="max_in_flight_bytes is 10000"):
                await done.pop()
            crowded.router.gate.set()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            served_rows = [each.rows for each in answers if not isinstance(each, BaseException)]
            assert served_rows
            assert all(rows.shape == (300, DIM) for rows in served_rows)
        assert crowded.predictor.admission.in_flight_bytes == 0
        await crowded.server.stop(grace_s=0)
        await crowded.version.close(timeout_s=60)


async def test_the_log_says_that_it_was_a_look_up(
    client: AsyncClient, caplog: pytest.LogCaptureFixture, served: Served
) -> None:
    caplog.set_level(logging.DEBUG, call_log.logger.name)
    await client.lookup("ranker", "users", [1], request_id="r-1")
    with pytest.raises(NotFound):
        await client.lookup("ranker", "nothing", [1], request_id="r-2")
    told = {(each.getMessage(), each.request_id) for each in caplog.records if hasattr(each, "request_id")}
    assert told == {("lookup answered", "r-1"), ("lookup failed", "r-2")}


async def test_what_could_not_be_answered_goes_out_again(served: Served) -> None:
    served.router.error = Unavailable("a shard is away")

    async def heal() -> None:
        while served.router.pulls_begun < 2:
            await asyncio.sleep(0.001)
        served.router.error = None

    healing = asyncio.create_task(heal())
    async with AsyncClient(served.target, timeout_s=60, retries=100) as client:
        rows, _ = await client.lookup("ranker", "users", [1, 2])
    await healing
    assert rows.shape == (2, DIM)
    assert served.router.pulls_begun > 2


async def test_a_call_of_a_version_that_goes_is_counted_for_it(served: Served) -> None:
    served.predictor._watch.tally.loaded("ranker", 3)
    with served.predictor.open(60, verb="lookup") as call:
        call.received(8)
        await call.rows(RowsRequest(model="ranker", table="users", keys=np.arange(5, dtype=np.uint64)))
    counts = model_counts(served.predictor._watch.tally.totals())["ranker", 3]
    assert (counts.calls, counts.rows, counts.failed) == (1, 5, 0)
