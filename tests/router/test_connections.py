"""Connections to shards: shared by who needs them at once, and rebuilt without a storm."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import pairwise

import pytest

from ringpull.ps.errors import ConnectionLost, Stranger, Unavailable
from ringpull.ps.wire.messages import ShardStatistics, StatisticsRequest
from ringpull.router.backoff import Backoff
from ringpull.router.connections import Connections, NotReached
from ringpull.router.shard_map import ShardAddress
from tests.router.virtual_time import run, virtual_now

ADDRESS = ShardAddress(0, "nowhere", 1)


class Flaky:
    """A shard that answers, or breaks connections, or refuses them."""

    def __init__(self) -> None:
        self.accepts = True
        self.answers = True
        self.strange = False
        self.attempts_s: list[float] = []
        self.closed = False

    async def connect(self, address: ShardAddress) -> Flaky:
        self.attempts_s.append(virtual_now())
        if not self.accepts:
            raise ConnectionRefusedError("refused")
        self.closed = False
        return self

    async def request(self, message: StatisticsRequest, *, deadline_s: float) -> ShardStatistics:
        if self.strange:
            self.closed = True
            raise Stranger("it is another one")
        if not self.answers:
            self.closed = True
            raise ConnectionLost("broke off")
        return ShardStatistics(0, 1, 4, 0, 0, ())

    async def close(self) -> None:
        self.closed = True


def connections_to(shard: Flaky) -> Connections:
    made = Connections(shard.connect, Backoff(0.05, 2.0, random.Random(3)), clock=virtual_now)
    made.want([ADDRESS])
    return made


async def ask(connections: Connections) -> None:
    await connections.ask(ADDRESS, StatisticsRequest(), deadline_s=virtual_now() + 10)


async def asked_for(connections: Connections, seconds: float) -> int:
    """Ask every millisecond, as pulls would; return how often that failed."""
    failed = 0
    for _ in range(int(seconds * 1000)):
        try:
            await ask(connections)
        except Unavailable:
            failed += 1
        await asyncio.sleep(0.001)
    return failed


def test_waits_grow_to_a_bound_and_are_not_all_alike():
    waits = [[Backoff(0.05, 2.0, random.Random(seed)).wait_s(failures) for failures in range(1, 12)] for seed in (1, 2)]
    assert waits[0] != waits[1]
    for failures, wait_s in enumerate(waits[0], 1):
        whole_s = min(2.0, 0.05 * 2 ** (failures - 1))
        assert whole_s / 2 <= wait_s <= whole_s
    assert Backoff(0.05, 2.0, random.Random(1)).wait_s(10**9) <= 2.0


@pytest.mark.medium
@pytest.mark.parametrize("accepts", [False, True])
def test_a_shard_that_is_away_is_not_stormed(accepts):
    """Refused, or opened and broken off before an answer: requests meanwhile fail at once, attempts get rarer."""

    async def main() -> None:
        shard = Flaky()
        connections = connections_to(shard)
        await ask(connections)
        shard.accepts, shard.answers, shard.closed = accepts, False, True
        assert await asked_for(connections, 20.0) == 20_000
        attempts_s = shard.attempts_s[1:]
        assert 10 <= len(attempts_s) <= 30
        gaps_s = [after - before for before, after in pairwise(attempts_s)]
        assert min(gaps_s) >= 0.025
        assert max(gaps_s) <= 2.01
        assert min(gaps_s[-5:]) >= 0.99
        shard.accepts = shard.answers = True
        assert await asked_for(connections, 5.0) <= 2000
        assert len(shard.attempts_s) == len(attempts_s) + 2
        await connections.close()

    run(main())


def test_a_connection_that_has_answered_is_replaced_at_once():
    async def main() -> None:
        shard = Flaky()
        connections = connections_to(shard)
        for _ in range(5):
            await ask(connections)
            shard.closed = True
        assert len(shard.attempts_s) == 5
        assert await asked_for(connections, 0.1) == 0
        await connections.drop(ADDRESS)
        assert shard.closed
        await ask(connections)
        await connections.close()

    run(main())


def test_where_a_stranger_listened_the_next_map_is_tried_at_once():
    """Whom it means may have been there all the while; what the map before meant is no reason to wait."""

    async def main() -> None:
        shard = Flaky()
        connections = connections_to(shard)
        shard.strange = True
        for _ in range(5):
            with pytest.raises(Unavailable, match="another"):
                await ask(connections)
        shard.strange = False
        connections.want([ADDRESS])
        await ask(connections)

    run(main())


def test_who_must_wait_is_told_why():
    async def main() -> None:
        shard = Flaky()
        shard.accepts = False
        connections = connections_to(shard)
        with pytest.raises(Unavailable, match="cannot be reached: refused"):
            await ask(connections)
        with pytest.raises(Unavailable, match=r"shard 0 at nowhere:1 is not tried again for \d+ ms: refused"):
            await ask(connections)
        assert connections.attempt_in_s(ADDRESS) > 0
        connections.want([])
        await connections.close()
        assert connections.attempt_in_s(ADDRESS) == 0

    run(main())


async def test_requests_that_shared_a_failed_attempt_get_an_error_each():
    """One exception object raised in several tasks would gather the tracebacks of all."""

    async def connect(address):
        raise Unavailable("nobody there")

    connections = Connections(connect, Backoff(0.05, 2.0, random.Random(3)))
    deadline_s = time.monotonic() + 60
    asked = [connections.ask(ADDRESS, StatisticsRequest(), deadline_s=deadline_s) for _ in range(3)]
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert [(type(error), str(error)) for error in errors] == [(NotReached, "nobody there")] * 3
    assert len({id(error) for error in errors}) == 3
