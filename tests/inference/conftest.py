"""A served small model and a client of it, a micro-batcher alone, and a head alone, for the tests that ask for them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.batcher import Batcher
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.process import HeadProcess
from ringpull.ps.ring import Ring
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.clock import Clock
from tests.inference.batcher_stages import Stages
from tests.inference.local_cluster import write_tables
from tests.inference.served import Served
from tests.router.cases import Tables


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, Tables]]:
    """Versions 1 and 2 on disk, with other rows."""
    folder = tmp_path_factory.mktemp("versions")
    return {version: (folder / str(version), write_tables(folder / str(version), version)) for version in (1, 2)}


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


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
async def stages() -> Stages:
    return Stages()


@pytest.fixture
async def batcher(stages: Stages, clock: Clock) -> AsyncIterator[Batcher[int, dict[int, int], dict[int, int], int]]:
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(stages.prepare, stages.pull, stages.compute, executor, max_rows=4, clock=clock)
        yield batcher
        stages.pull_gate.set()
        stages.compute_gate.set()
        await batcher.close(timeout_s=60)


@pytest.fixture
async def passing(stages: Stages, clock: Clock) -> AsyncIterator[Batcher[int, dict[int, int], dict[int, int], int]]:
    """Two pulls at most; without patience, on a clock that stands, every pull is late in the loop's next turn."""
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(
            stages.prepare,
            stages.pull,
            stages.compute,
            executor,
            max_rows=4,
            max_pulls=2,
            patience_s=0.0,
            clock=clock,
        )
        yield batcher
        for event in stages.stuck.values():
            event.set()
        await batcher.close(timeout_s=60)


@pytest.fixture
def nobody() -> Iterator[ShardMap]:
    """A map of one shard, at a port that is taken and never listened on."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = ShardAddress(0, "127.0.0.1", silent.getsockname()[1])
        yield ShardMap(epoch=4, shards=(address,), ring=Ring.even([0]), replicas={})


@pytest.fixture
def head() -> Iterator[HeadProcess]:
    head = HeadProcess(HeadConfig(default_timeout_s=60))
    yield head
    head.drain(timeout_s=0)
