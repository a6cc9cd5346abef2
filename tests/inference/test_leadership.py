"""Nobody leads: a head says so within seconds wherever it is asked, and serves on."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ringpull.inference.client.client import Client
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.head import HeadAddress
from ringpull.inference.head.leadership import SILENT_S, LeaderView
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.model.manifest import Manifest
from ringpull.ps.ring import Ring
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.clock import Clock
from tests.deploy.fake_operations import FakeOperations
from tests.inference.tiny import export_tiny
from tests.metrics_page import Page

LEASE_S = 60.0


def test_an_operator_hears_of_it_within_five_seconds() -> None:
    assert LeaderView(3, SILENT_S).leads
    silent = LeaderView(3, 4.0)
    assert not silent.leads
    assert silent.warning.startswith(
        "nobody leads: the coordinator was heard 4 s ago; predictions go on, but what dies"
    )
    never = LeaderView(0, 1.0, ever_heard=False)
    assert (never.leads, never.warning.partition(";")[0]) == (False, "nobody leads: the coordinator was not heard yet")
    assert LeaderView(3, 0.1).warning == ""


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = export_tiny(tmp_path_factory.mktemp("models"))
    replace(Manifest.load(folder), samples=None).save(folder)  # nobody would answer for a self-check
    return folder


@pytest.fixture(scope="module")
def shard_map() -> Iterator[ShardMap]:
    """A map of one shard that does not answer, of the third term."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = ShardAddress(0, "127.0.0.1", silent.getsockname()[1])
        yield ShardMap(epoch=4, shards=(address,), ring=Ring.even([0]), replicas={}, term=3)


def told_of(warnings: Iterable[str]) -> list[str]:
    """The warnings but that of the silent shard, which says when it is tried again."""
    told = list(warnings)
    of_shard = [each for each in told if each.startswith("shard 0 at 127.0.0.1:")]
    assert len(of_shard) == 1
    return [each for each in told if each not in of_shard]


class Asked:
    """One head, asked in all the ways there are."""

    def __init__(self, head: HeadProcess, address: HeadAddress) -> None:
        self.head = head
        self.clock = Clock(100.0)
        head._head._lease._clock = self.clock
        self.http = f"http://{address.host}:{address.http_port}"
        self.address = address

    def says(self) -> tuple[bool, list[str], dict[str, object], float]:
        """Whether somebody leads and the warnings, by status; body of `/healthz`; how long ago, by the metrics."""
        with Client(f"{self.address.host}:{self.address.grpc_port}", timeout_s=60) as client:
            status = client.status()
        assert status.leader.term == 3
        over_http = httpx.get(f"{self.http}/status", timeout=60).json()
        assert over_http["leader"]["leads"] == status.leader.leads
        assert told_of(over_http["warnings"]) == told_of(status.warnings)
        health = httpx.get(f"{self.http}/healthz")
        assert health.status_code == 200
        page = Page.of(self.address.host, self.address.http_port)
        assert page.value("ringpull_led") == status.leader.leads
        view = self.head.leader()
        assert view is not None
        assert view.leads is status.leader.leads
        return status.leader.leads, told_of(status.warnings), health.json(), page.value("ringpull_leader_heard_seconds")


@pytest.mark.net
@pytest.mark.medium
def test_a_head_says_it_everywhere_and_serves_on(version: Path, shard_map: ShardMap) -> None:
    head = HeadProcess(HeadConfig(default_timeout_s=60), FakeOperations())
    try:
        asked = Asked(head, head.start(shard_map, [str(version)]))
        leads, (warning,), _, _ = asked.says()
        assert (leads, "was not heard yet" in warning) == (False, True)
        head.heartbeat(LEASE_S)
        asked.clock.now_s += SILENT_S
        assert asked.says() == (True, [], {"status": "SERVING", "leader": True}, SILENT_S)
        asked.clock.now_s += 1
        leads, (warning,), health, heard_s = asked.says()
        assert (leads, heard_s) == (False, SILENT_S + 1)
        assert "was heard 4 s ago" in warning
        assert health == {"status": "SERVING", "leader": False, "warning": warning}
        head.heartbeat(LEASE_S)
        assert asked.says()[:2] == (True, [])
    finally:
        head.drain(timeout_s=0)


@pytest.mark.net
@pytest.mark.medium
def test_a_head_that_nobody_is_to_lead_says_nothing(version: Path, shard_map: ShardMap) -> None:
    head = HeadProcess(HeadConfig(default_timeout_s=60))
    try:
        address = head.start(shard_map, [str(version)])
        with Client(f"{address.host}:{address.grpc_port}", timeout_s=60) as client:
            status = client.status()
        assert (status.HasField("leader"), told_of(status.warnings)) == (False, [])
        assert httpx.get(f"http://{address.host}:{address.http_port}/healthz").json() == {"status": "SERVING"}
        assert Page.of(address.host, address.http_port).samples("ringpull_led") == []
    finally:
        head.drain(timeout_s=0)
