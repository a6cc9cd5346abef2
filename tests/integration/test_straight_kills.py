"""Straight pushes while the shard is killed with -9: nothing acknowledged is lost, and nothing is twice.

As `tests.integration.test_pushes`, of clients: pushers push to the shard itself, and through a head where that fails.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull import AsyncClient
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.model.manifest import Manifest, TableEntry
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.schema.schema import Schema
from ringpull.ps.store.base import Base
from tests.inference.served import Served
from tests.integration.test_pushes import DIM, KEYS, PUSHES, REMOVED, WRITERS, KilledShard, Oracle, key_of, pulled
from tests.integration.test_straight_pushes import counted
from tests.patience import PATIENCE_S
from tests.ps.live.pushing import LINEAGE
from tests.ps.tables import MODEL, VERSION

pytestmark = [pytest.mark.net, pytest.mark.medium]

KILLS = 3


async def push_until(client: AsyncClient, oracle: Oracle, writer: int, over: Callable[[], bool]) -> None:
    drawn, number = random.Random(writer), 0
    async with client.pusher(MODEL, writer=f"writer {writer}", timeout_s=PATIENCE_S) as pusher:
        while not over():
            number += 1
            keys = np.unique(np.array([drawn.randrange(KEYS) for _ in range(drawn.choice([1, 20, 300]))]))
            oracle.sent[writer, keys] = number
            rows = None if number % REMOVED == 0 else np.full((len(keys), DIM), number, np.float32)
            await pusher.push("users", key_of(writer, keys), rows, remove=rows is None)
            done = await pusher.flush()
            assert done.rows + done.repeated == len(keys)
            oracle.acknowledged[writer, keys] = number
            oracle.pushes += 1


def served_by(executor: ThreadPoolExecutor, shard: KilledShard) -> Served:
    """A head over the shard."""
    entry = TableEntry(spec=Base.open(shard.table.folder).spec, path="x", rows=100, bytes=1)
    manifest = Manifest(model=MODEL, version=VERSION, created="now", tables=(entry,), identity=f"{LINEAGE:016x}")
    loaded = LoadedVersion(Path(f"{MODEL}/{VERSION}"), manifest, Schema.without_features(), None)
    return Served(executor, HeadConfig(), loaded=loaded, live=("users",))


async def test_killed_again_and_again_a_shard_has_lost_and_doubled_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringpull.inference.client.straight_ways.PAUSE_S", 0.02)
    shard = KilledShard(tmp_path, 1 << 30)
    oracle, router, default = Oracle(), shard.router(), shard.table.reference.default
    drawn, over, loop = random.Random(1), False, asyncio.get_running_loop()

    async def pull_on() -> None:
        while not over:
            await pulled(router, oracle, default)
            await asyncio.sleep(0.005)

    with ThreadPoolExecutor(1) as executor:
        served = served_by(executor, shard)
        head: Any = served.router
        head.push, head.map = router.push, shard.map
        target = f"127.0.0.1:{await served.server.start()}"
        try:
            async with AsyncClient(target) as client:
                through = counted(client)
                writing = [push_until(client, oracle, writer, lambda: over) for writer in range(WRITERS)]
                tasks = [asyncio.ensure_future(each) for each in [*writing, pull_on()]]
                for round_number in range(KILLS + 1):
                    # Enough of them straight, so that some are on the way when it is killed.
                    due, past = oracle.pushes + PUSHES, oracle.pushes - len(through) + PUSHES
                    while oracle.pushes < due or oracle.pushes - len(through) < past:
                        await asyncio.sleep(drawn.uniform(0.01, 0.05))
                        assert not any(task.done() for task in tasks)
                    if round_number < KILLS:
                        shard.kill()
                        await loop.run_in_executor(None, shard.start)
                        head.map = shard.map
                over = True
                await asyncio.gather(*tasks)
                await pulled(router, oracle, default, must=True)
                assert (oracle.acknowledged == oracle.sent).all()
                assert len(through) >= KILLS
        finally:
            over = True
            shard.kill()
            await router.close()
            await served.server.stop(grace_s=0)
            await served.version.close(timeout_s=60)
    assert oracle.pulls > KILLS
