"""A served small model and a client of it, for the tests that ask for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from inference.client.client import AsyncClient
from tests.inference.served import Served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor)
        port = await served.server.start()
        served.target = f"127.0.0.1:{port}"
        yield served
        served.router.gate.set()
        await served.server.stop(grace_s=0)
        await served.version.batcher.close(timeout_s=60)


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(served.target, timeout_s=60, retries=0) as client:
        yield client
