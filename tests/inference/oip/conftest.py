"""A served small model, and a way to ask it by the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.inference.http_served import HttpServed, http_served
from tests.inference.oip.oip_served import OipServed


@pytest.fixture
async def oip() -> AsyncIterator[OipServed]:
    with ThreadPoolExecutor(1) as executor:
        served = OipServed(executor)
        await served.start()
        yield served
        await served.stop()


@pytest.fixture
async def http(oip: OipServed) -> AsyncIterator[HttpServed]:
    async with http_served(oip, parts=oip.parts) as http:
        yield http
