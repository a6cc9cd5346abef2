"""Pushed rows that a compacted version has: dropped once no open version shows them, and not before."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import CorruptData, NotAnswered, Unavailable
from ringpull.ps.live import live_shard
from ringpull.ps.live.record import LiveName
from ringpull.ps.live.settings import Durability, LiveSettings
from ringpull.ps.placement import VersionPlacement
from ringpull.ps.wire.newest_messages import NewestRequest
from tests.deploy.folders import flip_byte
from tests.ps.live.pushing import EPOCH, LINEAGE, RING, placed, push_of, until
from tests.ps.live.test_live_shard import Served, row
from tests.ps.tables import MODEL, VERSION, rows_request, write_table

NEXT = VERSION + 1
ALL = NewestRequest(MODEL, VERSION, "users", 0, 65_536, 0, 1 << 20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Function that starts a shard over one table and one folder of logs."""
    table, running = write_table(tmp_path / "users", rows=200, dim=4), list[Served]()

    def served(durability: Durability = Durability.SYNC, log_limit_bytes: int = 1 << 30) -> Served:
        for each in running:
            each.live.close()
        settings = LiveSettings(durability=durability, log_limit_bytes=log_limit_bytes)
        running.append(Served(table, tmp_path / "shard-0.live", settings))
        return running[-1]

    yield served
    for each in running:
        each.live.close()


def stamp_of(served: Served) -> int:
    return served.shard.newest(NewestRequest(MODEL, VERSION, "users", 0, 65_536, 0, 0)).stamp


def open_compacted(served: Served, includes: int) -> None:
    """Open the same base once more, as if it had all pushes up to a stamp."""
    placement: VersionPlacement = replace(placed(served.table.folder, version=NEXT), includes={"users": {0: includes}})
    served.shard.open(MODEL, NEXT, {"users": served.table.folder}, placed=placement)


def serve(served: Served, *versions: int) -> None:
    served.shard.assign(EPOCH, [RING], [(MODEL, version) for version in versions])


def of(served: Served, version: int, key: int) -> np.ndarray:
    request = replace(rows_request("users", np.array([key], np.uint64)), version=version)
    return served.shard.pull(request).values


@pytest.mark.parametrize("durability", [Durability.SYNC, Durability.MEMORY])
@pytest.mark.medium
def test_pushes_that_no_open_version_shows_are_dropped(
    start: Callable[..., Served], tmp_path: Path, durability: Durability
) -> None:
    served = start(durability)
    base = served.rows([int(served.table.keys[0])])
    key, other = int(served.table.keys[0]), int(served.table.keys[1])
    served.push(push_of([key, 5], np.repeat(row(1), 2, axis=0)))
    includes = stamp_of(served)
    served.push(push_of([other], row(2)))
    assert stamp_of(served) == includes + 1
    open_compacted(served, includes)
    serve(served, VERSION, NEXT)
    assert of(served, VERSION, key).tolist() == [1.0] * 4
    np.testing.assert_array_equal(of(served, NEXT, key), base[0])
    assert of(served, NEXT, other).tolist() == [2.0] * 4
    assert served.live.tables.rows == 3
    serve(served, NEXT)
    until(lambda: served.live.tables.rows == 1)
    assert of(served, NEXT, other).tolist() == [2.0] * 4
    np.testing.assert_array_equal(of(served, NEXT, key), base[0])
    served.push(push_of([key], row(3)))
    assert of(served, NEXT, key).tolist() == [3.0] * 4


@pytest.mark.medium
def test_after_a_restart_nothing_is_dropped_before_all_versions_are_open_again(start: Callable[..., Served]) -> None:
    served = start()
    key = int(served.table.keys[0])
    served.push(push_of([key], row(1)))
    includes = stamp_of(served)
    served = start()  # which opens the older one first
    served.shard.retire(MODEL, VERSION)
    open_compacted(served, includes)  # as if it came first
    serve(served, VERSION, NEXT)
    served.shard.forget_closed()
    time.sleep(1.5)  # longer than it takes to look for something to do
    assert served.live.tables.rows == 1
    served.open(placed(served.table.folder))
    assert of(served, VERSION, key).tolist() == [1.0] * 4
    serve(served, NEXT)
    until(lambda: served.live.tables.rows == 0)


def test_a_stamp_is_that_of_the_last_push(start: Callable[..., Served]) -> None:
    served = start()
    assert stamp_of(served) == 0
    keys = served.table.keys[:50]
    stamp = served.push(push_of(keys, np.repeat(row(7), 50, axis=0))).stamp
    assert stamp_of(served) == stamp
    reply = served.shard.newest(ALL)
    assert len(reply.positions) == 200
    assert reply.rows.view(np.float32).reshape(200, 4)[:, 0].tolist().count(7.0) == 50


@pytest.mark.medium
def test_damaged_folds_and_rows_that_are_missing_are_not_passed_on(
    start: Callable[..., Served], tmp_path: Path
) -> None:
    served = start(log_limit_bytes=3000)
    folds = tmp_path / "shard-0.live" / "folds"
    served.push(push_of(served.table.keys, np.repeat(row(7), 200, axis=0)))
    until(lambda: served.live.folds > 0)
    assert len(served.shard.newest(ALL).positions) == 200
    [file] = folds.glob("*/*/users/fold-*/rows/rows*")
    flip_byte(file)
    with pytest.raises(CorruptData, match=r"newest: .*fold-.* are damaged"):
        served.shard.newest(ALL)
    served.live.confirm([LiveName(MODEL, LINEAGE, "users"), LiveName(MODEL, LINEAGE, "other")])
    served.shard.newest(NewestRequest(MODEL, VERSION, "users", 0, 65_536, 0, 0))
    served.live.tables.logged.clear()
    served.live.confirm([LiveName(MODEL, LINEAGE, "users")])
    with pytest.raises(NotAnswered, match="rows pushed to them are missing"):
        served.shard.newest(ALL)


def test_no_stamp_is_told_of_a_push_that_may_vanish(
    start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be that of another push after a crash, which a version with that stamp would hide."""
    served = start()
    served.push(push_of([5], row(1)))

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fdatasync", failing)
        with pytest.raises(Unavailable, match="broken"):
            served.push(push_of([5], row(2)))
        with pytest.raises(Unavailable, match="broken"):
            stamp_of(served)
    assert stamp_of(served) == served.live.tables.all()[0].last_stamp


def test_it_is_told_when_a_table_has_so_many_pushed_rows_that_compaction_is_due(
    start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = start()
    served.push(push_of(served.table.keys[:61], np.repeat(row(7), 61, axis=0)))
    assert served.live.warnings() == []
    monkeypatch.setattr(live_shard, "MANY_ROWS", 50)
    assert served.live.warnings() == [
        "model: 61 newer rows lie over table users here, whose base has 200: `ringpull compact model` is due"
    ]
    monkeypatch.setattr(live_shard, "LARGE_SHARE", 0.31)
    assert served.live.warnings() == []
