"""Rounds of folding that fall short: of files, of memory, or by one damaged table. Nothing is lost, no file left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.ps.errors import LimitExceeded, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.live import fold as fold_module
from ringpull.ps.live import folding as folding_module
from ringpull.ps.live import live_check
from ringpull.ps.live.live_shard import LiveShard
from ringpull.ps.live.live_table import LiveTable
from ringpull.ps.live.log_file import log_file_path
from ringpull.ps.live.record import LiveName
from ringpull.ps.placement import TablePlacement, VersionPlacement
from ringpull.ps.ring import SlotRange
from ringpull.ps.store.newer.segments import Segments
from tests.ps.damaging import flip
from tests.ps.live.pushing import LINEAGE, push_of
from tests.ps.live.served import DIM, Served, row
from tests.ps.live.test_live_check import KEYS, folding_of, look, place_of, push_all, refused
from tests.ps.tables import MODEL, VERSION, WrittenTable, rows_request, write_table

Serve = Callable[..., Served]
GONE = range(KEYS.start, KEYS.start + 40)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return log_file_path(tmp_path / "shard-0.live", 1)


@pytest.fixture(autouse=True)
def _no_rounds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards begin no round, however due one is: a second one beside that of a test is nothing a shard ever has."""
    monkeypatch.setattr(LiveShard, "_round", lambda _: None)


def folds(tmp_path: Path, table: str = "users") -> list[str]:
    """The names of all that lies where the folds of a table do."""
    return sorted(path.name for path in (tmp_path / "shard-0.live" / "folds").glob(f"*/*/{table}/*"))


def fold(shard: Served) -> int:
    """Fold, at once also after a round that failed; return how many rounds did not."""
    folding_of(shard)._not_before_s = 0
    folding_of(shard).round()
    return folding_of(shard).rounds


def without_descriptors(monkeypatch: pytest.MonkeyPatch, closed: Path) -> None:
    """No file of that name, or in that folder, can be opened for reading."""
    real = os.open

    def refusing(path: Any, flags: int, *args: Any, **given: Any) -> int:
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY) and closed in (Path(path), *Path(path).parents):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, *args, **given)

    monkeypatch.setattr(os, "open", refusing)


def test_a_log_that_cannot_be_opened_is_not_folded_unlooked(
    served: Serve, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_all(served())
    shard = served()
    flip(log, place_of(log, 1020))
    with monkeypatch.context() as patch:
        without_descriptors(patch, log)
        assert (fold(shard), folds(tmp_path)) == (0, [])
        [told] = shard.live.warnings()
        assert "could not be looked at, so they are not folded or compacted; it is tried again" in told
        assert f"{log}: Too many open files" in told
        with pytest.raises(Unavailable, match="could not be looked at"):
            shard.live.stamp(MODEL, LINEAGE, "users")
    [told] = look(shard)
    assert "pushed rows are damaged" in told
    assert (fold(shard), refused(shard)) == (0, {1020})
    shard.push(push_of([1020], row(1020)))
    assert (fold(shard), look(shard), refused(served())) == (1, [], set())


def test_nor_is_a_fold(served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = served()
    push_all(shard)
    assert (fold(shard), folds(tmp_path)) == (1, ["fold-000001"])
    shard.push(push_of([5], row(5)))
    with monkeypatch.context() as patch:
        without_descriptors(patch, tmp_path / "shard-0.live" / "folds")
        assert (fold(shard), folds(tmp_path)) == (1, ["fold-000001"])
        [told] = shard.live.warnings()
        assert "Too many open files" in told
        assert refused(shard) == set()
    assert (fold(shard), shard.live.warnings(), folds(tmp_path)) == (2, [], ["fold-000002"])


def test_what_was_damaged_stays_closed_while_it_cannot_be_looked_at(
    served: Serve, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_all(served())
    shard = served()
    flip(log, place_of(log, 1020))
    look(shard)
    with monkeypatch.context() as patch:
        without_descriptors(patch, log)
        [told] = look(shard)
        assert "pushed rows are damaged" in told
        assert refused(shard) == {1020}
    flip(log, place_of(log, 1019) + (place_of(log, 1019) - place_of(log, 1018)))  # as it was
    assert (look(shard), refused(shard)) == ([], set())


@pytest.mark.parametrize("read", [False, True], ids=["in memory", "mapped"])
def test_files_that_were_told_as_damaged_stay_told_while_they_cannot_be_looked_at(
    served: Serve, log: Path, monkeypatch: pytest.MonkeyPatch, read: bool
) -> None:
    shard = served()
    push_all(shard)
    if read:  # by the next start: the shard answers from it
        shard = served()
    else:
        shard.live.pushes.run(folding_of(shard)._log.roll)
    flip(log, place_of(log, 1020))
    [told] = look(shard)
    assert f"{log}" in told
    with monkeypatch.context() as patch:
        without_descriptors(patch, log)
        assert look(shard) == [told]
    assert look(shard) == [told]
    flip(log, place_of(log, 1019) + (place_of(log, 1019) - place_of(log, 1018)))  # as it was
    assert look(shard) == []


def test_a_table_with_damage_in_two_files_is_told_with_both_while_one_cannot_be_looked_at(
    served: Serve, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = served()
    push_all(shard)
    assert fold(shard) == 1
    [rows] = (tmp_path / "shard-0.live" / "folds").glob("*/*/users/fold-000001/rows/rows")
    for key in range(2000, 2120):
        shard.push(push_of([key], row(key)))
    shard = served()
    log = log.with_name(log_file_path(log.parent, 2).name)
    flip(rows, rows.read_bytes().index(row(1020).tobytes()))
    [told] = look(shard)
    assert str(log) not in told
    flip(log, place_of(log, 2020))
    with monkeypatch.context() as patch:
        without_descriptors(patch, rows)
        [told] = look(shard)
    assert f"{rows}" in told
    assert f"{log}" in told


def test_why_a_table_was_not_looked_at_changes_under_the_lock_only(
    served: Serve, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look goes through all of them under it."""

    class Guarded(dict[LiveName, str]):
        changes = 0

        def __setitem__(self, *args: Any) -> None:
            self._change()
            super().__setitem__(*args)

        def pop(self, *args: Any) -> Any:
            self._change()
            return super().pop(*args)

        def _change(self) -> None:
            self.changes += 1
            assert shard.live.tables.lock._is_owned()  # type: ignore[attr-defined]

    push_all(served())
    shard = served()
    guarded = shard.live.files._unlooked = Guarded()
    with monkeypatch.context() as patch:
        without_descriptors(patch, log)
        fold(shard)
    assert len(guarded) == 1
    look(shard)
    assert (len(guarded), guarded.changes) == (0, 2)


def test_what_is_remembered_as_damaged_is_closed_by_a_start_that_cannot_look(
    served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = served()
    push_all(shard)
    assert fold(shard) == 1
    [rows] = (tmp_path / "shard-0.live" / "folds").glob("*/*/users/fold-000001/rows/rows")
    at = rows.read_bytes().index(row(1020).tobytes())
    flip(rows, at)
    look(shard)
    closed = refused(shard)
    assert 1020 in closed

    def unavailable(*_: Any) -> Any:
        raise Unavailable("Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(live_check, "bad_rows", unavailable)
        again = served(memory=shard.live.files._memory)
        [told] = again.live.warnings()
        assert "pushed rows are damaged" in told
        assert refused(again) == closed
    assert (len(look(again)), refused(again)) == (1, closed)
    flip(rows, at)  # as it was
    assert (look(again), refused(again)) == ([], set())


class OfTwo(Served):
    """Shard over two tables that take pushes: users, which are opened first, and items."""

    items: WrittenTable

    def open(self, placement: object) -> None:
        folders = {"users": self.table.folder, "items": self.items.folder}
        tables = {name: TablePlacement(str(folder), (SlotRange(0, SLOTS),), ()) for name, folder in folders.items()}
        placed = VersionPlacement(MODEL, VERSION, tables, lineage=LINEAGE, live=frozenset(folders))
        self.shard.open(MODEL, VERSION, folders, placed=placed)

    def item(self, key: int) -> list[float]:
        return self.shard.pull(rows_request("items", np.array([key], np.uint64))).values.tolist()


@pytest.fixture
def of_two(served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    monkeypatch.setattr("tests.ps.live.conftest.Served", OfTwo)
    monkeypatch.setattr(OfTwo, "items", write_table(tmp_path / "items", rows=200, dim=DIM), raising=False)
    return served


def test_a_damaged_table_is_left_and_the_others_are_folded(of_two: Serve, log: Path, tmp_path: Path) -> None:
    shard = of_two()
    push_all(shard)
    for key in KEYS:
        shard.push(push_of([key], row(key + 1), table="items"))
    shard = of_two()
    flip(log, place_of(log, 1020))
    items = shard.live.tables.get(LiveName(MODEL, LINEAGE, "items"))
    assert items is not None
    assert fold(shard) == 0
    assert (folds(tmp_path), folds(tmp_path, "items")) == ([], ["fold-000001"])
    assert items.folded == items.last_stamp
    assert log.exists()  # which has the rows of users
    assert refused(shard) == {1020}
    shard.push(push_of([7], row(8), table="items"))
    fold(shard)
    assert folds(tmp_path, "items") == ["fold-000001"]  # another one would shorten no log
    shard.live.tables.wants_fold = True
    fold(shard)
    assert folds(tmp_path, "items") == ["fold-000002"]  # which lets memory go
    shard.push(push_of([9], row(10), table="items"))
    shard.push(push_of([1020], row(1020)))
    assert fold(shard) == 1
    assert not log.exists()
    for each in (shard, of_two()):
        assert (look(each), refused(each)) == ([], set())
        assert all(each.item(key) == row(key + 1)[0].tolist() for key in [7, 9, *KEYS])  # type: ignore[attr-defined]


def refusing_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Any:
        raise LimitExceeded("no memory for removals")

    monkeypatch.setattr(Segments, "gone_apart", gone)


def refusing_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_base(*_: Any) -> Any:
        raise LimitExceeded("no segment is left")

    monkeypatch.setattr(Segments, "add_base", add_base)


def failing_flip(at: int) -> Callable[[pytest.MonkeyPatch], None]:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        real, flips = LiveTable.flip, list[int]()

        def flip(table: LiveTable, *args: Any) -> None:
            flips.append(1)
            if len(flips) == at:
                raise MemoryError
            real(table, *args)

        monkeypatch.setattr(LiveTable, "flip", flip)

    return patch


def failing_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fold_module.sync_folder

    def sync_folder(path: Path) -> None:
        if path.name == "users":  # once the fold is there
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    monkeypatch.setattr(fold_module, "sync_folder", sync_folder)


@pytest.mark.parametrize(
    "refuse",
    [
        pytest.param(refusing_gone, id="removals"),
        pytest.param(refusing_segments, id="segments"),
        pytest.param(failing_flip(2), id="rows half flipped"),
        pytest.param(failing_flip(7), id="removals half flipped"),
        pytest.param(failing_sync, id="the folder is not synced"),
    ],
)
@pytest.mark.parametrize("before", [[], ["fold-000001"]], ids=["first", "second"])
def test_a_fold_for_which_there_is_no_memory_leaves_nothing(
    served: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refuse: Callable[[pytest.MonkeyPatch], None],
    before: list[str],
) -> None:
    monkeypatch.setattr(folding_module, "ROWS_AT_ONCE", 16)
    shard = served()

    def has_all(each: Served) -> bool:
        kept, default = list(KEYS)[len(GONE) :], each.rows([5000]).tolist()
        return (
            all(each.rows([key]).tolist() == row(key).tolist() for key in kept)
            and all(each.rows([key]).tolist() == default for key in GONE)
            and look(each) == []
        )

    push_all(shard)
    if before:
        assert (fold(shard), folds(tmp_path)) == (1, before)
        push_all(shard)
    shard.push(push_of(GONE, None))
    [table] = shard.live.tables.all()
    named, fold_before, rows_before = dict(table.fold_bases), table.fold, table.folded_rows
    with monkeypatch.context() as patch:
        refuse(patch)
        assert fold(shard) == len(before)
    assert folds(tmp_path) == before
    assert (table.fold, table.folded_rows, dict(table.fold_bases)) == (fold_before, rows_before, named)
    assert has_all(shard)
    again = served()
    assert has_all(again)
    assert (fold(again), len(folds(tmp_path))) == (1, 1)
    assert has_all(again)
    assert has_all(served())


def failing_second_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = Segments.gone_apart, list[int]()

    def gone_apart(segments: Segments, stamps: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            raise LimitExceeded("no memory for removals")
        return real(segments, stamps)

    monkeypatch.setattr(Segments, "gone_apart", gone_apart)


@pytest.mark.parametrize(
    "refuse",
    [
        pytest.param(failing_second_gone, id="removals"),
        pytest.param(refusing_segments, id="segments"),
        pytest.param(failing_flip(2), id="rows half flipped"),
        pytest.param(failing_flip(7), id="removals half flipped"),
    ],
)
def test_folds_that_fail_again_and_again_take_no_more_memory(
    served: Serve, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[pytest.MonkeyPatch], None]
) -> None:
    monkeypatch.setattr(folding_module, "ROWS_AT_ONCE", 16)
    shard = served()
    push_all(shard)
    shard.push(push_of(GONE, None))
    [table] = shard.live.tables.all()

    def taken() -> tuple[int, int]:
        return shard.live.tables.budget.used_bytes, len(table.segments._segments)

    before = taken()
    for _ in range(3):
        with monkeypatch.context() as patch:
            refuse(patch)
            assert (fold(shard), taken()) == (0, before)
    shard.push(push_of(GONE, None))  # whose words are beside those of the round
    assert fold(shard) == 1
    assert all(shard.rows([key]).tolist() == shard.rows([5000]).tolist() for key in GONE)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), MemoryError(), RuntimeError("?")])
def test_memory_of_rows_that_nothing_shows_is_asked_for_again_whatever_failed(
    served: Serve, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    shard = served()
    push_all(shard)
    assert fold(shard) == 1
    [table] = shard.live.tables.all()
    assert not table.has_unfolded

    def fails(*_: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(LiveTable, "drop_unnamed", lambda _: 3)
        patch.setattr(folding_module, "FoldWriter", fails)
        if isinstance(error, RuntimeError):
            with pytest.raises(RuntimeError):
                fold(shard)
        else:
            assert fold(shard) == 1
    assert table.has_unfolded
    assert fold(shard) == 2
    assert not table.has_unfolded
