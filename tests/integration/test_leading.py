"""A head and who leads it: a coordinator that hangs holds no request up, an old map costs a detour.

Over real TCP, shards and head in this process; the coordinator is the test's.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ringpull.inference.client.client import Client
from ringpull.inference.head import lease
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.process import HeadProcess
from ringpull.ps.errors import Replaced, RingpullError, Unavailable
from ringpull.ps.placement import ServedRanges
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.head_counts import Growing, HeadCounts
from ringpull.router.control.operations import Asker, ChangeStatus, Overview
from ringpull.router.control.scraping import ScrapeTarget
from ringpull.router.shard_map import ShardMap
from tests.inference.tiny import Tiny, export_tiny
from tests.integration.local import open_versions
from tests.ports import free_port
from tests.reference import assert_close

pytestmark = pytest.mark.net

COLUMNS = {"item": [1, 2, 3], "price": [1.0, 2.0, 3.0]}
LONG_S = 60.0
"""Deadline of requests: nothing takes so long unless it waits for the coordinator."""


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("models"))


def offline() -> np.ndarray:
    rows: np.ndarray = Tiny().item.weight.detach().numpy()
    return rows[COLUMNS["item"]].sum(axis=1) + np.array(COLUMNS["price"])


class Coordinator:
    """`Operations` that answer, or hang as those of a stopped process."""

    def __init__(self) -> None:
        self.runs = threading.Event()
        self.runs.set()
        self.asked = threading.Event()
        self.newest: ShardMap | None = None
        self.replaced: set[str] = set()
        """Incarnations of heads that another one has replaced."""
        self.at_once = 0
        """Most questions that were in its hands at a time."""
        self._now = 0

    def map(self, asker: Asker) -> ShardMap:
        self._answer()
        if asker.incarnation in self.replaced:
            raise Replaced(f"head {asker.head} has been replaced")
        assert self.newest is not None
        return self.newest

    def scrape_targets(self) -> tuple[ScrapeTarget, ...]:
        self._answer()
        return ()

    def overview(self, asker: Asker, counts: HeadCounts, known: Mapping[str, Growing]) -> Overview:
        self.runs.wait()
        return Overview(change=ChangeStatus())

    def call(self, request: Any) -> Any:
        self._answer()
        raise AssertionError(request)

    def _answer(self) -> None:
        self._now += 1
        self.at_once = max(self.at_once, self._now)
        self.asked.set()
        self.runs.wait()
        self._now -= 1


class Led:
    """Shards 0 and 1, and a head that is led."""

    def __init__(self, version: Path, deployment: str = "") -> None:
        self.shards = [ShardProcess(shard, deployment=deployment) for shard in range(2)]
        self.map = replace(open_versions(self.shards, [version], 1), deployment=deployment)
        self.coordinator = Coordinator()
        self.coordinator.newest = self.map
        # Ports that nobody else gets when the head has let go of them.
        config = HeadConfig(default_timeout_s=LONG_S, grpc_port=free_port(), http_port=free_port())
        self.head = HeadProcess(config, self.coordinator)

    def client(self, version: Path, shard_map: ShardMap | None = None) -> Client:
        self.address = self.head.start(shard_map or self.map, [version])
        return Client(f"{self.address.host}:{self.address.grpc_port}", timeout_s=LONG_S, retries=0)


@contextmanager
def led(version: Path, deployment: str = "") -> Iterator[Led]:
    made = Led(version, deployment)
    try:
        yield made
    finally:
        made.coordinator.runs.set()
        made.head.drain(0)
        for shard in made.shards:
            shard.stop(grace_s=0)


def stop(made: Led) -> None:
    """Stop the coordinator, and let the head's lease run out and its question be under way."""
    made.coordinator.asked.clear()
    made.coordinator.runs.clear()
    made.head.heartbeat(0.0)
    assert made.coordinator.asked.wait(LONG_S)


def own_everything(shards: Sequence[ShardProcess], shard_map: ShardMap, owner: int) -> ShardMap:
    """Give all slots to one shard, behind the head's back; return the map that says so."""
    ring = Ring.even([owner])
    for shard in shards:
        shard.assign(2, [ServedRanges(ring, shard_map.replicas)], {("tiny", 1)})
    addresses = tuple(each for each in shard_map.shards if each.shard == owner)
    return replace(shard_map, epoch=2, shards=addresses, ring=ring)


@pytest.mark.medium
def test_no_request_waits_for_a_coordinator_that_hangs(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where requests waited for it at most so long.
    monkeypatch.setattr(lease, "ASK_TIMEOUT_S", 3600.0, raising=False)
    with led(version) as made, made.client(version) as client:
        client.predict("tiny", COLUMNS)
        stop(made)
        for _ in range(20):
            assert_close(client.predict("tiny", COLUMNS).outputs["score"], offline())
        http = f"http://127.0.0.1:{made.address.http_port}"
        assert httpx.get(f"{http}/healthz", timeout=LONG_S).json()["status"] == "SERVING"
        assert httpx.get(f"{http}/status", timeout=LONG_S).json()["epoch"] == "1"
        assert "ringpull_epoch 1.0" in httpx.get(f"{http}/metrics", timeout=LONG_S).text
        assert [shard.alive for shard in client.status().shards] == [True, True]
        assert not made.coordinator.runs.is_set()
        assert made.coordinator.at_once == 1, "one question for the map, whoever needs it"


@pytest.mark.medium
def test_what_a_shard_refuses_is_answered_by_the_newest_map(version: Path) -> None:
    """The head was away while ranges moved. While nobody says where they are, the error is one to try again after."""
    with led(version) as made, made.client(version) as client:
        client.predict("tiny", COLUMNS)
        stop(made)
        newest = own_everything(made.shards, made.map, owner=1)
        for _ in range(3):
            with pytest.raises(Unavailable, match="item"):
                client.predict("tiny", COLUMNS)
        made.coordinator.newest = newest
        made.coordinator.runs.set()
        while client.status().epoch < 2:
            pass  # It comes by itself: no request has to ask.
        assert_close(client.predict("tiny", COLUMNS).outputs["score"], offline())


def test_a_refused_request_asks_for_the_map_that_answers_it(version: Path) -> None:
    with led(version) as made, made.client(version) as client:
        client.predict("tiny", COLUMNS)
        made.coordinator.newest = own_everything(made.shards, made.map, owner=0)
        assert_close(client.predict("tiny", COLUMNS).outputs["score"], offline())
        assert client.status().epoch == 2


@pytest.mark.medium
def test_a_version_that_shards_have_closed_is_no_mistake_of_the_client(version: Path) -> None:
    with led(version) as made, made.client(version) as client:
        client.predict("tiny", COLUMNS)
        stop(made)
        for shard in made.shards:
            shard.assign(2, [ServedRanges(made.map.ring, made.map.replicas)], ())
        with pytest.raises(Unavailable, match="item"):
            client.predict("tiny", COLUMNS)


@pytest.mark.medium
def test_a_shard_that_has_stopped_is_found_where_it_is_now(version: Path) -> None:
    """Nobody refuses; nobody but the request notices."""
    with led(version) as made, made.client(version) as client:
        client.predict("tiny", COLUMNS)
        made.coordinator.newest = own_everything(made.shards, made.map, owner=0)
        made.shards[1].stop(grace_s=0)
        assert_close(client.predict("tiny", COLUMNS).outputs["score"], offline())
        assert client.status().failed == 0


@pytest.mark.medium
def test_a_head_takes_the_newer_map_that_it_is_to_load_by(version: Path) -> None:
    """Everything died, and shards are elsewhere: the map that came first is history, and there is nobody to ask."""
    shards = [ShardProcess(shard) for shard in range(2)]
    head = HeadProcess(HeadConfig())
    placed = [PlacedVersion("tiny", 1, str(version), {})]
    try:
        first = open_versions(shards, [version], 1)
        dead = [ShardProcess(shard) for shard in range(2)]
        old = replace(open_versions(dead, [version], 1), epoch=1)
        for shard in dead:
            shard.stop(grace_s=0)
        with pytest.raises(Unavailable):
            head.load(placed, old)
        head.load(placed, replace(first, epoch=2))
        assert head.heartbeat(10.0).versions == (("tiny", 1),)
    finally:
        head.drain(0)
        for shard in shards:
            shard.stop(grace_s=0)


@pytest.mark.medium
@pytest.mark.parametrize("wrong", ["deployment", "incarnation", "shard"])
def test_a_head_means_the_shards_of_its_map(version: Path, wrong: str) -> None:
    """Whoever else listens there by now is not asked for a row."""
    with led(version, "ours") as made:
        right = tuple(
            replace(each, incarnation=made.shards[each.shard].heartbeat().incarnation) for each in made.map.shards
        )
        old = replace(made.map, shards=right)
        if wrong == "deployment":
            old = replace(old, deployment="theirs")
        elif wrong == "incarnation":
            old = replace(old, shards=tuple(replace(each, incarnation="an earlier life") for each in right))
        else:
            old = replace(old, shards=(replace(right[0], port=right[1].port), replace(right[1], port=right[0].port)))
        made.coordinator.newest = old
        with pytest.raises(Unavailable, match="was meant"):
            made.head.start(old, [version])
        assert [shard.statistics().requests for shard in made.shards] == [0, 0]
        with made.client(version, replace(made.map, epoch=2, shards=right)) as client:
            assert_close(client.predict("tiny", COLUMNS).outputs["score"], offline())


@pytest.mark.medium
def test_a_head_takes_no_map_and_no_row_of_another_deployment(version: Path) -> None:
    """Whose name may be ours by now: the way to the coordinator is by name."""
    with led(version, "ours") as made:
        head = HeadProcess(HeadConfig(), made.coordinator, deployment="theirs")
        try:
            with pytest.raises(Unavailable, match="no shard map yet"):
                head.start(made.map, [version])
            with pytest.raises(Unavailable, match=r"this is shard .*deployment ours.*deployment theirs.* was meant"):
                head.start(replace(made.map, deployment=""), [version])
        finally:
            head.drain(0)
        assert [shard.statistics().requests for shard in made.shards] == [0, 0]


@pytest.mark.medium
def test_a_head_that_was_replaced_answers_what_it_has_and_stops(version: Path) -> None:
    """Only that: a coordinator that hangs, or knows no map, is served without."""
    with led(version) as made, made.client(version) as client:
        client.predict("tiny", COLUMNS)
        made.coordinator.replaced.add(made.head.heartbeat(0.0).incarnation)
        made.head._thread.join()  # Its loop ends when all is answered and closed.
        with pytest.raises(Unavailable):
            client.predict("tiny", COLUMNS)
        for port in (made.address.grpc_port, made.address.http_port):
            with pytest.raises(ConnectionRefusedError), socket.create_connection((made.address.host, port)):
                pass


@pytest.mark.medium
def test_whoever_runs_a_head_is_told_once_that_it_was_replaced(version: Path) -> None:
    reasons: list[str] = []
    told = threading.Event()

    def replaced(reason: str) -> None:
        reasons.append(reason)
        told.set()

    with led(version) as made:
        head = HeadProcess(HeadConfig(), made.coordinator, head=3, replaced=replaced)
        try:
            head.start(made.map, [version])
            made.coordinator.replaced.add(head.heartbeat(0.0).incarnation)
            assert told.wait(LONG_S)
            own_everything(made.shards, made.map, owner=0)
            with Client(f"127.0.0.1:{head.heartbeat().grpc_port}", timeout_s=0.5, retries=0) as client:
                for _ in range(3):
                    with suppress(RingpullError):
                        client.predict("tiny", COLUMNS)  # Refused by a shard, it asks again.
            assert reasons == ["head 3 has been replaced"]
        finally:
            head.drain(0)
