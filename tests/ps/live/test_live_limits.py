"""A shard whose memory, disk or folds fall short: nothing acknowledged is lost, nothing forgotten comes back."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import LimitExceeded, NotAnswered
from ringpull.ps.hashing import positions_of
from ringpull.ps.live import log as log_module
from ringpull.ps.live.live_shard import LiveShard
from ringpull.ps.live.live_table import LiveTable
from ringpull.ps.live.record import LiveName
from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.raw_rows import RawRows
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from tests.patience import PATIENCE_S
from tests.ps.live.pushing import EPOCH, LINEAGE, RING, push_of
from tests.ps.live.served import DIM, Served, row
from tests.ps.tables import MODEL, VERSION
from tests.ps.wire.fake_shard import soon

NAME = LiveName(MODEL, LINEAGE, "users")


def test_pushes_that_fail_unexpectedly_leave_no_number_behind(
    served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = served()
    shard.push(push_of([5], row(1)))
    first, second = push_of([5], row(2), writer=9, number=1), push_of([6], row(3), writer=8, number=1)
    commits, real = shard.live.pushes._commits, LiveTable.write
    calls = 0

    def write(table: LiveTable, rows: RawRows, stamp: int) -> UInt64Array:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ValueError("what nobody thought of")
        return real(table, rows, stamp)

    monkeypatch.setattr(LiveTable, "write", write)
    with pytest.raises(ValueError, match="nobody"):
        commits.commit([first, second])
    assert shard.rows([5]).tolist() == [[1] * DIM]
    assert shard.push(first).repeated == 0
    assert shard.rows([5]).tolist() == [[2] * DIM]
    calls = 0
    monkeypatch.setattr(LiveTable, "write", no_memory)
    with pytest.raises(LimitExceeded, match="--newer-memory"):
        shard.push(second)


def test_less_memory_than_before_takes_what_is_there_and_nothing_more(served: Callable[..., Served]) -> None:
    shard = served(LiveSettings(newer_memory_bytes=64 << 20))
    keys = np.arange(100_000, dtype=np.uint64)
    shard.push(push_of(keys, np.full((len(keys), DIM), 3, np.float32)))
    again = served(LiveSettings(newer_memory_bytes=1 << 20))
    assert [each for each in again.live.warnings() if "compact" not in each] == []  # which is due, of so many
    assert (again.rows([7, 99_999]) == 3).all()
    with pytest.raises(LimitExceeded, match="--newer-memory"):
        again.push(push_of([5], row(1)))


def test_what_finds_rows_is_within_the_memory_of_newer_rows(served: Callable[..., Served]) -> None:
    limit = 8 << 20
    shard, begin, why = served(LiveSettings(newer_memory_bytes=limit)), 0, ""
    folding = shard.live._folding
    assert folding is not None
    while "what finds" not in why or folding.due or not folding.rounds:
        keys = np.arange(begin, begin + 10_000, dtype=np.uint64)
        try:
            shard.push(push_of(keys, np.full((len(keys), DIM), 1, np.float32)))
        except LimitExceeded as error:
            why = str(error)
            time.sleep(0.01)  # until rows are folded
            continue
        begin += len(keys)
        assert shard.live.tables.memory_bytes <= limit
    assert begin > 50_000
    assert (shard.rows([0, begin - 1]) == 1).all()
    assert when_folded(shard, push_of([0, begin - 1], np.full((2, DIM), 2, np.float32))).new_keys == 0


def test_rows_of_pushes_that_fail_give_their_memory_back(
    served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = served(LiveSettings(newer_memory_bytes=4 << 20))
    shard.push(push_of([5], row(1)))
    keys = np.arange(20_000, dtype=np.uint64)
    push = push_of(keys, np.full((len(keys), DIM), 2, np.float32))
    folding = shard.live._folding
    assert folding is not None
    with monkeypatch.context() as patch:
        patch.setattr(log_module.os, "pwrite", full_disk)
        for _ in range(30):
            with pytest.raises(LimitExceeded):
                shard.push(push)
        while folding._not_before_s == 0.0 and folding.due:
            time.sleep(0.001)
    folding._not_before_s = 0.0
    assert when_folded(shard, push).new_keys == len(keys) - 1
    assert (shard.rows([5, 19_999]) == 2).all()


def no_memory(*_: object) -> UInt64Array:
    raise MemoryError("not today")


def when_folded(shard: Served, push: PushRequest) -> PushReply:
    """Push, again and again while there is no memory."""
    end_s = soon()
    while True:
        try:
            return shard.push(push)
        except LimitExceeded:
            assert time.monotonic() < end_s
            time.sleep(0.01)


def full_disk(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def folded(shard: Served) -> None:
    """Have all that was pushed in a fold, and the log without it."""
    folding = shard.live._folding
    assert folding is not None
    folding.round()


def test_a_fold_that_is_gone_is_damage(served: Callable[..., Served], tmp_path: Path) -> None:
    shard = served()
    shard.push(push_of([5], row(1)))
    folded(shard)
    shard.push(push_of([6], row(2)))
    shard.live.close()
    shutil.rmtree(tmp_path / "shard-0.live" / "folds")
    again = served()
    assert "is missing" in again.live.warnings()[0]
    with pytest.raises(NotAnswered):
        again.rows([6])


def test_a_fold_of_another_shard_is_not_taken(served: Callable[..., Served], tmp_path: Path) -> None:
    shard = served()
    shard.push(push_of([5], row(1)))
    folded(shard)
    shard.live.close()
    live = LiveShard(Shard(1), tmp_path / "shard-0.live")
    live.close()
    assert "of shard 0" in live.warnings()[0]


@pytest.mark.parametrize("fold", [False, True])
def test_what_was_forgotten_does_not_come_back_with_a_restart(
    served: Callable[..., Served], tmp_path: Path, fold: bool
) -> None:
    shard = served()
    shard.push(push_of([5], row(1), writer=9, number=4))
    if fold:
        folded(shard)
    shard.push(push_of([6], row(1), writer=9, number=5))
    before = shard.rows([5, 6], as_exported=True).tolist()
    shard.shard.retire(MODEL, VERSION)
    shard.live.confirm([])
    shard.live.pushes.run(lambda: int(shard.live._forget() is None))
    shard.live.close()
    again = served()
    assert again.live.pushed == frozenset()
    assert again.rows([5, 6]).tolist() == before
    assert again.push(push_of([6], row(3), writer=9, number=4)).rows == 1  # its number is forgotten, too
    assert served().rows([6]).tolist() == [[3] * DIM]


def test_a_fold_that_was_being_deleted_is_not_damage(served: Callable[..., Served], tmp_path: Path) -> None:
    shard = served()
    shard.push(push_of([5], row(1)))
    folded(shard)
    left = tmp_path / "shard-0.live" / "folds" / "other" / "0" / "t" / ".fold-000001.tmp"
    left.mkdir(parents=True)
    again = served()
    assert again.live.warnings() == []
    assert again.rows([5]).tolist() == [[1] * DIM]
    assert not left.exists()


def test_a_disk_that_hangs_holds_up_nobody_who_asks_how_the_shard_is(served: Callable[..., Served]) -> None:
    shard = served()
    shard.push(push_of([5], row(1)))
    with ThreadPoolExecutor(1) as other, shard.live.tables.lock:  # as a push has it that is being written
        of_heartbeat = other.submit(
            lambda: (shard.live.pushed, shard.live.wanted, shard.live.tables.rows, shard.live.tables.memory_bytes > 0)
        )
        assert of_heartbeat.result(timeout=PATIENCE_S) == ({NAME}, frozenset(), 1, True)
        assert other.submit(shard.rows, [5]).result(timeout=PATIENCE_S).tolist() == [[1] * DIM]


def test_a_log_of_another_number_of_shards_is_told(served: Callable[..., Served]) -> None:
    shard = served()
    shard.push(push_of(np.arange(200, dtype=np.uint64), np.ones((200, DIM), np.float32)))
    assert shard.live.warnings() == []
    shard.shard.assign(EPOCH + 1, [ServedRanges(Ring.even([0, 1]), {})], [(MODEL, VERSION)])
    owned = shard.shard.owned(MODEL, "users")
    assert owned is not None
    foreign = int((owned[positions_of(np.arange(200, dtype=np.uint64)) >> np.uint64(48)] == 0).sum())
    shard.live.pushes.run(lambda: 0)
    while not shard.live.warnings():
        time.sleep(0.001)
    assert f"{foreign} rows that were pushed to this shard are of slots that another one" in shard.live.warnings()[0]
    shard.shard.assign(EPOCH + 2, [RING], [(MODEL, VERSION)])
    shard.live.pushes.run(lambda: 0)
    while shard.live.warnings():
        time.sleep(0.001)
