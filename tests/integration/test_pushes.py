"""Pushes and pulls at once over TCP, while the shard is killed with -9: nothing acknowledged is lost, nothing is twice.

Each key belongs to one writer, whose pushes to it carry larger and larger numbers. So every pull of a key has to show a
number from the last one that was acknowledged before it began up to the last one that was sent before it ended; an old
push that applied late, or twice, would show as a number that is too small.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import RingpullError
from ringpull.ps.ring import Ring
from ringpull.ps.spec import Pooling
from ringpull.ps.store.base import Base
from ringpull.ps.wire.connection import Connection
from ringpull.router.client import Router
from ringpull.router.lookup import Lookup
from ringpull.router.pushed_rows import PushedRows
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.ps.live.pushing import LINEAGE
from tests.ps.tables import MODEL, VERSION, write_table

pytestmark = pytest.mark.net

DIM = 4
WRITERS = 4
KEYS = 200
"""Keys of each writer."""
PUSHES = 40
"""Pushes between two kills."""
REMOVED = 10
"""One push in so many removes its keys."""


class KilledShard:
    """Shard process that is started again after each kill."""

    def __init__(self, folder: Path, log_limit_bytes: int) -> None:
        self._folder, self._log_limit_bytes = folder, log_limit_bytes
        self.table = write_table(folder / "users", rows=100, dim=DIM)
        (folder / "data").mkdir()
        self.epoch = 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.integration.pushed_shard", str(self.table.folder)]
        self.process = subprocess.Popen(
            [*command, str(self._folder / "data"), str(self._log_limit_bytes)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stdout is not None
        host, port = self.process.stdout.readline().split()
        self.epoch += 1
        self.map = ShardMap(self.epoch, (ShardAddress(0, host, int(port)),), Ring.even([0]), {})

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def router(self) -> Router:
        async def refresh() -> ShardMap:
            return self.map

        router = Router(lambda address: Connection.connect(address.host, address.port), refresh=refresh)
        router.register(MODEL, VERSION, {"users": Base.open(self.table.folder).spec})
        router.update(self.map)
        return router


class Oracle:
    """What each key must show."""

    def __init__(self) -> None:
        self.acknowledged = np.zeros((WRITERS, KEYS), np.int64)
        self.sent = np.zeros((WRITERS, KEYS), np.int64)
        self.pulls = self.pushes = 0

    def check(self, writer: int, floor: np.ndarray, rows: np.ndarray, default: np.ndarray) -> None:
        """Hold the rows of a pull against what was acknowledged before it and sent until now."""
        ceiling = self.sent[writer]
        self.pulls += 1
        for key, row in enumerate(rows):
            low, high = int(floor[key]), int(ceiling[key])
            if np.array_equal(row, default):  # not pushed yet, or removed
                fits = low == 0 or any(number % REMOVED == 0 for number in range(low, high + 1))
            else:
                fits = bool((row == row[0]).all()) and low <= row[0] <= high and int(row[0]) % REMOVED != 0
            assert fits, f"writer {writer}, key {key}: {row} is not within {low} to {high}"


def key_of(writer: int, keys: np.ndarray) -> np.ndarray:
    return (np.uint64(writer + 1) << np.uint64(32)) + keys.astype(np.uint64)


async def push_until(router: Router, oracle: Oracle, writer: int, over: Callable[[], bool], seed: int) -> None:
    drawn = random.Random(seed * 100 + writer)
    number = 0
    while not over():
        number += 1
        keys = np.unique(np.array([drawn.randrange(KEYS) for _ in range(drawn.choice([1, 20, 300]))]))
        oracle.sent[writer, keys] = number
        remove = number % REMOVED == 0
        rows = np.full((0 if remove else len(keys), DIM), number, np.float32).view(np.uint8)
        pushed = PushedRows(
            model=MODEL,
            table="users",
            lineage=LINEAGE,
            writer=writer + 1,
            number=number,
            remove=remove,
            keys=key_of(writer, keys),
            rows=rows,
        )
        while True:
            try:
                result = await router.push(pushed, deadline_s=time.monotonic() + 30)
                break
            except RingpullError:
                await asyncio.sleep(0.02)
        assert result.rows + result.repeated == len(keys)
        oracle.acknowledged[writer, keys] = number
        oracle.pushes += 1


async def pulled(router: Router, oracle: Oracle, default: np.ndarray, *, must: bool = False) -> None:
    for writer in range(WRITERS):
        floor = oracle.acknowledged[writer].copy()
        lookup = Lookup("users", Pooling.NONE, key_of(writer, np.arange(KEYS)))
        try:
            (result,) = await router.pull(MODEL, VERSION, [lookup], deadline_s=time.monotonic() + (30 if must else 0.5))
        except RingpullError:
            if must:
                raise
            await asyncio.sleep(0.02)
            continue
        oracle.check(writer, floor, result.values, default)


async def run(shard: KilledShard, seed: int, kills: int) -> Oracle:
    oracle, drawn, router = Oracle(), random.Random(seed), shard.router()
    try:
        await faulted(shard, oracle, drawn, router, seed, kills)
    finally:
        await router.close()
    return oracle


async def faulted(
    shard: KilledShard, oracle: Oracle, drawn: random.Random, router: Router, seed: int, kills: int
) -> None:
    default = shard.table.reference.default
    over = False

    async def pull_on() -> None:
        while not over:
            await pulled(router, oracle, default)
            await asyncio.sleep(0.005)

    pushing = [push_until(router, oracle, writer, lambda: over, seed) for writer in range(WRITERS)]
    tasks = [asyncio.ensure_future(each) for each in [*pushing, pull_on()]]
    loop = asyncio.get_running_loop()
    for round_number in range(kills + 1):
        due = oracle.pushes + PUSHES
        while oracle.pushes < due and not any(task.done() for task in tasks):
            await asyncio.sleep(drawn.uniform(0.01, 0.05))  # wherever it is then
        if round_number < kills:
            shard.kill()
            await loop.run_in_executor(None, shard.start)
    over = True
    await asyncio.gather(*tasks)
    await pulled(router, oracle, default, must=True)
    assert (oracle.acknowledged == oracle.sent).all()


def check(folder: Path, seed: int, kills: int, log_limit_bytes: int) -> Oracle:
    shard = KilledShard(folder, log_limit_bytes)
    try:
        oracle = asyncio.run(run(shard, seed, kills))
    finally:
        shard.kill()
    assert oracle.pushes >= PUSHES * kills
    assert oracle.pulls > kills
    return oracle


@pytest.mark.medium
def test_killed_twice_a_shard_has_lost_and_doubled_nothing(tmp_path: Path) -> None:
    check(tmp_path, 1, 2, 1 << 30)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_while_it_folds_it_has_lost_and_doubled_nothing(tmp_path: Path, seed: int) -> None:
    check(tmp_path, seed, 15, 400_000)
    assert list((tmp_path / "data" / "shard-0.live" / "folds").glob("*/*/users/fold-*"))
