"""Replay: rows of the log are found where they lie in its files, with their stamps, as a dict has them."""

from __future__ import annotations

import gc
import itertools
import mmap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import CorruptData, LimitExceeded
from ringpull.ps.live.live_table import LiveTable
from ringpull.ps.live.live_tables import LiveTables
from ringpull.ps.live.log import Log
from ringpull.ps.live.numbers import Numbers, slots_of
from ringpull.ps.live.record import LiveName, Record, RecordKind
from ringpull.ps.live.replay import Replay
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.newer.directory import LAST_POSITION
from ringpull.ps.store.newer.logged import LoggedRows

NAMES = {LiveName("ranker", 1, "user"): 4, LiveName("ranker", 1, "item"): 20, LiveName("ranker", 1, "text"): 0}


def opened(folder: Path, tables: LiveTables) -> Log:
    replay = Replay(tables, Numbers(), 0.0)
    log = Log.open(folder, shard=0, deployment="", replay=replay.take, file_bytes=20_000)
    replay.end()
    return log


def test_rows_and_stamps_are_those_of_the_last_push_of_each_key(tmp_path: Path) -> None:
    rng, truth = np.random.default_rng(1), {name: dict[int, tuple[int, bytes | None]]() for name in NAMES}
    keys = rng.integers(0, 2**64, 300, np.uint64, endpoint=False)
    log = opened(tmp_path, LiveTables(0))
    for stamp in range(1, 400):
        name = list(NAMES)[int(rng.integers(3))]
        positions = rng.choice(keys, int(rng.integers(1, 9)), replace=False)
        lengths = np.zeros(0, np.uint32)
        if stamp % 7 == 0:
            kind, rows = RecordKind.GONE, [None] * len(positions)
        else:
            size = NAMES[name]
            kind, rows = RecordKind.ROWS, [rng.bytes(size or int(rng.integers(0, 30))) for _ in positions]
            lengths = lengths if size else np.array([len(row) for row in rows], np.uint32)
        content = np.frombuffer(b"".join(row or b"" for row in rows), np.uint8)
        log.append([Record(kind, name, NAMES[name], stamp, 0, 0, positions, content, lengths)])
        truth[name].update({int(key): (stamp, row) for key, row in zip(positions, rows, strict=True)})
    log.sync()
    assert len(log.files) > 2
    log.close()
    tables = LiveTables(0)
    opened(tmp_path, tables).close()
    for name, wanted in truth.items():
        table = tables.get(name)
        assert table is not None
        positions, words, _ = table.pushed.walk_between(0, LAST_POSITION)
        stamps, gone = table.segments.stamps(words), table.segments.is_gone(words)
        rows = iter(_rows(table.segments.rows(words[~gone])))
        found = {
            int(key): (int(stamp), None if is_gone else next(rows))
            for key, stamp, is_gone in zip(positions, stamps, gone, strict=True)
        }
        assert found == wanted
        assert (table.segments.memory_bytes > 2 * 64 * 1024) is not bool(NAMES[name]), "only rows of bytes are copied"
        for number in table.segments.seal():
            table.segments.drop(number)
    gc.collect()
    assert tables.budget.used_bytes == 0


def _rows(rows: object) -> list[bytes]:
    if isinstance(rows, np.ndarray):
        return [row.tobytes() for row in rows]
    data, offsets = rows.data, rows.offsets  # type: ignore[attr-defined]
    return [data[a:b].tobytes() for a, b in itertools.pairwise(offsets.tolist())]


def test_a_table_that_was_forgotten_begins_anew_in_the_same_file(tmp_path: Path) -> None:
    name = LiveName("ranker", 1, "user")
    log = opened(tmp_path, LiveTables(0))
    some = np.arange(2, dtype=np.uint64) << np.uint64(60)
    for stamp in (1, 3):
        log.append([Record(RecordKind.ROWS, name, 4, stamp, 0, 0, some, np.full(8, stamp, np.uint8))])
        if stamp == 1:
            log.append([Record(RecordKind.FORGOTTEN, name, 4, 2)])
    log.close()
    tables = LiveTables(0)
    opened(tmp_path, tables).close()
    table = tables.get(name)
    assert table is not None
    words = table.pushed.get(some)
    assert table.segments.stamps(words).tolist() == [3, 3]
    assert _rows(table.segments.rows(words)) == [b"\3\3\3\3"] * 2


@pytest.mark.parametrize("alone", [False, True])
def test_a_push_that_is_refused_again_has_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    """It failed after it was logged, and its writer sends it once more: that must not be taken for a repetition."""
    name, writer = LiveName("ranker", 1, "user"), 77
    log = opened(tmp_path, LiveTables(0))
    some = np.arange(1, 4, dtype=np.uint64) << np.uint64(60)
    for number in (1, 2, 3):
        at, rows = some[number - 1 : number], np.full(4, number, np.uint8)
        if not alone or number == 2:
            log.append([Record(RecordKind.ROWS, name, 4, number, writer, number, at, rows)])
    log.close()
    show = LiveTable.show

    def refusing(table: LiveTable, positions: UInt64Array, words: UInt64Array, stamp: int) -> tuple[int, list[int]]:
        if some[1] in positions:
            raise LimitExceeded("too close together")
        return show(table, positions, words, stamp)

    monkeypatch.setattr(LiveTable, "show", refusing)
    tables, numbers = LiveTables(0), Numbers()
    replay = Replay(tables, numbers, 0.0)
    log = Log.open(tmp_path, shard=0, deployment="", replay=replay.take)
    replay.end()
    log.close()
    assert numbers.last(name, writer, slots_of(some)).tolist() == ([0, 0, 0] if alone else [1, 0, 3])
    assert replay.rows == (0 if alone else 2)


def test_numbers_that_a_fold_wrote_stay_above_those_of_pushes_before(tmp_path: Path) -> None:
    name, writer = LiveName("ranker", 1, "user"), 77
    log = opened(tmp_path, LiveTables(0))
    some = np.arange(1, 2, dtype=np.uint64) << np.uint64(60)
    log.append([Record(RecordKind.ROWS, name, 4, 1, writer, 5, some, np.zeros(4, np.uint8))])
    log.append([Record(RecordKind.NUMBERS, name, 4, 2, writer, 0, some, np.array([9], np.uint64).view(np.uint8))])
    log.close()
    numbers = Numbers()
    replay = Replay(LiveTables(0), numbers, 0.0)
    log = Log.open(tmp_path, shard=0, deployment="", replay=replay.take)
    replay.end()
    log.close()
    assert numbers.last(name, writer, slots_of(some)).tolist() == [9]


def test_rows_of_another_size_are_damage(tmp_path: Path) -> None:
    name = LiveName("ranker", 1, "user")
    log = opened(tmp_path, LiveTables(0))
    for stamp, row_bytes in ((1, 4), (2, 8)):
        rows = np.zeros(row_bytes, np.uint8)
        log.append([Record(RecordKind.ROWS, name, row_bytes, stamp, 0, 0, np.zeros(1, np.uint64), rows)])
    log.close()
    with pytest.raises(CorruptData, match="pushed rows have 8 bytes, where its others have 4"):
        opened(tmp_path, LiveTables(0))


def test_stretches_of_one_row_take_no_more_memory_than_their_numbers() -> None:
    """So they come where pushes of one row go to two tables in turns."""
    count, row_bytes = 20_000, 8
    rows, began = LoggedRows(mmap.mmap(-1, count * 16), row_bytes), np.random.default_rng(1).permutation(count) * 16
    tracemalloc.start()
    for begin in began.tolist():
        rows.add(np.array([begin]), np.array([1]), np.array([begin + 7], np.uint64))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * 16 * count
    assert np.array_equal(rows.stamps(began.astype(np.uint64)), began.astype(np.uint64) + np.uint64(7))
