"""Straight pushes while another lineage goes live, again and again: nothing acknowledged is in one that is not live.

The shards and the head are led as a coordinator leads them, by its own steps. Writers note when each push began and
ended, and which lineage has it: one that began after the head had switched must be in the lineage that it switched to,
and whoever reads then sees it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull import AsyncClient, Client, TableOptions, export_tables
from ringpull.deploy.model_folders import newest_version
from ringpull.inference.client.straight_ways import LONG_PAUSE_S
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.push_answer import PushAnswer
from ringpull.ps.errors import NotFound, RingpullError, UnmetCondition
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring
from ringpull.router.control.deployment_spec import DeploymentSpec, initial_spec
from ringpull.router.control.placements import placements_of
from ringpull.router.control.pushed_tables import live_lineages
from ringpull.router.shard_map import ShardAddress
from tests.clock import Clock
from tests.integration.test_straight_pushes import counted

pytestmark = [pytest.mark.net, pytest.mark.medium]

DIM = 3
WRITERS = 3
SHARDS = 2


def exported(folder: Path, version: int) -> Path:
    rows = np.full((50, DIM), -version, np.float32)
    options = {"user": TableOptions(live=True)}
    return export_tables({"user": (np.arange(50), rows)}, folder / "m", version, options=options, quiet=True).path


class Led:
    """Shards and a head, and what a coordinator does with them."""

    def __init__(self, folder: Path) -> None:
        self.actors = [ShardProcess(shard, data_dir=folder / "data", metrics=False) for shard in range(SHARDS)]
        self.head = HeadProcess(HeadConfig(default_timeout_s=60))
        self.pushed = [set[Any]() for _ in range(SHARDS)]
        self.epoch = 0
        self.specs: list[DeploymentSpec] = []
        self.lock = threading.RLock()

    def assign(self, *specs: DeploymentSpec) -> None:
        """Have shards serve by these specs, as `Coordinator._assign` does."""
        with self.lock:
            self._assign(specs)

    def _assign(self, specs: Sequence[DeploymentSpec]) -> None:
        self.specs = list(specs)
        versions = {(each.model, each.version): each.identity for spec in specs for each in spec.versions}
        served = [specs[0].served_ranges]  # mostly that of all of them: so heads, too, may push all the while
        served += [spec.served_ranges for spec in specs[1:] if spec.ring != specs[0].ring]
        for actor, pushed in zip(self.actors, self.pushed, strict=True):
            actor.assign(self.epoch, served, versions, frozenset(pushed), live_lineages(specs))

    def confirm(self) -> None:
        """Confirm first pushes."""
        with self.lock:
            self._confirm()

    def _confirm(self) -> None:
        for actor, pushed in zip(self.actors, self.pushed, strict=True):
            if wanted := set(actor.heartbeat().wants_to_push) - pushed:
                pushed |= wanted
                self.assign(*self.specs)

    def change(self, before: DeploymentSpec | None, spec: DeploymentSpec) -> None:
        """Lead from one spec to the next."""
        both = [each for each in (before, spec) if each is not None]
        for shard, actor in enumerate(self.actors):
            actor.prepare(placements_of(shard, both, None))
        addresses = {
            shard: ShardAddress(shard, *actor.address(), actor.heartbeat().incarnation)
            for shard, actor in enumerate(self.actors)
        }
        with self.lock:
            self.epoch += 1
            self.assign(*both)
        shard_map = spec.shard_map(self.epoch, addresses)
        self.head.load(spec.versions, shard_map)
        began_s = time.monotonic()
        self.address = self.head.route(shard_map, spec.live, {(each.model, each.version) for each in spec.versions})
        self.switched = began_s, time.monotonic()

    def stop(self) -> None:
        self.head.drain(5)
        for actor in self.actors:
            actor.stop()


@dataclass
class Acknowledged:
    """Push that was acknowledged."""

    began_s: float
    ended_s: float
    lineage: str
    key: int
    number: int


@dataclass
class Oracle:
    acknowledged: list[Acknowledged] = field(default_factory=list)
    live: list[tuple[float, float, str]] = field(default_factory=list)
    """From when at the earliest, and until when at the latest, the head had a lineage live."""
    refused: int = 0

    def add(self, began_s: float, done: PushAnswer, key: int, number: int) -> None:
        self.acknowledged.append(Acknowledged(began_s, time.monotonic(), done.lineage, key, number))

    def wrong(self) -> list[Acknowledged]:
        """Return the pushes that are in a lineage that was live at no time from their begin to their end."""
        return [
            each
            for each in self.acknowledged
            if not any(
                lineage == each.lineage and from_s <= each.ended_s and each.began_s <= to_s
                for from_s, to_s, lineage in self.live
            )
        ]


async def push_until(client: AsyncClient, oracle: Oracle, writer: int, over: Callable[[], bool]) -> None:
    number = 0
    while not over():
        number += 1
        key = 1000 * (writer + 1) + number % 40
        began_s = time.monotonic()
        done = await client.push("m", "user", [key], np.full((1, DIM), number, np.float32))
        oracle.add(began_s, done, key, number)
        await asyncio.sleep(0.001)


async def pusher_until(client: AsyncClient, oracle: Oracle, over: Callable[[], bool]) -> None:
    """Push by pushers, each for the lineage that was live at its first push, until that is refused."""
    number, life = 0, 0
    while not over():
        life += 1
        pusher = client.pusher("m", writer=f"trainer-{life}")
        try:
            while not over():
                number += 1
                began_s = time.monotonic()
                await pusher.push("user", [number % 50 + 9000], np.full((1, DIM), number, np.float32))
                done = await pusher.flush()
                oracle.add(began_s, done, number % 50 + 9000, number)
                await asyncio.sleep(0.001)
            await pusher.close()
        except UnmetCondition:  # its lineage is not live any more
            oracle.refused += 1
            with pytest.raises(RingpullError):
                await pusher.close()


async def test_nothing_acknowledged_is_in_a_lineage_that_is_not_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringpull.inference.client.straight_ways.PAUSE_S", 0.02)
    exported(tmp_path, 1)
    first = newest_version(tmp_path / "m")
    exported(tmp_path, 2)
    second = newest_version(tmp_path / "m")
    spec = {
        1: initial_spec(range(SHARDS), [first]),
        2: replace(initial_spec(range(SHARDS), [first, second]), live={"m": 2}),
    }
    spec[1] = replace(spec[2], live={"m": 1})
    lineages = {1: first.lineage, 2: second.lineage}
    loop, led, oracle = asyncio.get_running_loop(), Led(tmp_path), Oracle()
    over = False

    async def confirm() -> None:
        while not over:
            await loop.run_in_executor(None, led.confirm)
            await asyncio.sleep(0.01)

    async def so_many_more(count: int, straight: int = 0) -> None:
        due, past = len(oracle.acknowledged) + count, len(oracle.acknowledged) - len(through) + straight
        while len(oracle.acknowledged) < due or (straight and len(oracle.acknowledged) - len(through) < past):
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in tasks)

    try:
        led.change(None, spec[1])
        live_from_s = led.switched[0]
        async with AsyncClient(f"127.0.0.1:{led.address.grpc_port}", timeout_s=60) as client:
            through = counted(client)
            tasks = [asyncio.ensure_future(confirm())]
            tasks += [asyncio.ensure_future(push_until(client, oracle, n, lambda: over)) for n in range(WRITERS)]
            tasks.append(asyncio.ensure_future(pusher_until(client, oracle, lambda: over)))
            for before, live in ((1, 2), (2, 1), (1, 2), (2, 1)):
                await so_many_more(150, straight=50)
                await loop.run_in_executor(None, led.change, spec[before], spec[live])
                oracle.live.append((live_from_s, led.switched[1], lineages[before]))
                live_from_s = led.switched[0]
                await so_many_more(20)  # the head has switched, and shards do not know it
                await loop.run_in_executor(None, led.assign, spec[live])
            await so_many_more(150, straight=50)
            over = True
            await asyncio.gather(*tasks)
            oracle.live.append((live_from_s, time.monotonic(), lineages[1]))
            assert oracle.wrong() == []
            last = {each.key: each.number for each in oracle.acknowledged if each.lineage == lineages[1]}
            rows = (await client.lookup("m", "user", list(last))).rows
            assert rows[:, 0].tolist() == list(last.values())
        assert {each.lineage for each in oracle.acknowledged} == set(lineages.values())
        assert oracle.refused >= 4
        assert 0 < len(through) < len(oracle.acknowledged)
    finally:
        over = True
        led.stop()


def test_pushes_by_a_map_that_is_out_of_date_go_through_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards change their slots while no table has pushed rows, which is allowed; a client knows the map before."""
    exported(tmp_path, 1)
    spec = initial_spec(range(SHARDS), [newest_version(tmp_path / "m")])
    turned = replace(spec, ring=Ring(tuple(replace(each, owners=(1 - each.owners[0],)) for each in spec.ring.ranges)))
    monkeypatch.setattr("ringpull.inference.client.straight_ways.ASK_S", 60.0)
    led, over, clock = Led(tmp_path), threading.Event(), Clock(time.monotonic())

    def confirm() -> None:
        while not over.wait(0.01):
            led.confirm()

    confirming = threading.Thread(target=confirm)
    confirming.start()
    try:
        led.change(None, spec)
        led.assign(spec)
        with Client(f"127.0.0.1:{led.address.grpc_port}", timeout_s=60, retries=0) as client:
            assert client._ways is not None
            monkeypatch.setattr(client._ways, "clock", clock)
            with pytest.raises(NotFound, match="has no table 'none'"):
                client.push("m", "none", [1], np.ones((1, DIM), np.float32))  # the route is told
            known = client._ways.known("m")
            assert known is not None
            assert known.shard_map.ring == spec.ring
            led.change(spec, turned)
            led.assign(turned)
            through, keys = counted(client), np.arange(1000, 1040)
            done = client.push("m", "user", keys, np.full((len(keys), DIM), 1, np.float32))
            assert (done.rows, done.new_keys, done.repeated) == (40, 40, 0)
            assert len(through) == 1
            clock.now_s += LONG_PAUSE_S
            done = client.push("m", "user", keys, np.full((len(keys), DIM), 2, np.float32))
            assert (done.rows, done.new_keys, done.repeated) == (40, 0, 0)
            assert len(through) == 1
            assert (client.lookup("m", "user", keys).rows == 2).all()
        assert sum(actor.heartbeat().newer_rows for actor in led.actors) == 40
    finally:
        over.set()
        confirming.join()
        led.stop()
