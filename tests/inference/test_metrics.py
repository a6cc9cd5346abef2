"""What a real head, in front of real shards, tells its scraper is what it was asked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from ringpull import CapCandidates, Client
from ringpull.inference.head.admission import Admission
from ringpull.inference.head.catalog import Catalog
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.http.metrics import metrics_routes
from ringpull.inference.head.metrics.call_metrics import CallMetrics
from ringpull.inference.head.metrics.metrics import HeadCollector
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.model.manifest import Manifest
from ringpull.ps.errors import InvalidInput, LimitExceeded, NotFound, Unavailable
from ringpull.router.control.scraping import ScrapeTarget, scrape_targets
from ringpull.router.counters import RouterCounters, TableCounters
from tests.deploy.fake_operations import FakeOperations
from tests.inference.tiny import export_tiny
from tests.integration.local import LocalCluster, local_cluster
from tests.metrics_page import Page, documented

pytestmark = pytest.mark.net

STAGES = ("decode", "queue", "features", "lookup", "dense", "encode")
UNKNOWN_ITEM = 999


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = export_tiny(tmp_path_factory.mktemp("models"))
    # Without samples no self-check looks anything up: what is counted is what the tests ask for.
    replace(Manifest.load(folder), samples=None, degrade=(CapCandidates(2),)).save(folder)
    return folder


@pytest.fixture
def cluster(version: Path) -> Iterator[LocalCluster]:
    with local_cluster([version], shards=2) as running:
        yield running


@pytest.fixture
def live_cluster(version: Path, tmp_path: Path) -> Iterator[LocalCluster]:
    """The same, of a table that takes pushes."""
    folder = tmp_path / "tiny" / "1"
    shutil.copytree(version, folder)
    manifest = Manifest.load(folder)
    replace(manifest, tables=tuple(replace(each, live=True) for each in manifest.tables)).save(folder)
    with local_cluster([folder], data_dir=tmp_path / "data") as running:
        yield running


def page_of(cluster: LocalCluster) -> Page:
    return Page.of(cluster.address.host, cluster.address.http_port)


def ask(client: Client, times: int, items: list[int]) -> None:
    for _ in range(times):
        client.predict("tiny", {"item": items, "price": [1.0] * len(items)})


@pytest.mark.medium
def test_numbers_are_those_of_what_was_asked(cluster: LocalCluster) -> None:
    with cluster.client() as client:
        ask(client, 5, [1, 2, 3])
        ask(client, 2, [4, UNKNOWN_ITEM, UNKNOWN_ITEM, UNKNOWN_ITEM])
        for _ in range(3):
            with pytest.raises(NotFound):
                client.predict("nobody serves this", {"item": [1], "price": [1.0]})
        with pytest.raises(InvalidInput):
            client.predict("tiny", {"item": [1], "price": [1.0]}, outputs=["none such"])
    page = page_of(cluster)
    requests = {(each["model"], each["code"]): count for each, count in page.samples("ringpull_requests_total")}
    assert requests == {("tiny", "OK"): 7, ("", "NOT_FOUND"): 3, ("tiny", "INVALID_ARGUMENT"): 1}
    assert page.value("ringpull_request_seconds_count", model="tiny") == 7
    stages = {stage: page.value("ringpull_stage_seconds_count", model="tiny", stage=stage) for stage in STAGES}
    assert stages == dict.fromkeys(STAGES, 7)
    whole_s = page.value("ringpull_request_seconds_sum", model="tiny")
    assert 0 < page.total("ringpull_stage_seconds_sum") <= whole_s
    assert page.value("ringpull_batch_rows_count", model="tiny") == 7, "one after the other, each rode alone"
    assert page.value("ringpull_batch_rows_sum", model="tiny") == 5 * 3 + 2 * 4
    assert page.value("ringpull_batch_rows_bucket", model="tiny", le="2.0") == 0
    assert page.value("ringpull_batch_rows_bucket", model="tiny", le="4.0") == 7
    assert page.value("ringpull_keys_total", model="tiny", table="item") == 23
    assert page.value("ringpull_missing_keys_total", model="tiny", table="item") == 6
    assert page.value("ringpull_lost_keys_total", model="tiny", table="item") == 0
    assert page.value("ringpull_pulls_total") == 7
    assert page.value("ringpull_admission_in_flight_bytes") == 0
    assert page.value("ringpull_epoch") == 1
    assert page.value("ringpull_live_version", model="tiny") == page.value(
        "ringpull_version_open", model="tiny", version="1"
    )
    assert page.value("ringpull_degrade_level", model="tiny", version="1") == 0


def test_heads_and_shards_agree(cluster: LocalCluster) -> None:
    with cluster.client() as client:
        ask(client, 10, [0, 1, 2, 3, UNKNOWN_ITEM])
    head = page_of(cluster)
    shards = [Page.of("127.0.0.1", shard.heartbeat().metrics_port) for shard in cluster.shards]
    for of_head, of_shards in (
        ("ringpull_keys_total", "ringpull_shard_keys_total"),
        ("ringpull_missing_keys_total", "ringpull_shard_missing_keys_total"),
        ("ringpull_pull_messages_total", "ringpull_shard_pull_seconds_count"),
        ("ringpull_pull_sent_bytes_total", "ringpull_shard_received_bytes_total"),
    ):
        assert head.total(of_head) == sum(shard.total(of_shards) for shard in shards) > 0, of_head


def test_every_metric_is_documented_and_the_other_way_round(live_cluster: LocalCluster) -> None:
    with live_cluster.client() as client:
        ask(client, 1, [1])
        client.lookup("tiny", "item", [1])
        with pytest.raises(NotFound):
            client.top_k("tiny", "nothing", like=[1])
        client.push("tiny", "item", [1], [[1.0] * 4], version=1)  # through the head: no straight one
    assert page_of(live_cluster).described() == documented("Metrics of a head", "Metrics of both")


def test_what_was_asked_for_is_no_label(cluster: LocalCluster) -> None:
    def ask_for(model: str) -> None:
        with pytest.raises(NotFound):
            client.predict(model, {"item": [1], "price": [1.0]})

    with cluster.client() as client:
        ask_for("first")
        before = page_of(cluster).series()
        for number in range(20):
            ask_for(f"model {number}")
    assert page_of(cluster).series() == before


def test_dead_shards_are_counted_and_do_not_hold_up_the_scrape(cluster: LocalCluster) -> None:
    for shard in cluster.shards:
        shard.stop(grace_s=0)
    with cluster.client() as client, pytest.raises(Unavailable):
        ask(client, 1, [1, 2])
    page = page_of(cluster)
    assert page.value("ringpull_requests_total", model="tiny", code="UNAVAILABLE") == 1
    assert page.value("ringpull_pulls_failed_total") == 1
    assert page.value("ringpull_pull_unavailable_total") >= 1
    assert page.value("ringpull_request_seconds_count", model="tiny") == 0, "only of calls that were answered"


class CountedRouter:
    """What a collector reads of a router, all numbers different."""

    epoch = 7

    def counters(self) -> RouterCounters:
        names = [each.name for each in fields(RouterCounters) if each.name != "tables"]
        tables = {("ranker", "item"): TableCounters(30, 0, 4, 2), ("ranker", "user"): TableCounters(7, 0, 0, 0)}
        return RouterCounters(**{name: place for place, name in enumerate(names, 1)}, tables=tables)


def test_every_count_of_a_router_is_told_under_its_own_name() -> None:
    admission = Admission(max_queue_s=1, standing_queue_s=1, max_in_flight_bytes=100)
    admission.expect(deadline_s=float("inf")).received(90)
    with admission.expect(deadline_s=float("inf")) as ticket, pytest.raises(LimitExceeded):
        ticket.received(20)
    router = CountedRouter()
    families = HeadCollector(Catalog(), router, CallMetrics(), admission).collect()  # type: ignore[arg-type]
    page = Page({family.name: family for family in families})
    counted = router.counters()
    for name, value in {
        "pulls": counted.pulls,
        "pulls_failed": counted.failed,
        "pull_messages": counted.messages,
        "pull_sent_bytes": counted.sent_bytes,
        "pull_received_bytes": counted.received_bytes,
        "pull_not_owner": counted.not_owner,
        "pull_unavailable": counted.unavailable,
        "pull_retries": counted.retries,
        "pull_hedges": counted.hedges,
        "pull_hedges_won": counted.hedges_won,
        "ejections": counted.ejections,
        "admission_refused": 1,
    }.items():
        assert page.value(f"ringpull_{name}_total") == value, name
    of_item = {"model": "ranker", "table": "item"}
    assert page.value("ringpull_keys_total", **of_item) == 30
    assert page.value("ringpull_missing_keys_total", **of_item) == 4
    assert page.value("ringpull_lost_keys_total", **of_item) == 2
    assert page.value("ringpull_epoch") == 7
    assert page.value("ringpull_admission_pressure") == pytest.approx(0.9)
    assert page.value("ringpull_admission_in_flight_bytes") == 90


def test_a_head_without_metrics_tells_none(version: Path) -> None:
    with local_cluster([version], shards=1, config=HeadConfig(metrics=False)) as cluster:
        with cluster.client() as client:
            ask(client, 1, [1])
        base = f"http://127.0.0.1:{cluster.address.http_port}"
        assert [httpx.get(f"{base}/metrics{page}").status_code for page in ("", "/targets")] == [404, 404]
        assert cluster.head.heartbeat(60).metrics_port == 0


@pytest.mark.medium
def test_a_head_that_shares_its_port_has_one_for_metrics(version: Path) -> None:
    with local_cluster([version], shards=1, config=HeadConfig(share_port=True)) as cluster:
        shared = httpx.get(f"http://127.0.0.1:{cluster.address.http_port}/metrics")
        assert (shared.status_code, "/metrics/targets" in shared.text) == (404, True)
        own = cluster.head.heartbeat(60).metrics_port
        assert own != cluster.address.http_port
        assert Page.of("127.0.0.1", own).value("ringpull_epoch") == 1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{own}/metrics")


class Targets(FakeOperations):
    """A coordinator that knows of a head and a shard, or is gone."""

    gone = False

    def scrape_targets(self) -> tuple[ScrapeTarget, ...]:
        if self.gone:
            raise Unavailable("there is no actor")
        return (ScrapeTarget("head", "head-0", "0.0.0.0", 8501), ScrapeTarget("shard", "shard-0", "fd00::7", 41033))


def test_targets_are_those_that_the_coordinator_knows(cluster: LocalCluster, version: Path) -> None:
    operations = Targets()
    head = HeadProcess(HeadConfig(), operations)
    try:
        url = f"http://127.0.0.1:{head.start(cluster.shard_map, [str(version)]).http_port}/metrics/targets"
        assert httpx.get(url).json() == [
            {"targets": ["127.0.0.1:8501"], "labels": {"role": "head", "member": "head-0"}},
            {"targets": ["[fd00::7]:41033"], "labels": {"role": "shard", "member": "shard-0"}},
        ]
        operations.gone = True
        assert httpx.get(url).status_code == 503
    finally:
        head.drain(timeout_s=0)
    alone = httpx.get(f"http://127.0.0.1:{cluster.address.http_port}/metrics/targets")
    assert (alone.status_code, "started without" in alone.text) == (503, True)


@pytest.mark.parametrize("https", [False, True])
async def test_targets_say_how_they_are_scraped(https: bool) -> None:
    async def targets() -> tuple[ScrapeTarget, ...]:
        return Targets().scrape_targets()

    app = Starlette(routes=metrics_routes(CollectorRegistry(), targets, shared=False, https=https))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://head") as client:
        found = (await client.get("/metrics/targets")).json()
    assert [each["labels"].get("__scheme__") for each in found] == ["https" if https else None] * 2


def test_every_process_that_tells_metrics_is_a_target(cluster: LocalCluster) -> None:
    heads, shards = (
        {0: cluster.head.heartbeat(60)},
        {number: each.heartbeat() for number, each in enumerate(cluster.shards)},
    )
    found = scrape_targets(heads, {**shards, 2: replace(shards[0], metrics_port=0)})
    assert [each.member for each in found] == ["head-0", "shard-0", "shard-1"]
    for target in found:
        assert Page.of(target.host, target.port).total("process_open_fds") > 0
