"""A shard that takes pushes: what pulls see, before and after restarts and folds, against a dict."""

from __future__ import annotations

import errno
import gc
import os
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.ps.errors import (
    CorruptData,
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotAnswered,
    NotFound,
    NotOwner,
    RingpullError,
    StaleLineage,
    StaleNumber,
    Unavailable,
    UnmetCondition,
)
from ringpull.ps.live import folding, live_shard
from ringpull.ps.live.fold import FoldWriter
from ringpull.ps.live.record import LiveName
from ringpull.ps.live.settings import Durability, LiveSettings
from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from ringpull.ps.spec import RowType
from ringpull.ps.store.base import Base
from ringpull.ps.store.newer.segments import Segments
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from tests.patience import PATIENCE_S
from tests.ps.live.pushing import EPOCH, LINEAGE, RING, placed, push_of
from tests.ps.live.served import DIM, Served, row
from tests.ps.tables import MODEL, VERSION, rows_request, write_table

NAME = LiveName(MODEL, LINEAGE, "users")


def test_pushed_rows_are_seen_and_the_exported_ones_are_still_there(served: Callable[..., Served]) -> None:
    shard = served()
    known, unknown = int(shard.table.keys[3]), 5
    before = shard.rows([known, unknown])
    reply = shard.push(push_of([known, unknown], np.stack([row(1)[0], row(2)[0]])))
    assert (reply.rows, reply.new_keys, reply.repeated) == (2, 2, 0)
    assert shard.rows([known, unknown]).tolist() == [[1] * DIM, [2] * DIM]
    assert shard.rows([known, unknown], as_exported=True).tolist() == before.tolist()
    later = shard.push(push_of([known, known], np.stack([row(7)[0], row(8)[0]])))  # the last of equal keys counts
    assert later.stamp > reply.stamp
    assert shard.rows([known]).tolist() == [[8] * DIM]
    shard.push(push_of([known], None))
    assert shard.rows([known]).tolist() == [list(shard.table.reference.default)]


@pytest.mark.parametrize("durability", [Durability.SYNC, Durability.WRITTEN])
def test_after_a_restart_all_is_as_it_was(served: Callable[..., Served], durability: Durability) -> None:
    shard = served(options := LiveSettings(durability=durability))
    known = int(shard.table.keys[3])
    shard.push(push_of([known, 5], np.stack([row(1)[0], row(2)[0]]), writer=9, number=4))
    shard.push(push_of([6, 7], np.stack([row(3)[0], row(4)[0]]), writer=9, number=5))
    last = shard.push(push_of([7, known], None, writer=9, number=6))
    before = shard.rows([known, 5, 6, 7])
    again = served(options)
    assert again.rows([known, 5, 6, 7]).tolist() == before.tolist()
    assert again.push(push_of([7, known], None, writer=9, number=6)).repeated == 2
    with pytest.raises(StaleNumber, match="number 5 after 6"):
        again.push(push_of([7], row(9), writer=9, number=5))
    assert again.push(push_of([8], row(9), writer=9, number=7)).stamp > last.stamp


def test_a_push_that_is_sent_again_applies_once(served: Callable[..., Served]) -> None:
    shard = served()
    first = push_of([5], row(1), writer=9, number=4)
    shard.push(first)
    shard.push(push_of([5], row(2)))  # another writer, without numbers
    assert shard.push(first) == PushReply(shard.push(first).stamp, 0, 0, 1)
    assert shard.rows([5]).tolist() == [[2] * DIM]
    wider = push_of([5, 6], np.stack([row(3)[0], row(4)[0]]), writer=9, number=4)  # cut by another map
    assert shard.push(wider).repeated == 1
    assert shard.rows([5, 6]).tolist() == [[2] * DIM, [4] * DIM]


def test_a_first_push_waits_until_it_is_confirmed(served: Callable[..., Served]) -> None:
    shard = served()
    late = shard.asked(push_of([5], row(1)), time.monotonic() + 0.05)
    assert isinstance(late.get(timeout=PATIENCE_S), DeadlineExceeded)
    before = shard.rows([5])
    waits = shard.asked(push_of([5], row(1)))
    while not shard.live.wanted:
        time.sleep(0.001)
    assert shard.rows([5]).tolist() == before.tolist()
    shard.live.confirm([NAME])
    assert isinstance(waits.get(timeout=PATIENCE_S), PushReply)
    assert shard.live.pushed == {NAME}
    again = served()  # noted in the log, so nothing is missing, even if nothing had come
    again.live.confirm([NAME])
    assert again.live.warnings() == []


def test_a_log_that_is_gone_is_told_and_the_table_answers_nothing(served: Callable[..., Served]) -> None:
    shard = served()
    shard.live.confirm([NAME])
    assert "not in its log, which is gone" in shard.live.warnings()[0]
    with pytest.raises(NotAnswered):
        shard.rows([5])
    with pytest.raises(UnmetCondition, match="are missing, so none are taken until a new lineage is published"):
        shard.push(push_of([5], row(1)))
    shard.live.confirm([])
    assert shard.rows([int(shard.table.keys[0])]).shape == (1, DIM)


def test_a_damaged_log_is_told_and_nothing_is_guessed(served: Callable[..., Served], tmp_path: Path) -> None:
    shard = served()
    for number in range(3):
        shard.push(push_of([5], row(number)))
    shard.live.close()
    log = tmp_path / "shard-0.live" / "log-000001"
    content = bytearray(log.read_bytes())
    content[content.rindex(b"RPLR", 0, content.rindex(b"RPLR")) + 70] ^= 1
    log.write_bytes(content)
    again = served()
    assert "log-000001" in again.live.warnings()[0]
    with pytest.raises(NotAnswered):
        again.rows([5])
    with pytest.raises(CorruptData, match="log-000001"):
        again.push(push_of([5], row(1)))


@pytest.mark.parametrize(
    ("push", "error", "reason"),
    [
        (
            push_of([5], row(1), lineage=7),
            StaleLineage,
            "lineage 0000000000000007 is meant, and open are versions of 0",
        ),
        (push_of([5], row(1), table="items"), NotFound, "no table 'items'"),
        (push_of([5], np.ones((1, DIM + 1), np.float32)), InvalidInput, "20 bytes of rows for 1 keys; a row has 16"),
        (push_of([5], [b"text"]), InvalidInput, "rows of bytes for 1 keys"),
    ],
)
def test_what_does_not_fit_is_refused(
    served: Callable[..., Served], push: PushRequest, error: type[RingpullError], reason: str
) -> None:
    shard = served()
    shard.push(push_of([5], row(3)))
    with pytest.raises(error, match=reason):
        shard.push(push)
    assert shard.rows([5]).tolist() == [[3] * DIM]


def test_without_a_data_folder_only_memory_takes_pushes(served: Callable[..., Served]) -> None:
    with pytest.raises(UnmetCondition, match="--data-dir, or with --push-durability memory"):
        served(folder=None).push(push_of([5], row(1)))
    shard = served(LiveSettings(durability=Durability.MEMORY), folder=None)
    shard.push(push_of([5], row(1)))
    assert shard.rows([5]).tolist() == [[1] * DIM]


def test_rows_of_a_table_that_takes_no_pushes_any_more_are_named(served: Callable[..., Served]) -> None:
    """Whoever serves it without `--live` sees it as it was exported, and is told that there is more."""
    shard = served()
    shard.push(push_of([5, 6], np.stack([row(1)[0], row(2)[0]])))
    assert shard.live.warnings() == []
    plain = replace(placed(shard.table.folder), live=frozenset())
    shard.shard.retire(MODEL, VERSION)
    shard.live.keep({})
    assert shard.live.warnings() == []
    shard.open(plain)
    assert shard.rows([5]).tolist() != [[1] * DIM]
    [told] = shard.live.warnings()
    assert "2 rows that were pushed to this shard are kept and not shown" in told
    assert f"--live {MODEL}/users" in told
    shard.shard.retire(MODEL, VERSION)
    shard.open(placed(shard.table.folder))
    assert shard.live.warnings() == []
    assert shard.rows([5]).tolist() == [[1] * DIM]


def test_what_is_of_no_open_lineage_is_forgotten(
    served: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_shard, "FORGET_AFTER_S", 0.0)
    shard = served()
    shard.push(push_of([5], row(1), writer=9, number=4))
    other = placed(shard.table.folder, lineage=LINEAGE + 1)
    shard.shard.retire(MODEL, VERSION)
    shard.open(other)
    assert shard.rows([5]).tolist() != [[1] * DIM]
    with pytest.raises(StaleLineage):
        shard.push(push_of([5], row(2)))
    shard.live.confirm([LiveName(MODEL, LINEAGE + 1, "users")])  # of which nothing is in the log: it is missing
    shard.live.confirm([])
    waits = shard.asked(push_of([6], row(2), lineage=LINEAGE + 1))
    while not shard.live.wanted:
        time.sleep(0.001)
    shard.live.confirm(shard.live.wanted)
    assert isinstance(waits.get(timeout=PATIENCE_S), PushReply)
    while NAME in shard.live.pushed:
        time.sleep(0.01)
    assert shard.live.pushed == {LiveName(MODEL, LINEAGE + 1, "users")}


def test_the_fold_before_the_last_goes_before_the_next_is_written(
    served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, folds, gone = served(), list[weakref.ref[Base]](), list[list[bool]]()

    class Watched(FoldWriter):
        def __init__(self, *args: Any) -> None:
            gc.collect()
            gone.append([each() is None for each in folds])
            super().__init__(*args)

    monkeypatch.setattr(folding, "FoldWriter", Watched)
    for number in range(4):
        shard.push(push_of([5], row(number)))
        shard.live._folding.round()  # type: ignore[union-attr]
        folds.append(weakref.ref(list(shard.live.tables.all()[0].fold_bases.values())[-1]))
        assert shard.rows([5]).tolist() == [[number] * DIM]
    assert gone == [[], [False], [True, False], [True, True, False]]


def test_of_a_round_that_failed_while_words_were_flipped_to_its_fold_nothing_stays(
    served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = served()
    shard.push(push_of([5, 6], np.concatenate([row(1), row(2)])))
    [table], folding_round = shard.live.tables.all(), shard.live._folding.round  # type: ignore[union-attr]
    folding_round()
    shard.push(push_of([6], None))

    def full(*_: object) -> None:
        raise LimitExceeded("no memory for the stamps")

    with monkeypatch.context() as patch:
        patch.setattr(Segments, "gone_apart", full)
        folding_round()
    assert shard.live.folds == 1
    assert shard.rows([5]).tolist() == [[1] * DIM]
    folding_round()
    assert shard.live.folds == 2
    assert len(table.segments._segments) == 2  # its fold, and stamps of keys that went
    for again in (shard, served()):
        assert again.rows([5]).tolist() == [[1] * DIM]


@pytest.mark.parametrize("row_type", [RowType.FLOAT32, RowType.BYTES])
def test_folds_keep_log_memory_and_files_bounded_and_change_no_answer(tmp_path: Path, row_type: RowType) -> None:
    table = write_table(tmp_path / "users", rows=50, dim=DIM, row_type=row_type)
    folder, rng = tmp_path / "shard-0.live", np.random.default_rng(5)
    options = LiveSettings(log_limit_bytes=200_000, newer_memory_bytes=64 << 20)
    shard, truth, rounds = Served(table, folder, options), dict[int, object](), 0
    for number in range(1, 400):
        keys = rng.integers(0, 500, 100).astype(np.uint64)
        if number % 7 == 0:
            push = push_of(keys, None, writer=3, number=number)
            truth.update(dict.fromkeys(keys.tolist()))
        elif row_type is RowType.BYTES:
            rows = [b"%d of %d" % (key, number) for key in keys.tolist()]
            push = push_of(keys, rows, writer=3, number=number)
            truth.update(zip(keys.tolist(), rows, strict=True))
        else:
            values = (keys[:, None] + np.arange(DIM) + number).astype(np.float32)
            push = push_of(keys, values, writer=3, number=number)
            truth.update(zip(keys.tolist(), map(tuple, values.tolist()), strict=True))
        while True:
            try:
                shard.push(push)
                break
            except LimitExceeded:
                time.sleep(0.01)
        if number % 130 == 0:
            rounds += shard.live._folding.rounds  # type: ignore[union-attr]
            shard.live.close()
            shard = Served(table, folder, options)
        assert shard.live.log_bytes < 3 * options.log_limit_bytes
    rounds += shard.live._folding.rounds  # type: ignore[union-attr]
    assert rounds > 3
    reply = shard.shard.pull(rows_request("users", np.array(sorted(truth), np.uint64)))
    for at, (key, wanted) in enumerate(sorted(truth.items())):
        if row_type is RowType.BYTES:
            begin = int(reply.lengths[:at].sum())
            found = reply.data[begin : begin + int(reply.lengths[at])].tobytes()
            assert found == (wanted or b""), key
            assert bool(reply.found[at]) is (wanted is not None)
        else:
            found_row = tuple(reply.values[at * DIM : (at + 1) * DIM].tolist())
            assert found_row == (tuple(table.reference.default.tolist()) if wanted is None else wanted), key
    shard.live.close()
    shard = Served(table, folder)
    assert len(list(folder.glob("folds/*/*/users/fold-*"))) == 1
    with pytest.raises(StaleNumber):
        shard.push(push_of(keys, None, writer=3, number=5))
    shard.live.close()


def test_a_sync_that_fails_acknowledges_nothing_and_a_retry_applies_once(
    served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = served()
    shard.push(push_of([5], row(1), writer=9, number=1))
    real = os.fdatasync

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fdatasync", failing)
    push = push_of([5], row(2), writer=9, number=2)
    for _ in range(2):
        with pytest.raises(Unavailable, match="broken"):
            shard.push(push)
    monkeypatch.setattr(os, "fdatasync", real)
    assert shard.push(push).repeated == 1  # and written anew, now on disk
    assert served().rows([5]).tolist() == [[2] * DIM]


def test_a_full_disk_refuses_pushes_and_answers_pulls(
    served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = served()
    shard.push(push_of([5], row(1), writer=9, number=1))
    real = os.pwrite

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(LimitExceeded, match="No space left on device") as raised:
        shard.push(push_of([5, 6], np.stack([row(2)[0], row(2)[0]]), writer=9, number=2))
    assert raised.value.retry_after_s
    assert shard.rows([5]).tolist() == [[1] * DIM]
    assert shard.live.tally.pushes["refused"] == 1
    monkeypatch.setattr(os, "pwrite", real)
    assert shard.push(push_of([5], row(3), writer=9, number=2)).repeated == 0
    assert served().rows([5]).tolist() == [[3] * DIM]


def test_memory_that_is_used_up_refuses_pushes_and_answers_pulls(served: Callable[..., Served]) -> None:
    shard = served(LiveSettings(durability=Durability.MEMORY, newer_memory_bytes=1 << 16), folder=None)
    shard.push(push_of([5], row(1)))
    keys = np.arange(10_000, dtype=np.uint64)
    with pytest.raises(LimitExceeded, match="--newer-memory") as raised:
        shard.push(push_of(keys, np.ones((10_000, DIM), np.float32)))
    assert raised.value.retry_after_s
    assert shard.live.tally.pushes["refused"] == 1
    assert shard.rows([5]).tolist() == [[1] * DIM]


def test_slots_that_have_or_get_other_owners_take_no_pushes(served: Callable[..., Served]) -> None:
    shard = served()
    shard.push(push_of([5], row(1)))
    two = ServedRanges(Ring.even([0, 1], 2), {(MODEL, "users"): 2})
    shard.shard.assign(EPOCH, [two], [(MODEL, VERSION)])
    with pytest.raises(UnmetCondition, match="it has 2 copies, and pushes are taken by tables of one"):
        shard.push(push_of([5], row(2)))
    half = ServedRanges(Ring.even([0, 1]), {})
    shard.shard.assign(EPOCH, [RING, half], [(MODEL, VERSION)])
    with pytest.raises(Unavailable, match="slots are given to other shards just now"):
        shard.push(push_of([5], row(2)))
    shard.shard.assign(EPOCH, [half], [(MODEL, VERSION)])
    with pytest.raises(NotOwner):
        shard.push(push_of(list(range(50)), np.ones((50, DIM), np.float32)))


def test_a_log_that_is_not_read_as_pushes_are_in_memory_now_is_named(
    served: Callable[..., Served], tmp_path: Path
) -> None:
    """It is not said that its rows are gone."""
    served().push(push_of([5], row(1)))
    shard = served(LiveSettings(durability=Durability.MEMORY))
    [told] = shard.live.warnings()
    assert f"the log in {tmp_path / 'shard-0.live'} is not read with --push-durability memory" in told
    shard.live.confirm([LiveName(MODEL, LINEAGE, "users")])  # which the coordinator remembers, perhaps
    [told] = shard.live.warnings()
    assert f"may be in the log in {tmp_path / 'shard-0.live'}, which --push-durability memory does not read" in told
    with pytest.raises(NotAnswered):
        shard.rows([5])
    shard = served()
    assert (shard.live.warnings(), shard.rows([5]).tolist()) == ([], row(1).tolist())
