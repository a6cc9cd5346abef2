"""What a real shard tells its scraper is what it was asked."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from ringpull.ps.errors import Forbidden, NotFound, StartupError, Unauthenticated, Unavailable
from ringpull.ps.metric_families import registry_of
from ringpull.ps.metrics_server import MAX_SCRAPERS, MetricsServer
from ringpull.ps.placement import ServedRanges
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.messages import StatisticsRequest
from tests.metrics_page import Page, documented
from tests.ps.tables import MODEL, VERSION, WrittenTable, rows_request, write_table
from tests.ps.test_process import whole
from tests.ps.wire.fake_shard import soon

pytestmark = pytest.mark.net

ROWS = 500


@pytest.fixture
def actor() -> Iterator[ShardProcess]:
    running = ShardProcess(3)
    yield running
    running.stop()


@pytest.fixture
def table(tmp_path: Path, actor: ShardProcess) -> WrittenTable:
    written = write_table(tmp_path / "users", rows=ROWS, dim=8)
    actor.prepare([whole(written.folder)])
    actor.assign(7, [ServedRanges(Ring.even([3]), {})], [(MODEL, VERSION)])
    return written


def page_of(actor: ShardProcess) -> Page:
    return Page.of("127.0.0.1", actor.heartbeat().metrics_port)


@pytest.mark.medium
async def test_numbers_are_those_of_what_was_asked(actor: ShardProcess, table: WrittenTable) -> None:
    connection = await Connection.connect(*actor.address())
    unknown = np.setdiff1d(np.arange(2000, dtype=np.uint64), table.keys)[:5]
    for _ in range(4):
        await connection.request(rows_request("users", table.keys[:10]), deadline_s=soon())
    await connection.request(rows_request("users", unknown), deadline_s=soon())
    for _ in range(2):
        with pytest.raises(NotFound):
            await connection.request(rows_request("nobody knows this", table.keys[:1]), deadline_s=soon())
    statistics = await connection.request(StatisticsRequest(), deadline_s=soon())
    page = page_of(actor)
    users = {"model": MODEL, "version": str(VERSION), "table": "users"}

    requests = {(each["verb"], each["code"]): count for each, count in page.samples("ringpull_shard_requests_total")}
    assert requests == {("pull", "OK"): 5, ("pull", "NOT_FOUND"): 2, ("statistics", "OK"): 1}
    assert page.value("ringpull_shard_pull_seconds_count") == 5, "only of pulls that were answered"
    assert page.value("ringpull_shard_queue_seconds_count") == 7
    assert page.value("ringpull_shard_pull_seconds_sum") > 0
    assert page.value("ringpull_shard_keys_total", **users) == 45
    assert page.value("ringpull_shard_missing_keys_total", **users) == len(unknown) == 5
    assert page.value("ringpull_shard_received_bytes_total", verb="pull") >= 8 * 45
    assert page.value("ringpull_shard_sent_bytes_total", verb="pull") >= 4 * 8 * 45
    assert page.value("ringpull_shard_rows", **users) == ROWS
    assert page.value("ringpull_shard_table_bytes", **users) == ROWS * (8 * 4 + 8)
    assert page.value("ringpull_shard_connections") == 1
    assert page.value("ringpull_shard_requests_in_flight") == 0
    assert page.value("ringpull_shard_epoch") == statistics.epoch == 7
    assert page.value("ringpull_shard_slots") == statistics.slots == 65_536
    assert page.value("ringpull_shard_info", shard="3") == 1
    assert page.value("ringpull_shard_version_open", model=MODEL, version=str(VERSION)) == 1
    await connection.close()


async def test_every_metric_is_documented_and_the_other_way_round(actor: ShardProcess, table: WrittenTable) -> None:
    connection = await Connection.connect(*actor.address())
    await connection.request(StatisticsRequest(), deadline_s=soon())
    assert page_of(actor).described() == documented("Metrics of a shard", "Metrics of both")
    await connection.close()


async def test_what_was_asked_for_is_no_label(actor: ShardProcess, table: WrittenTable) -> None:
    connection = await Connection.connect(*actor.address())
    with pytest.raises(NotFound):
        await connection.request(rows_request("first", table.keys[:1]), deadline_s=soon())
    before = page_of(actor).series()
    for number in range(20):
        with pytest.raises(NotFound):
            await connection.request(rows_request(f"table {number}", table.keys[:1]), deadline_s=soon())
    assert page_of(actor).series() == before
    await connection.close()


def test_a_version_that_is_retired_is_told_no_more(actor: ShardProcess, table: WrittenTable) -> None:
    actor.assign(8, [ServedRanges(Ring.even([3]), {})], [])
    page = page_of(actor)
    assert page.value("ringpull_shard_epoch") == 8
    assert page.samples("ringpull_shard_rows") == page.samples("ringpull_shard_version_open") == []


def test_without_metrics_there_is_no_port() -> None:
    actor = ShardProcess(0, metrics=False)
    assert actor.heartbeat().metrics_port == 0
    actor.stop()


def test_a_stalled_scraper_holds_up_no_other(actor: ShardProcess) -> None:
    with socket.create_connection(("127.0.0.1", actor.heartbeat().metrics_port)) as stalled:
        stalled.sendall(b"GET /metr")
        assert page_of(actor).value("ringpull_shard_epoch") == 0


def test_a_server_that_is_closed_is_gone() -> None:
    server = MetricsServer(registry_of([]), "127.0.0.1")
    assert httpx.get(f"http://127.0.0.1:{server.port}/metrics").status_code == 200
    port = server.port
    server.close()
    server.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics")


def test_a_host_that_is_not_ours_is_named() -> None:
    with pytest.raises(StartupError, match=r"metrics cannot be served on 192\.0\.2\.1"):
        MetricsServer(registry_of([]), "192.0.2.1")


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nHost"], ids=["nothing", "half a request"])
def test_scrapers_that_ask_nothing_take_few_descriptors_and_keep_nobody_out(sent: bytes) -> None:
    server = MetricsServer(registry_of([]), "127.0.0.1")
    strangers = []
    for _ in range(3 * MAX_SCRAPERS):
        strangers.append(socket.create_connection(("127.0.0.1", server.port)))
        strangers[-1].sendall(sent)
    assert httpx.get(f"http://127.0.0.1:{server.port}/metrics", timeout=600).status_code == 200
    assert strangers[0].recv(1) == b"", "the oldest made room"
    for each in strangers:
        each.close()
    server.close()


def test_a_scraper_that_may_not_is_told_so() -> None:
    def check(authorization: str | None) -> None:
        if authorization is None:
            raise Unauthenticated("say who you are")
        if authorization != "Bearer right":
            raise {"none": Forbidden, "gone": Unavailable}.get(authorization, Unauthenticated)("not you")

    actor = ShardProcess(0, scrape_check=check)
    try:
        page = f"http://127.0.0.1:{actor.heartbeat().metrics_port}/metrics"
        with httpx.Client() as scraper:
            refused = scraper.get(page)
            statuses = {
                shown: scraper.get(page, headers=[("Authorization", each) for each in shown]).status_code
                for shown in [("Bearer right",), ("Bearer wrong",), ("none",), ("gone",), ("Bearer right",) * 2]
            }
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.text == "say who you are\n"
        assert list(statuses.values()) == [200, 401, 403, 503, 401]
    finally:
        actor.stop()
