"""A shard actor without Ray: tables on disk, pulled over TCP, controlled from another thread."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps import scrub as scrub_module
from ringpull.ps.errors import InvalidInput, NotFound, NotOwner, StartupError, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.pull_messages import Op, PullReply
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.store.links import check_links
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.messages import RangePullReply, RangePullRequest, StatisticsRequest, range_checksum
from tests.metrics_page import Page
from tests.ps.damaging import flip
from tests.ps.tables import MODEL, VERSION, WrittenTable, pull_request, rows_request, write_table
from tests.ps.wire.fake_shard import soon

pytestmark = pytest.mark.net


@pytest.fixture
def actor() -> Iterator[ShardProcess]:
    running = ShardProcess(0, threads=2)
    yield running
    running.stop()


@pytest.fixture
def table(tmp_path: Path, actor: ShardProcess) -> WrittenTable:
    written = write_table(tmp_path / "users", rows=2000, dim=32)
    actor.prepare([whole(written.folder)])
    actor.assign(1, [ServedRanges(Ring.even([0]), {})], [(MODEL, VERSION)])
    return written


@pytest.fixture
def table_folder(tmp_path: Path) -> Path:
    return write_table(tmp_path / "users", rows=100, dim=8).folder


def whole(folder: Path) -> VersionPlacement:
    return VersionPlacement(MODEL, VERSION, {folder.name: TablePlacement(str(folder), (SlotRange(0, SLOTS),), ())})


async def test_rows_over_tcp_are_bit_exact(actor: ShardProcess, table: WrittenTable) -> None:
    connection = await Connection.connect(*actor.address())
    request = rows_request("users", table.keys)
    replies = await asyncio.gather(*(connection.request(request, deadline_s=soon()) for _ in range(20)))
    for reply in replies:
        assert isinstance(reply, PullReply)
        assert reply.values.tobytes() == table.rows.tobytes()
        assert reply.found.all()
    assert await connection.request(StatisticsRequest(), deadline_s=soon()) == actor.statistics()
    assert actor.statistics().requests == 20
    assert actor.statistics().pid == actor.pid() == os.getpid()
    await connection.close()


async def test_a_range_over_tcp_keeps_its_checksum(actor: ShardProcess, table: WrittenTable) -> None:
    connection = await Connection.connect(*actor.address())
    reply = await connection.request(
        RangePullRequest(MODEL, VERSION, "users", 0, 65_536, 0, 1 << 20), deadline_s=soon()
    )
    assert isinstance(reply, RangePullReply)
    assert reply.checksum == range_checksum(reply.positions, reply.rows)
    assert reply.total_rows == len(table.keys)
    await connection.close()


async def test_refusals_over_tcp_keep_their_class(actor: ShardProcess, table: WrittenTable) -> None:
    connection = await Connection.connect(*actor.address())
    with pytest.raises(NotFound, match="no table 'houses'"):
        await connection.request(rows_request("houses", table.keys), deadline_s=soon())
    with pytest.raises(InvalidInput, match="lengths"):
        await connection.request(pull_request([("users", Op.SUM, table.keys[:3], (1, 1), None)]), deadline_s=soon())
    actor.assign(8, [ServedRanges(Ring.even([1]), {})], [(MODEL, VERSION)])
    with pytest.raises(NotOwner) as raised:
        await connection.request(rows_request("users", table.keys), deadline_s=soon())
    assert raised.value.epoch == 8
    actor.assign(9, [ServedRanges(Ring.even([1]), {})], [])
    with pytest.raises(NotFound, match="not open"):
        await connection.request(rows_request("users", table.keys), deadline_s=soon())
    await connection.close()


async def test_stopping_hangs_up_and_frees_the_port(actor: ShardProcess) -> None:
    connection = await Connection.connect(*actor.address())
    await asyncio.to_thread(actor.stop)
    with pytest.raises(Unavailable):
        await connection.request(StatisticsRequest(), deadline_s=soon())
    with pytest.raises(Unavailable):
        await Connection.connect(*actor.address())
    await connection.close()
    actor.stop()


def test_an_address_of_no_interface_is_a_startup_error() -> None:
    with pytest.raises(StartupError, match=r"192\.0\.2\.1"):
        ShardProcess(0, host="192.0.2.1")  # TEST-NET-1, RFC 5737


def test_memory_tells_what_the_process_takes(actor: ShardProcess, table: WrittenTable) -> None:
    actor.touch()
    ballast = np.ones(8 << 20, np.uint8)
    assert actor.memory()["Rss"] >= actor.memory()["Pss"] > ballast.nbytes


# -- damage ------------------------------------------------------------------------------------------------------------


def until(condition: Callable[[], object]) -> None:
    """Wait for what the scrub brings about in its own time."""
    while not condition():
        time.sleep(0.01)


@pytest.mark.medium
def test_the_scrub_of_a_process_is_told_in_its_heartbeat(table_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub_module, "MIN_ROUND_S", 0.01)
    scrubbed = ShardProcess(0, scrub_bytes_per_s=1 << 30)
    scrubbed.prepare([whole(table_folder)])
    scrubbed.assign(1, [ServedRanges(Ring.even([0]), {})], [(MODEL, VERSION)])
    assert scrubbed.heartbeat().warnings == ()
    flip(table_folder / "rows", 0)
    until(lambda: scrubbed.heartbeat().warnings)
    [warning] = scrubbed.heartbeat().warnings
    assert f"{table_folder}/rows" in warning
    assert not scrubbed.heartbeat().damaged, "files in place are nothing that a prepare could mend"
    page = Page.of("127.0.0.1", scrubbed.heartbeat().metrics_port)
    assert page.value("ringpull_shard_quarantined_blocks") == 1
    assert page.value("ringpull_shard_damaged_blocks_total") == 1
    flip(table_folder / "rows", 0)
    until(lambda: not scrubbed.heartbeat().warnings)
    scrubbed.stop()


@pytest.mark.medium
def test_a_process_asks_for_its_damaged_copies_to_be_copied_anew(
    table_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "MIN_ROUND_S", 0.01)
    copying = ShardProcess(0, data_dir=tmp_path / "data", scrub_bytes_per_s=1 << 30)
    copying.prepare([whole(table_folder)])
    copying.assign(1, [ServedRanges(Ring.even([0]), {})], [(MODEL, VERSION)])
    assert not copying.heartbeat().damaged
    [rows] = (tmp_path / "data").rglob("rows")
    flip(rows, 0)
    until(lambda: copying.heartbeat().damaged)
    copying.prepare([whole(table_folder)])
    heartbeat = copying.heartbeat()
    assert (heartbeat.damaged, heartbeat.warnings) == (False, ())
    copying.stop()


@pytest.mark.parametrize("copied", [False, True], ids=["in place", "copied"])
def test_a_second_prepare_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: bool) -> None:
    process = ShardProcess(0, data_dir=tmp_path / "data" if copied else None)
    folders = [write_table(tmp_path / str(version) / "users", rows=20, dim=3).folder for version in (1, 2)]
    slots = (SlotRange(0, SLOTS),)
    first, second = (
        VersionPlacement(MODEL, version, {"users": TablePlacement(str(folder), slots, ())})
        for version, folder in zip((1, 2), folders, strict=True)
    )
    entered, go_on = threading.Event(), threading.Event()
    real = check_links

    def slow(folder: Path, within: Path | None = None) -> None:
        if folder.is_relative_to(tmp_path / "1"):
            entered.set()
            go_on.wait()
        real(folder, within)

    for module in ("ringpull.ps.store.base", "ringpull.ps.transfer.stored_table"):
        monkeypatch.setattr(f"{module}.check_links", slow)
    threads = [threading.Thread(target=process.prepare, args=([each],)) for each in (first, second)]
    try:
        threads[0].start()
        entered.wait()
        threads[1].start()
        threads[1].join(0.1)
        assert threads[1].is_alive()
        assert not process._shard.is_open(MODEL, 2)
    finally:
        go_on.set()
        for thread in threads:
            thread.join()
        process.stop()


def test_a_scrub_that_hangs_holds_up_no_stop(tmp_path: Path) -> None:
    """In a read of storage that does not answer; the server has hung up by then."""
    process = ShardProcess(0)
    hangs = threading.Event()
    process._scrubber._thread = thread = threading.Thread(target=hangs.wait, daemon=True)
    thread.start()
    process.stop(grace_s=0.01)
    assert thread.is_alive()
    assert not process._thread.is_alive()
    hangs.set()
    thread.join()


def test_what_could_not_be_let_go_during_a_tidying_is_let_go_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = ShardProcess(0, data_dir=tmp_path / "data", tidy_after_s=0.0)
    copies = process._copies
    assert copies is not None
    entered, go_on = threading.Event(), threading.Event()

    def tidy(*_: object, **__: object) -> None:
        with copies._work:
            entered.set()
            go_on.wait()

    monkeypatch.setattr(copies, "tidy", tidy)
    folder = write_table(tmp_path / "users", rows=20, dim=3).folder
    try:
        process.prepare(
            [VersionPlacement(MODEL, 1, {"users": TablePlacement(str(folder), (SlotRange(0, SLOTS),), ())})]
        )
        process.assign(1, [ServedRanges(Ring.even([0]), {})], [(MODEL, 1)])
        entered.wait()
        monkeypatch.setattr(process, "_tidy_later", lambda **_: None)
        process.assign(2, [ServedRanges(Ring.even([0]), {})], [])
        assert len(copies._copies) == 1
        tidying = process._tidying
        assert tidying is not None
        go_on.set()
        tidying.join()
        assert copies._copies == {}
    finally:
        go_on.set()
        process.stop()
