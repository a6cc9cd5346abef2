"""Connections to shards that several requests wait for at once."""

from __future__ import annotations

import asyncio
import time

from ps.errors import Unavailable
from ps.wire.messages import StatisticsRequest
from router.fanout import Connections
from router.shard_map import ShardAddress


async def test_requests_that_shared_a_failed_attempt_get_an_error_each():
    """One exception object raised in several tasks would gather the tracebacks of all."""

    async def connect(address):
        raise Unavailable("nobody there")

    connections = Connections(connect)
    address, deadline_s = ShardAddress(0, "nowhere", 1), time.monotonic() + 60
    asked = [connections.ask(address, StatisticsRequest(), deadline_s=deadline_s) for _ in range(3)]
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert [(type(error), str(error)) for error in errors] == [(Unavailable, "nobody there")] * 3
    assert len({id(error) for error in errors}) == 3
