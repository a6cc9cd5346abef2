"""Numbers that clients are given: what makes sense works, however large, and what makes none is refused by its name."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from ringpull import AsyncClient, Client
from ringpull.inference.client.numbers import MAX_TIMEOUT_S, timeout, whole
from ringpull.inference.client.operations import GetStatus, OperationsClient
from ringpull.ps.errors import DeadlineExceeded, InvalidInput
from tests.guarded import GuardedHead, guarded_head

HUGE = [math.inf, 1e8, 1e9, 9e9, 1e10, 1e18, 1e300, 10**400, np.float32("inf"), np.float64(1e10), np.int64(2**62)]
NO_TIME = [math.nan, np.float32("nan"), True, np.True_, "5", b"5", [5], 1j, Decimal(5), {}]

ITEM = {"item": [1]}


@pytest.fixture(scope="module")
def head() -> Iterator[GuardedHead]:
    with guarded_head(token="") as head:
        yield head


@pytest.mark.net
@pytest.mark.parametrize("timeout_s", HUGE, ids=lambda each: f"{each!r:.20}")
async def test_a_very_long_time_is_no_deadline(head: GuardedHead, timeout_s: Any) -> None:
    async with AsyncClient(head.target, timeout_s=timeout_s) as of_asyncio:
        assert (await of_asyncio.predict("ranker", ITEM)).version == 3
    with (
        Client(head.target, timeout_s=timeout_s) as made_so,
        Client(head.target) as asked_so,
        OperationsClient(head.target, timeout_s=timeout_s) as operations,
    ):
        assert made_so.predict("ranker", ITEM).version == 3
        assert asked_so.predict("ranker", ITEM, timeout_s=timeout_s).version == 3
        assert asked_so.status(timeout_s=timeout_s).head == head.target
        assert operations.call(GetStatus()).requests == 100
        assert operations.call(GetStatus(), within_s=timeout_s).requests == 100


@pytest.mark.parametrize("timeout_s", [*NO_TIME, None], ids=repr)
async def test_what_is_no_time_is_refused(timeout_s: Any) -> None:
    for kind in (Client, AsyncClient, OperationsClient):
        with pytest.raises(InvalidInput, match=r"timeout_s is .*; it must be"):
            kind("127.0.0.1:1", timeout_s=timeout_s)
    if timeout_s is None:
        return  # of a call: the client's own
    with pytest.raises(InvalidInput, match=r"timeout_s is .*; it must be"), Client("127.0.0.1:1") as client:
        client.predict("ranker", ITEM, timeout_s=timeout_s)
    with pytest.raises(InvalidInput, match=r"timeout_s is .*; it must be"):
        async with AsyncClient("127.0.0.1:1") as client:
            await client.predict("ranker", ITEM, timeout_s=timeout_s)
    with pytest.raises(InvalidInput, match=r"within_s is .*; it must be"), OperationsClient("127.0.0.1:1") as client:
        client.call(GetStatus(), within_s=timeout_s)


@pytest.mark.parametrize("timeout_s", [0, -1, -math.inf, -(10**400), np.int8(0), np.float16(-1)])
def test_no_time_at_all_is_a_deadline_that_has_passed(timeout_s: Any) -> None:
    with pytest.raises(DeadlineExceeded, match="no time left"), Client("127.0.0.1:1") as client:
        client.predict("ranker", ITEM, timeout_s=timeout_s)


@pytest.mark.net
@pytest.mark.parametrize("kind", [np.int8, np.uint64, np.float16, np.float32, np.float64, int, float])
async def test_any_number_is_a_time(head: GuardedHead, kind: type) -> None:
    with Client(head.target, timeout_s=kind(30), retries=np.int8(1), channels=np.uint16(1)) as client:
        assert (await asyncio.to_thread(client.predict, "ranker", ITEM, timeout_s=kind(20))).version == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.0, 1.5, True, np.True_, "2", None, -1, 10**30, np.float64(2)])
@pytest.mark.parametrize("name", ["retries", "channels"])
async def test_what_is_no_count_is_refused(name: str, value: Any) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidInput, match=rf"^{name} is .*; it must be"):
            kind("127.0.0.1:1", **{name: value})


def test_numbers_too_long_to_be_written_are_refused_as_well() -> None:
    with pytest.raises(InvalidInput, match="retries is an int of 33220 bits"):
        whole("retries", 10**10_000, 0, 9)
    assert timeout("timeout_s", 10**10_000) == MAX_TIMEOUT_S
