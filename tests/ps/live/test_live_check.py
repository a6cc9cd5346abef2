"""Pushed rows whose files are damaged while they are served: each answer is the row that was pushed, or a refusal."""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.errors import LimitExceeded, NotAnswered
from ringpull.ps.live import live_check
from ringpull.ps.live.block_file import BLOCK_BYTES
from ringpull.ps.live.folding import Folding
from ringpull.ps.live.log_check import damaged_in
from ringpull.ps.live.log_file import log_file_path
from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.process import ShardProcess
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.block_check import Reader, as_bad
from ringpull.ps.wire.newest_messages import NewestRequest
from tests.ps.damaging import flip
from tests.ps.live.pushing import LINEAGE, push_of
from tests.ps.live.served import DIM, Served, row
from tests.ps.tables import MODEL, VERSION

KEYS = range(1000, 1120)
"""More than a block of the log: its last one is written again with the next push, which mends what is damaged in it."""
ROW_BYTES = DIM * 4

Serve = Callable[..., Served]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return log_file_path(tmp_path / "shard-0.live", 1)


def push_all(shard: Served) -> None:
    """Push a row to each key, in a record of its own."""
    for key in KEYS:
        shard.push(push_of([key], row(key)))


def look(shard: Served) -> list[str]:
    """Look at all files; return what an operator is told."""
    shard.live.files.look(lambda size: None)
    return shard.live.warnings()


def refused(shard: Served) -> set[int]:
    """The keys that are not answered; all others have the row that was pushed."""
    found = set()
    for key in KEYS:
        try:
            answer = shard.rows([key])
        except NotAnswered:
            found.add(key)
        else:
            assert answer.tolist() == row(key).tolist(), key
    return found


def folding_of(shard: Served) -> Folding:
    assert shard.live._folding is not None
    return shard.live._folding


def place_of(log: Path, key: int) -> int:
    """Where the row of a key begins in the log."""
    return log.read_bytes().index(row(key).tobytes())


@pytest.mark.parametrize(
    "offset",
    [
        pytest.param(0, id="the row"),
        pytest.param(ROW_BYTES - 1, id="its last byte"),
        pytest.param(-8, id="the position"),
        pytest.param(-72, id="the magic"),
        pytest.param(-68, id="the size"),
        pytest.param(-64, id="the checksum"),
        pytest.param(-24, id="the kind"),
    ],
)
def test_a_record_that_is_damaged_under_its_map_is_refused_and_no_other(served: Serve, log: Path, offset: int) -> None:
    push_all(served())
    shard = served()
    assert (look(shard), refused(shard)) == ([], set())
    at = place_of(log, 1020) + offset
    flip(log, at)
    [told] = look(shard)
    assert f"pushed rows are damaged in {log}: 1 slots are not answered for here" in told
    assert refused(shard) == {1020}
    flip(log, at)
    assert (look(shard), refused(shard)) == ([], set())


def test_wherever_a_byte_is_flipped_no_answer_is_another_row(served: Serve, log: Path) -> None:
    push_all(served())
    shard, random, size = served(), Random(1), log.stat().st_size
    folding_of(shard)._not_before_s = math.inf  # Where no row is damaged the log would be written anew.
    for at in (0, 8, 25, *(random.randrange(32, size) for _ in range(60))):
        flip(log, at)
        assert damaged_in(log, lambda size: None)
        look(shard)
        refused(shard)
        flip(log, at)
    assert (look(shard), refused(shard)) == ([], set())


def test_rows_that_are_pushed_again_are_answered_again(served: Serve, log: Path) -> None:
    push_all(served())
    shard = served()
    for key in (1005, 1006, 1007):
        flip(log, place_of(log, key))
    look(shard)
    assert refused(shard) == {1005, 1006, 1007}
    for key in (1005, 1006):
        shard.push(push_of([key], row(key)))
    look(shard)
    assert refused(shard) == {1007}
    shard.push(push_of([1007], None))  # or taken out
    look(shard)
    assert shard.rows([1007]).tolist() == shard.rows([5000]).tolist()  # of which there never was a row


def test_a_log_that_is_cut_short_under_its_map_is_not_read_there(served: Serve, log: Path) -> None:
    """To read it would end the process. The keys before the cut are answered."""
    shard = served()
    for key in KEYS:  # 200 rows each: the records are pages apart
        shard.push(push_of([key, *range(10_000, 10_200)], np.concatenate([row(key), np.zeros((200, DIM), np.float32)])))
    shard = served()
    os.truncate(log, place_of(log, 1020) - 100)
    look(shard)
    assert refused(shard) == set(KEYS[20:])


def test_rows_that_the_storage_has_lost_are_refused_and_no_others(
    served: Serve, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read them through the map would end the process."""
    push_all(served())
    shard, real = served(), os.preadv
    lost = BLOCK_BYTES, 2 * BLOCK_BYTES

    def failing(descriptor: int, buffers: list[memoryview], at: int) -> int:
        if lost[0] <= at < lost[1] and os.fstat(descriptor).st_ino == log.stat().st_ino:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, [buffers[0][: lost[0] - at]] if at < lost[0] else buffers, at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", failing)
        [told] = look(shard)
    assert f"pushed rows are damaged in {log}" in told
    size = place_of(log, 1001) - place_of(log, 1000)
    begins = {key: place_of(log, key) for key in KEYS}
    assert refused(shard) == {
        key for key, at in begins.items() if at + ROW_BYTES > lost[0] and at + ROW_BYTES - size < lost[1]
    }
    assert (look(shard), refused(shard)) == ([], set())


def test_nothing_damaged_is_folded(served: Serve, log: Path, tmp_path: Path) -> None:
    """A fold would have a checksum of the damaged row, and call it whole for ever."""
    push_all(served())
    shard = served()
    flip(log, place_of(log, 1020))
    folding_of(shard).round()
    assert folding_of(shard).rounds == 0
    assert refused(shard) == {1020}  # which the round has found
    shard.push(push_of([1020], row(1020)))
    folding_of(shard)._not_before_s = 0
    folding_of(shard).round()
    assert (folding_of(shard).rounds, look(shard), refused(shard)) == (1, [], set())
    assert not log.exists()
    again = served()
    assert (look(again), refused(again)) == ([], set())


def test_a_full_log_takes_what_replaces_damaged_rows_since_nothing_is_folded_before(served: Serve, log: Path) -> None:
    push_all(served())
    limit = 1 << 20
    shard = served(LiveSettings(log_limit_bytes=limit))
    flip(log, place_of(log, 1020))
    look(shard)
    folding_of(shard)._not_before_s = math.inf
    others = push_of(range(10_000, 14_000), np.zeros((4000, DIM), np.float32))
    while shard.live.log_bytes <= limit:
        shard.push(others)
    with pytest.raises(LimitExceeded, match=r"when it was folded, once damaged rows of model/users of .* were pushed"):
        shard.push(others)
    shard.push(push_of([1020], row(1020)))
    folding_of(shard).round()
    assert (folding_of(shard).rounds, look(shard), refused(shard)) == (1, [], set())
    shard.push(others)


def test_nor_is_it_given_to_a_compaction(served: Serve, log: Path) -> None:
    push_all(served())
    shard = served()
    flip(log, place_of(log, 1020))
    shard.live.stamp(MODEL, LINEAGE, "users")
    with pytest.raises(NotAnswered, match="they are damaged here"):
        shard.shard.newest(NewestRequest(MODEL, VERSION, "users", 0, 65_536, 0, 1 << 20))
    assert refused(shard) == {1020}


@pytest.mark.parametrize("again", [False, True], ids=["goes on", "restarts"])
def test_a_fold_that_is_damaged_is_refused_also_after_a_restart(served: Serve, tmp_path: Path, again: bool) -> None:
    memory = CheckedRows(tmp_path / "checked")
    shard = served(memory=memory)
    push_all(shard)
    folding_of(shard).round()
    assert (look(shard), refused(shard)) == ([], set())
    [fold] = (tmp_path / "shard-0.live" / "folds").glob("*/*/*/fold-*")
    rows = fold / "rows" / "rows"
    flip(rows, rows.read_bytes().index(row(1020).tobytes()))
    [told] = look(shard)
    assert f"pushed rows are damaged in {rows}" in told
    if again:
        shard = served(memory=CheckedRows(tmp_path / "checked"))
        assert "pushed rows are damaged" in " ".join(shard.live.warnings())
    assert 1020 in refused(shard)  # with its block
    for key in refused(shard):
        shard.push(push_of([key], row(key)))
    assert (look(shard), refused(shard)) == ([], set())
    folding_of(shard).round()
    assert (folding_of(shard).rounds, look(served())) == (1 if again else 2, [])


def test_a_fold_that_nothing_names_any_more_is_not_looked_at(served: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its segment's number may be another's by now, whose slots would be closed."""
    shard, looked = served(), list[Base]()
    for _ in range(2):
        push_all(shard)
        folding_of(shard).round()
    [table] = shard.live.tables.all()
    before, last = table.fold_bases.values()

    def bad(base: Base, block: int, _: Reader) -> BadBlock | None:
        looked.append(base)
        return as_bad(base, block) if base is before else None

    monkeypatch.setattr(live_check, "bad_rows", bad)
    assert look(shard) == []
    assert set(looked) == {last}


@pytest.mark.parametrize("what", ["damaged", "its header damaged", "deleted"])
def test_a_log_that_nobody_reads_any_more_is_written_anew(served: Serve, log: Path, what: str) -> None:
    """Memory has its rows. The next start would find damage in the middle, and answer for nothing."""
    shard = served()
    push_all(shard)
    shard.live.pushes.run(shard.live._log.roll)  # type: ignore[union-attr]
    if what == "deleted":
        log.unlink()
    else:
        flip(log, place_of(log, 1020) if what == "damaged" else 25)
    [told] = look(shard)
    assert told.startswith(f"{log}: the log of pushes is damaged, or gone")
    while not shard.live.folds:  # which comes by itself
        time.sleep(0.01)
    assert (look(shard), refused(shard), folding_of(shard).due) == ([], set(), False)
    again = served()
    assert (look(again), refused(again)) == ([], set())


@pytest.mark.medium
@pytest.mark.net
def test_a_shard_that_scrubs_looks_at_its_pushed_rows(served: Serve, log: Path, tmp_path: Path) -> None:
    shard = served()
    push_all(shard)
    shard.live.close()
    process = ShardProcess(0, data_dir=tmp_path, scrub_bytes_per_s=1 << 30)
    try:
        assert process.heartbeat().warnings == ()
        flip(log, place_of(log, 1020))
        while "pushed rows are damaged" not in " ".join(process.heartbeat().warnings):
            time.sleep(0.01)
        assert process._scrubber.bytes > 0
    finally:
        process.stop(grace_s=5.0)
