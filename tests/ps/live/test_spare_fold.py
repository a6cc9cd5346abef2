"""Folds that are written over the one before the last: no reader notices, and a crash at any step loses nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.ps.errors import LimitExceeded, Unavailable
from ringpull.ps.live import fold as fold_module
from ringpull.ps.live.live_shard import LiveShard
from ringpull.ps.live.live_table import LiveTable
from ringpull.ps.live.log import Log
from ringpull.ps.process import ShardProcess
from ringpull.ps.spec import RowType
from ringpull.ps.store import base_writer
from ringpull.ps.store.base import Base
from ringpull.ps.store.raw_rows import flat
from tests.ps.damaging import flip
from tests.ps.live.pushing import EPOCH, RING, placed, push_of
from tests.ps.live.served import DIM, Served, row
from tests.ps.live.test_folding import OfTwo, failing_flip, fold, folds, of_two
from tests.ps.tables import MODEL, VERSION, WrittenTable, write_table

Serve = Callable[..., Served]
KEYS = range(1000, 1300)

__all__ = ["of_two"]


@pytest.fixture(autouse=True)
def _small_folds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds of a few rows are written over, too; and shards begin no round beside that of a test."""
    monkeypatch.setattr(fold_module, "MIN_SPARE_BYTES", 1)
    monkeypatch.setattr(LiveShard, "_round", lambda _: None)


def push_all(shard: Served, number: int, keys: range = KEYS, table: str = "users") -> None:
    rows = np.arange(keys.start, keys.stop, dtype=np.float32)[:, None] * 10 + np.full(DIM, number, np.float32)
    shard.push(push_of(keys, rows, table=table))


def has_all(shard: Served, number: int, keys: range = KEYS) -> bool:
    wanted = np.arange(keys.start, keys.stop)[:, None] * 10 + np.full(DIM, number)
    return bool((shard.rows(list(keys)) == wanted).all())


def rows_file(tmp_path: Path, table: str = "users") -> Path:
    """The rows of the fold of a table that is used."""
    [path] = (tmp_path / "shard-0.live" / "folds").glob(f"*/*/{table}/fold-*/rows/rows")
    return path


def table_of(shard: Served) -> LiveTable:
    [table] = shard.live.tables.all()
    return table


def used(shard: Served) -> Base:
    """The rows of the fold that is used."""
    table = table_of(shard)
    assert table.fold is not None
    return table.fold_bases[table.fold]


@pytest.mark.parametrize("more", [0, 500, -250], ids=["as large", "larger", "smaller"])
def test_a_fold_is_written_over_the_one_before_the_last(served: Serve, tmp_path: Path, more: int) -> None:
    shard, inodes = served(), list[int]()
    for number in range(1, 5):
        push_all(shard, number)
        if number == 3:
            if more > 0:
                push_all(shard, number, range(5000, 5000 + more))
            elif more:
                shard.push(push_of(range(KEYS.start, KEYS.start - more), None))
        assert fold(shard) == number
        inodes.append(rows_file(tmp_path).stat().st_ino)
        if number < 3:
            assert has_all(shard, number)
    assert inodes[2:] == inodes[:2]
    assert rows_file(tmp_path).stat().st_size == used(shard).rows * 4 * DIM
    assert used(shard).verify() == []
    for each in (shard, served()):
        assert has_all(each, 4)
        if more > 0:
            assert has_all(each, 3, range(5000, 5000 + more))
    assert folds(tmp_path) == ["fold-000004"]


@pytest.mark.parametrize("length", [40, 9, 40_000], ids=["as long", "shorter", "longer"])
def test_rows_of_bytes_are_too(tmp_path: Path, length: int) -> None:
    written = write_table(tmp_path / "users", rows=50, dim=DIM, row_type=RowType.BYTES)
    shard, inodes = Served(written, tmp_path / "shard-0.live"), list[int]()
    for number in range(1, 5):
        size = length if number == 3 else 40
        shard.push(push_of(KEYS, [b"%d of %d".ljust(size) % (key, number) for key in KEYS]))
        assert fold(shard) == number
        inodes.append(rows_file(tmp_path).stat().st_ino)
        base = used(shard)
        assert base.verify() == []
        assert sorted(flat(base.raw_rows(0, base.rows)).tobytes().split()) == sorted(
            b" ".join(b"%d of %d" % (key, number) for key in KEYS).split()
        )
    assert inodes[2:] == inodes[:2]
    shard.live.close()


def test_who_reads_a_fold_still_sees_what_it_was(served: Serve, tmp_path: Path) -> None:
    shard = served()
    push_all(shard, 1)
    fold(shard)
    rows, positions = used(shard).raw_rows(0, len(KEYS)), used(shard).positions_slice(0, len(KEYS))
    were = [flat(rows).tobytes(), positions.tobytes()]
    inode = rows_file(tmp_path).stat().st_ino
    for number in range(2, 6):
        if number == 5:
            del rows  # but for its positions
        push_all(shard, number)
        assert fold(shard) == number
        assert rows_file(tmp_path).stat().st_ino != inode
        assert positions.tobytes() == were[1]
        assert number == 5 or flat(rows).tobytes() == were[0]
        assert has_all(shard, number)


def test_a_fold_that_is_read_still_is_no_spare_but_goes(served: Serve, tmp_path: Path) -> None:
    shard = served()
    push_all(shard, 1)
    fold(shard)
    held = used(shard)
    push_all(shard, 2)
    fold(shard)
    assert folds(tmp_path) == [".fold-000001.spare.tmp", "fold-000002"]
    push_all(shard, 3)
    fold(shard)
    assert folds(tmp_path) == [".fold-000002.spare.tmp", "fold-000003"]
    assert held.verify() == []


def test_a_file_that_has_another_name_is_not_written_over(served: Serve, tmp_path: Path) -> None:
    shard = served()
    push_all(shard, 1)
    fold(shard)
    kept = tmp_path / "kept"
    os.link(rows_file(tmp_path), kept)
    was = kept.read_bytes()
    for number in (2, 3, 4):
        push_all(shard, number)
        fold(shard)
        assert has_all(shard, number)
        assert kept.read_bytes() == was


def test_each_table_has_its_own(of_two: Serve, tmp_path: Path) -> None:
    shard, inodes = of_two(), list[tuple[int, int]]()
    assert isinstance(shard, OfTwo)
    for number in range(1, 5):
        push_all(shard, number)
        push_all(shard, number + 1, table="items")
        assert fold(shard) == number
        inodes.append((rows_file(tmp_path).stat().st_ino, rows_file(tmp_path, "items").stat().st_ino))
    assert inodes[2:] == inodes[:2]
    assert len({each for pair in inodes for each in pair}) == 4
    for each in (shard, of_two()):
        assert has_all(each, 4)
        assert each.item(1001) == (row(10015)[0]).tolist()  # type: ignore[attr-defined]


def test_nothing_is_kept_beyond_the_end_of_the_shard(served: Serve, tmp_path: Path) -> None:
    shard = served()
    for number in (1, 2):
        push_all(shard, number)
        fold(shard)
    assert folds(tmp_path) == [".fold-000001.spare.tmp", "fold-000002"]
    shutil.copytree(tmp_path / "shard-0.live", tmp_path / "killed.live")
    shard.live.close()
    assert folds(tmp_path) == ["fold-000002"]
    again = served(folder=tmp_path / "killed.live")
    assert has_all(again, 2)
    assert [path.name for path in (tmp_path / "killed.live" / "folds").glob("*/*/users/*")] == ["fold-000002"]


class OfProcess(Served):
    """Shard of a process over one table."""

    def __init__(self, table: WrittenTable, process: ShardProcess) -> None:
        self.table, self.shard, self.live = table, process._shard, process._live
        self.open(placed(table.folder))
        self.shard.assign(EPOCH, [RING], [(MODEL, VERSION)])


@pytest.mark.net
def test_a_process_that_takes_no_pushes_any_more_deletes_it_and_answers(table: WrittenTable, tmp_path: Path) -> None:
    process = ShardProcess(0, data_dir=tmp_path)
    try:
        shard = OfProcess(table, process)
        for number in (1, 2):
            push_all(shard, number)
            fold(shard)
        assert folds(tmp_path) == [".fold-000001.spare.tmp", "fold-000002"]
        for _ in range(2):
            process.end_pushes()
            assert folds(tmp_path) == ["fold-000002"]
            with pytest.raises(Unavailable, match="the shard ends"):
                push_all(shard, 3)
            assert has_all(shard, 2)
            assert process.heartbeat().log_bytes > 0
    finally:
        process.stop()


@pytest.mark.parametrize("refuse", [failing_flip(1), None], ids=["while it is used", "while it is written"])
def test_a_round_that_fails_over_a_spare_leaves_the_fold_that_is_used(
    served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[pytest.MonkeyPatch], None] | None
) -> None:
    shard = served()
    for number in (1, 2, 3):
        push_all(shard, number)
        if number < 3:
            fold(shard)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if refuse is None:
            patch.setattr(base_writer._File, "_flush", full)
        else:
            refuse(patch)
        assert fold(shard) == 2
    assert folds(tmp_path) == ["fold-000002"]
    assert has_all(shard, 3)
    again = served()
    assert has_all(again, 3)
    for number in (4, 5):
        push_all(again, number)
        fold(again)
        assert has_all(again, number)


class Steps:
    """Copies of a folder as it was before and after each step of what is done there."""

    def __init__(self, folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._to, self.copies = folder, to, list[Path]()
        self._busy = False
        for owner, name in (
            (os, "rename"),
            (os, "truncate"),
            (os, "fsync"),
            (os, "unlink"),
            (os, "rmdir"),
            (Path, "rename"),
            (base_writer._File, "_put"),
        ):
            monkeypatch.setattr(owner, name, self._seen(getattr(owner, name)))

    def _seen(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **given: Any) -> Any:
            self._copy()
            try:
                return real(*args, **given)
            finally:
                self._copy()

        return call

    def _copy(self) -> None:
        if not self._busy:
            self._busy = True
            self.copies.append(self._to / f"{len(self.copies)}.live")
            shutil.copytree(self._folder, self.copies[-1])
            self._busy = False


@pytest.fixture
def begun(table: WrittenTable) -> Iterator[Callable[[Path], Served]]:
    """Function that starts a shard over any folder, one at a time."""
    running: list[Served] = []

    def start(folder: Path) -> Served:
        for each in running:
            each.live.close()
        running[:] = [Served(table, folder)]
        return running[-1]

    yield start
    for each in running:
        each.live.close()


@pytest.mark.medium
@pytest.mark.parametrize("keys", [KEYS, range(KEYS.start, KEYS.start + 600)], ids=["as large", "larger"])
def test_a_crash_at_any_step_loses_nothing(
    served: Serve, begun: Callable[[Path], Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: range
) -> None:
    shard = served()
    for number in (1, 2):
        push_all(shard, number)
        fold(shard)
    push_all(shard, 3, keys)
    with monkeypatch.context() as patch:
        steps = Steps(tmp_path / "shard-0.live", tmp_path, patch)
        assert fold(shard) == 3
    assert len(steps.copies) > 50
    states = set()
    for copy in steps.copies:
        states.add(tuple(sorted(path.name for path in copy.glob("folds/*/*/users/*"))))
        again = begun(copy)
        assert again.live.warnings() == []
        assert has_all(again, 3, keys)
        assert len(list(copy.glob("folds/*/*/users/*"))) == 1
        assert used(again).verify() == []
    assert {
        (".fold-000001.spare.tmp", "fold-000002"),
        (".fold-000001.spare.tmp", ".fold-000003.tmp", "fold-000002"),
        (".fold-000003.tmp", "fold-000002"),
        ("fold-000002", "fold-000003"),
        (".fold-000002.spare.tmp", "fold-000003"),
    } <= states


def test_a_power_cut_does_not_bring_back_the_name_of_what_is_written_over(
    served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = served()
    for number in (1, 2):
        push_all(shard, number)
        fold(shard)
    folder = tmp_path / "shard-0.live" / "folds"
    [folder] = folder.glob("*/*/users")
    steps: list[tuple[str | int, ...]] = []
    rename, fsync = os.rename, os.fsync

    def renamed(source: str | Path, target: str | Path, **given: Any) -> None:
        steps.append(("rename", str(source), str(target)))
        rename(source, target, **given)

    def synced(descriptor: int) -> None:
        steps.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "fsync", synced)
    for number in (3, 4):
        push_all(shard, number)
        assert fold(shard) == number
    spare = folder / ".fold-000002.spare.tmp"
    hidden = steps.index(("rename", str(folder / "fold-000002"), str(spare)))
    taken = next(at for at, step in enumerate(steps) if str(step[1]).startswith(f"{spare}/"))
    assert hidden < taken
    assert ("fsync", folder.stat().st_ino) in steps[hidden:taken]


def test_what_a_smaller_fold_does_not_need_is_free_before_it_is_written(
    served: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = served()
    for number in (1, 2):
        push_all(shard, number)
        fold(shard)
    shard.push(push_of(range(KEYS.start, KEYS.start + 250), None))
    sizes: list[int] = []
    real = base_writer._File._put

    def put(file: Any, data: Any) -> None:
        if Path(file._file.name).name == "rows":
            sizes.append(os.fstat(file._file.fileno()).st_size)
        real(file, data)

    monkeypatch.setattr(base_writer._File, "_put", put)
    assert fold(shard) == 3
    assert sizes[0] == used(shard).rows * 4 * DIM == (len(KEYS) - 250) * 4 * DIM


def test_a_table_that_cannot_be_folded_has_no_spare(served: Serve, tmp_path: Path) -> None:
    shard = served()
    for number in (1, 2):
        push_all(shard, number)
        fold(shard)
    assert folds(tmp_path) == [".fold-000001.spare.tmp", "fold-000002"]
    flip(rows_file(tmp_path), 8)
    shard.push(push_of([5000], row(1)))
    assert fold(shard) == 2
    assert folds(tmp_path) == ["fold-000002"]


def test_a_full_disk_keeps_none(served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = served()
    for number in (1, 2):
        push_all(shard, number)
        fold(shard)

    def full(_: Log) -> int:
        raise LimitExceeded("No space left on device")

    push_all(shard, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Log, "roll", full)
        assert fold(shard) == 2
    assert folds(tmp_path) == ["fold-000002"]
    assert fold(shard) == 3
    assert has_all(shard, 3)
