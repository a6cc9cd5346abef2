"""What a real shard tells its scraper is what it was asked."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from ringpull.ps import metrics_server
from ringpull.ps.errors import Forbidden, NotFound, StartupError, Unauthenticated, Unavailable
from ringpull.ps.metric_families import registry_of
from ringpull.ps.metrics_server import MAX_SCRAPERS, MetricsServer
from ringpull.ps.placement import ServedRanges
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring
from ringpull.ps.tls import LiveTls
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.messages import StatisticsRequest
from tests.certificates import Certificates
from tests.metrics_page import Page, documented
from tests.patience import PATIENCE_S
from tests.ps.tables import MODEL, VERSION, WrittenTable, rows_request, write_table
from tests.ps.test_process import whole
from tests.ps.wire.fake_shard import soon

pytestmark = pytest.mark.net

ROWS = 500
HALF_HELLO = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc"
"""How a handshake of TLS begins, of 16 KiB."""


@pytest.fixture
def actor() -> Iterator[ShardProcess]:
    running = ShardProcess(3)
    yield running
    running.stop()


@pytest.fixture
def table(tmp_path: Path, actor: ShardProcess) -> WrittenTable:
    written = write_table(tmp_path / "users", rows=ROWS, dim=8)
    actor.prepare([replace(whole(written.folder), lineage=1, live=frozenset([written.folder.name]))])
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


@contextmanager
def serving(tls: LiveTls | None) -> Iterator[MetricsServer]:
    server = MetricsServer(registry_of([]), "127.0.0.1", tls=tls)
    yield server
    server.close()


def page_within(server: MetricsServer, secure: Certificates | None) -> int:
    """Return the status of one page."""
    trusted = ssl.create_default_context(cafile=str(secure.ca)) if secure else False
    address = f"{'https' if secure else 'http'}://127.0.0.1:{server.port}/metrics"
    return httpx.get(address, timeout=PATIENCE_S, verify=trusted, trust_env=False).status_code


@pytest.fixture(params=["plain", "tls"])
def secure(request: pytest.FixtureRequest) -> Certificates | None:
    if request.param == "plain":
        return None
    certificates: Certificates = request.getfixturevalue("certificates")
    return certificates


@pytest.mark.medium
@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nHost", HALF_HELLO], ids=["nothing", "half", "hello"])
def test_scrapers_that_ask_nothing_take_few_descriptors_and_keep_nobody_out(
    secure: Certificates | None, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "SCRAPER_TIMEOUT_S", 3600.0)  # nobody goes away by himself
    before = threading.active_count()
    with serving(LiveTls(secure.tls) if secure else None) as server:
        strangers = []
        for _ in range(3 * MAX_SCRAPERS):
            strangers.append(socket.create_connection(("127.0.0.1", server.port)))
            with suppress(ConnectionError):  # at TLS's port half a request is none
                strangers[-1].sendall(sent)
        assert page_within(server, secure) == 200
        with suppress(ConnectionError):
            while strangers[0].recv(100):  # the oldest made room
                pass
        while threading.active_count() > before + 1 + MAX_SCRAPERS:  # those that made room are ending
            time.sleep(0.001)
        for each in strangers:
            each.close()


@pytest.mark.parametrize("begun", [b"GET /metrics HTTP/1.1\r\nX: ", HALF_HELLO], ids=["request", "hello"])
def test_bytes_that_drip_buy_a_scraper_no_time(
    secure: Certificates | None, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "TOTAL_S", 0.1)
    with (
        serving(LiveTls(secure.tls) if secure else None) as server,
        socket.create_connection(("127.0.0.1", server.port)) as peer,
        suppress(ConnectionError),
    ):
        peer.settimeout(0.01)
        peer.sendall(begun)
        while True:
            peer.sendall(b"x")
            try:
                if not peer.recv(1000):
                    break
            except TimeoutError:
                pass


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


def test_a_ca_may_be_one_that_another_has_signed(certificates: Certificates) -> None:
    """Shards and gRPC take its certificates, and so do the ports of HTTP and metrics, which share their context."""
    shown = certificates.below
    context = ssl.create_default_context(cafile=str(certificates.intermediate_ca.cert))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with serving(LiveTls(shown.files(certificates.intermediate_ca.cert))) as server:
        page = f"https://127.0.0.1:{server.port}/metrics"
        with pytest.raises(httpx.TransportError):
            httpx.get(page, verify=context, trust_env=False, timeout=PATIENCE_S)
        context.load_cert_chain(shown.cert, shown.key)
        assert httpx.get(page, verify=context, trust_env=False, timeout=PATIENCE_S).status_code == 200
