"""A served small model, and a way to ask it as TensorFlow Serving is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ringpull.inference.client.client import AsyncClient
from tests.inference.tfs.tfs_served import TfsServed


@pytest.fixture
async def tfs() -> AsyncIterator[TfsServed]:
    with ThreadPoolExecutor(1) as executor:
        served = TfsServed(executor)
        await served.start()
        yield served
        await served.stop()


@pytest.fixture
async def own_client(tfs: TfsServed) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(tfs.target, timeout_s=60, retries=0) as client:
        yield client
