"""What was checked is remembered beyond the process, and only of the very files that were read."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ringpull.ps import checked_rows
from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.store.base import Base
from tests.ps.tables import WrittenTable, write_table


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    """A table of several blocks."""
    return write_table(tmp_path_factory.mktemp("tables") / "users", rows=320, dim=4096)


@pytest.fixture
def folder(written: WrittenTable, tmp_path: Path) -> Path:
    return shutil.copytree(written.folder, tmp_path / "users")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "checked-rows"


def checked(file: Path | None, folder: Path) -> list[int]:
    """Return the blocks that another process would take for checked."""
    return CheckedRows(file).checked(Base.open(folder)).nonzero()[0].tolist()


def test_what_was_checked_is_remembered_by_block(folder: Path, file: Path) -> None:
    memory = CheckedRows(file)
    memory.note(Base.open(folder), good=[0, 2])
    memory.note(Base.open(folder), good=[3], bad=[0])
    assert checked(file, folder) == [2, 3]
    assert CheckedRows(file).damaged(Base.open(folder)) == [0]
    memory.note(Base.open(folder), good=[0])
    assert CheckedRows(file).damaged(Base.open(folder)) == []
    assert checked(None, folder) == []


@pytest.mark.parametrize("name", ["header", "index", "positions", "rows", "blocks", "position_blocks"])
def test_a_file_with_another_time_is_unknown(folder: Path, file: Path, name: str) -> None:
    CheckedRows(file).note(Base.open(folder), good=[0, 1])
    assert checked(file, folder) == [0, 1]
    os.utime(folder / name, ns=(1, 1))
    assert checked(file, folder) == []


def test_a_file_that_was_written_to_is_unknown_even_with_its_old_time(folder: Path, file: Path) -> None:
    """Tools that copy files keep their times."""
    found = (folder / "rows").stat()
    CheckedRows(file).note(Base.open(folder), good=[0])
    shutil.copy(folder / "rows", folder / "again")
    (folder / "again").replace(folder / "rows")
    os.utime(folder / "rows", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert (folder / "rows").stat().st_mtime_ns == found.st_mtime_ns
    assert checked(file, folder) == []


def test_what_was_good_of_a_file_that_was_written_to_meanwhile_is_not_remembered(folder: Path, file: Path) -> None:
    base = Base.open(folder)
    os.utime(folder / "rows", ns=(1, 1))
    CheckedRows(file).note(base, good=[0], bad=[1])
    assert checked(file, folder) == []
    assert CheckedRows(file).damaged(Base.open(folder)) == [1]


def test_another_table_in_the_folder_and_the_same_one_elsewhere_are_unknown(
    folder: Path, file: Path, tmp_path: Path
) -> None:
    CheckedRows(file).note(Base.open(folder), good=[0])
    assert checked(file, shutil.copytree(folder, tmp_path / "elsewhere")) == []
    shutil.rmtree(folder)
    assert checked(file, write_table(folder, rows=320, dim=4096, seed=2).folder) == []


@pytest.mark.parametrize("at", [0, 10, 20, -2])
def test_a_damaged_memory_is_forgotten(folder: Path, file: Path, at: int) -> None:
    CheckedRows(file).note(Base.open(folder), good=[0])
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    assert checked(file, folder) == []
    CheckedRows(file).note(Base.open(folder), good=[1])
    assert checked(file, folder) == [1]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100])
def test_no_content_is_believed(folder: Path, file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    assert checked(file, folder) == []


def test_a_memory_that_cannot_be_written_serves_this_process(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "no folder").write_text("")
    memory = CheckedRows(tmp_path / "no folder" / "checked-rows")
    for block in (0, 1):
        memory.note(Base.open(folder), good=[block])
    assert memory.checked(Base.open(folder)).nonzero()[0].tolist() == [0, 1]
    assert len(caplog.records) == 1


def test_shards_that_write_at_once_lose_nothing(folder: Path, file: Path) -> None:
    base = Base.open(folder)
    begin = threading.Barrier(base.block_count)

    def note(block: int) -> None:
        memory = CheckedRows(file)
        begin.wait()
        memory.note(base, good=[block])

    threads = [threading.Thread(target=note, args=(block,)) for block in range(base.block_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert checked(file, folder) == list(range(base.block_count))
    assert sorted(path.name for path in file.parent.iterdir()) == [".checked-rows.lock", "checked-rows"]


def test_a_stopped_writer_holds_up_nobody(folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_rows, "LOCK_WAIT_S", 0.0)
    with checked_rows._locked(file):
        CheckedRows(file).note(Base.open(folder), good=[0])
    assert checked(file, folder) == [0]


def test_a_note_that_changes_nothing_reads_no_file_that_is_still_the_same(
    folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, other, base = CheckedRows(file), CheckedRows(file), Base.open(folder)
    read: list[Path] = []
    monkeypatch.setattr(checked_rows, "read_file", lambda path: read.append(path) or Path(path).read_bytes())
    memory.note(base, good=[0])
    read.clear()
    stamp = file.stat()
    for _ in range(3):
        memory.note(base, good=[0])
    assert (read, file.stat().st_ino) == ([], stamp.st_ino)
    other.note(base, good=[1])
    assert memory.checked(base).nonzero()[0].tolist() == [0, 1]
    memory.note(base, good=[2])
    assert checked(file, folder) == [0, 1, 2]


def full(*_: object) -> None:
    raise OSError(28, "no space left")


def test_what_could_not_be_written_is_written_with_the_next_note(
    folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, base = CheckedRows(file), Base.open(folder)
    memory.note(base, good=[0])
    with monkeypatch.context() as patch:
        patch.setattr(checked_rows, "write_private", full)
        memory.note(base, bad=[0], good=[1])
    memory.note(base, good=[2])  # nobody says again what was said
    assert checked(file, folder) == [1, 2]
    assert CheckedRows(file).damaged(base) == [0]


def test_what_could_not_be_written_hides_no_damage_that_another_process_found(
    folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, other = Base.open(folder), Base.open(write_table(tmp_path / "u" / "users", rows=5, dim=2).folder)
    one, two = CheckedRows(file), CheckedRows(file)
    with monkeypatch.context() as patch:
        patch.setattr(checked_rows, "write_private", full)
        one.note(table, good=range(table.block_count))
    two.note(table, bad=[1])
    one.note(other, good=[0])
    for each in (one, two, CheckedRows(file)):
        assert each.damaged(table) == [1]
        assert each.checked(table).tolist() == [number != 1 for number in range(table.block_count)]
    one.note(table, good=[1])
    assert CheckedRows(file).damaged(table) == []


@pytest.mark.parametrize("lost", [Path.unlink, lambda file: file.write_bytes(b"rubbish")])
def test_a_file_that_was_lost_is_written_again_by_a_note_that_changes_nothing(
    folder: Path, file: Path, lost: Callable[[Path], object]
) -> None:
    memory, base = CheckedRows(file), Base.open(folder)
    memory.note(base, good=[1], bad=[0])
    lost(file)
    memory.note(base, good=[1])
    assert (checked(file, folder), CheckedRows(file).damaged(base)) == ([1], [0])


def test_a_note_that_cannot_be_of_a_table_costs_no_other(folder: Path, file: Path) -> None:
    memory, base = CheckedRows(file), Base.open(folder)
    memory.note(base, bad=[0])
    with pytest.raises(IndexError):
        memory.note(base, good=[base.block_count])
    memory.note(base, good=[1])
    assert CheckedRows(file).damaged(base) == [0]


def test_the_oldest_is_forgotten(folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_rows, "MAX_TABLES", 2)
    others = [shutil.copytree(folder, tmp_path / name) for name in ("b", "c")]
    for each in (folder, *others):
        CheckedRows(file).note(Base.open(each), good=[0])
    assert [checked(file, each) for each in (folder, *others)] == [[], [0], [0]]


def test_what_is_gone_is_forgotten_first_and_damage_that_is_there_never(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_rows, "MAX_TABLES", 3)
    memory = CheckedRows(file)
    bases = [Base.open(write_table(tmp_path / f"t{i}" / "users", rows=5, dim=2, seed=i).folder) for i in range(7)]
    memory.note(bases[0], bad=[0])
    for base in bases[1:3]:
        memory.note(base, good=[0])
    shutil.rmtree(bases[2].folder)
    memory.note(bases[3], good=[0])
    assert [memory.damaged(bases[0]), *(bool(memory.checked(base)[0]) for base in bases[1:4])] == [
        [0],
        True,
        False,
        True,
    ]
    for base in bases[4:]:
        memory.note(base, good=[0])
    assert memory.damaged(bases[0]) == [0]
    assert [bool(memory.checked(base)[0]) for base in bases[1:]] == [False, False, False, False, True, True]
