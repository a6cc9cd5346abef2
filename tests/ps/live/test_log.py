"""The log: what was acknowledged is read again, whatever a crash or the disk leaves; damage is never guessed at."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.ps.errors import CorruptData, LimitExceeded, Unavailable
from ringpull.ps.live import block_file
from ringpull.ps.live import log as log_module
from ringpull.ps.live import log_file as log_file_module
from ringpull.ps.live.block_file import BLOCK_BYTES, new_buffer
from ringpull.ps.live.log import Log
from ringpull.ps.live.log_file import log_file_path
from ringpull.ps.live.record import LiveName, Read, Record, RecordKind

NAMES = [LiveName("ranker", 1, "user"), LiveName("ranker", 1, "item")]


def record(stamp: int, rows: int = 2) -> Record:
    positions = np.arange(rows, dtype=np.uint64) + np.uint64(stamp)
    content = np.full(rows * 4, stamp % 251, np.uint8)
    return Record(RecordKind.ROWS, NAMES[stamp % 2], 4, stamp, 5, stamp, positions, content)


def opened(folder: Path, *, file_bytes: int = 1 << 20, durable: bool = True) -> tuple[Log, list[int]]:
    """Return a log, and the stamps of the records in it, which are as `record` made them."""
    stamps: list[int] = []

    def replay(name: LiveName, row_bytes: int, read: Read) -> None:
        wanted = record(read.stamp, len(read.positions))
        assert (name, row_bytes, read.number) == (wanted.name, 4, read.stamp)
        assert np.array_equal(read.positions, wanted.positions)
        assert np.array_equal(read.rows, wanted.rows)
        stamps.append(read.stamp)

    log = Log.open(folder, shard=3, deployment="d", replay=replay, durable=durable, file_bytes=file_bytes)
    return log, stamps


def written(folder: Path, groups: list[list[int]], *, file_bytes: int = 1 << 20) -> None:
    log, _ = opened(folder, file_bytes=file_bytes)
    for group in groups:
        log.append([record(stamp) for stamp in group])
        log.sync()
    log.close()


def test_all_of_it_is_read_again_over_files_and_restarts(tmp_path: Path) -> None:
    for begin in (1, 10, 20):
        written(tmp_path / "log", [[begin, begin + 1], [begin + 2], [begin + 5]], file_bytes=700)
    log, stamps = opened(tmp_path / "log")
    assert stamps == [1, 2, 3, 6, 10, 11, 12, 15, 20, 21, 22, 25]
    assert log.last_stamp == 25
    assert len(log.files) == 2
    assert log.bytes == sum(path.stat().st_size for path in (tmp_path / "log").iterdir())


def test_it_is_its_users_alone(tmp_path: Path) -> None:
    written(tmp_path / "log", [[1]])
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "log").iterdir()] == [0o600]


@pytest.fixture
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing written to the disk, nor new memory taken: a test opens hundreds of logs and would wait."""
    buffer = new_buffer()
    monkeypatch.setattr(log_module, "new_buffer", lambda: buffer)
    monkeypatch.setattr(block_file, "_DIRECT", 0)
    monkeypatch.setattr(log_module.os, "fsync", lambda _: None)
    monkeypatch.setattr(log_module.os, "fdatasync", lambda _: None)


@pytest.mark.usefixtures("no_syncs")
def test_cut_anywhere_it_has_the_records_that_are_whole(tmp_path: Path) -> None:
    written(tmp_path / "log", [[1], [2], [3, 4]])
    path = log_file_path(tmp_path / "log", 1)
    content = path.read_bytes()
    ends = [at for at in range(len(content)) if content[at : at + 4] == b"RPLR"] + [len(content)]
    begin = ends[0]
    seen = set()
    for size in range(begin, len(content)):
        path.write_bytes(content[:size])
        log, stamps = opened(tmp_path / "log")
        assert stamps == list(range(1, len(stamps) + 1))
        assert path.stat().st_size == max(end for end in ends if end <= size)
        log.append([record(9)])
        log.sync()
        log.close()
        assert opened(tmp_path / "log")[1] == [*stamps, 9]
        seen.add(len(stamps))
    assert seen == {0, 1, 2, 3}
    for size in range(begin):
        path.write_bytes(content[:size])
        with pytest.raises(CorruptData, match="log-000001"):
            opened(tmp_path / "log")


@pytest.mark.medium
@pytest.mark.usefixtures("no_syncs")
def test_killed_at_any_byte_of_a_write_over_the_last_block_it_has_what_was_there_and_what_is_whole(
    tmp_path: Path,
) -> None:
    log, _ = opened(tmp_path / "log")
    log.append([record(1), record(2)])
    log.sync()
    path = log_file_path(tmp_path / "log", 1)
    before = path.read_bytes()
    log.append([record(3), record(4, rows=400)])
    after, ends = path.read_bytes(), [at for at in range(log.bytes) if path.read_bytes()[at : at + 4] == b"RPLR"]
    log.close()
    assert len(before) < len(after)
    for size in [*range(0, log._sizes[1] - 40, 7), *range(ends[-1] - 8, len(after), 8)]:
        torn = after[:size] + before[size:]
        path.write_bytes(torn)
        again, stamps = opened(tmp_path / "log")
        again.close()
        assert stamps == ([1, 2, 3, 4] if size >= log._sizes[1] else [1, 2, 3] if size >= ends[-1] else [1, 2])


@pytest.mark.usefixtures("no_syncs")
def test_a_changed_byte_is_damage_where_pushes_came_after_it_and_else_the_end(tmp_path: Path) -> None:
    written(tmp_path / "log", [[1], [2], [3]])
    path = log_file_path(tmp_path / "log", 1)
    content = path.read_bytes()
    last = content.rindex(b"RPLR")
    first = content.index(b"RPLR")
    body_end = 24 + content[12]
    for at in [*range(body_end), *range(first, len(content))]:  # and not the padding between
        changed = bytearray(content)
        changed[at] ^= 0x40
        path.write_bytes(bytes(changed))
        if at < last:
            with pytest.raises(CorruptData, match="log-000001"):
                opened(tmp_path / "log")
        else:
            log, stamps = opened(tmp_path / "log")
            log.close()
            assert stamps == [1, 2]


def test_the_zeros_of_a_block_that_was_not_full_are_no_end_that_a_crash_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, _ = opened(tmp_path / "log")
    for stamp in range(1, 60):
        log.append([record(stamp, rows=stamp)])
        log.sync()
        shutil.copytree(tmp_path / "log", tmp_path / f"killed-{stamp}")
    log.close()
    for stamp in range(1, 60):
        folder = tmp_path / f"killed-{stamp}"
        assert log_file_path(folder, 1).stat().st_size % BLOCK_BYTES == 0
        again, stamps = opened(folder)
        assert stamps == list(range(1, stamp + 1))
        again.append([record(100)])
        again.close()
        assert opened(folder)[1] == [*stamps, 100]
    assert not caplog.records
    path = log_file_path(tmp_path / "log", 1)
    path.write_bytes(path.read_bytes() + b"RPLR torn" + bytes(31))
    opened(tmp_path / "log")[0].close()
    assert "where a crash left it" in caplog.text


def test_a_log_file_that_others_follow_ends_with_a_record(tmp_path: Path) -> None:
    log, _ = opened(tmp_path / "log", file_bytes=200)
    for stamp in range(1, 8):
        log.append([record(stamp)])
    assert len(log.files) > 2
    for number in log.files[:-1]:
        assert log_file_path(tmp_path / "log", number).stat().st_size == log._sizes[number]
    shutil.copytree(tmp_path / "log", tmp_path / "killed")
    log.close()
    assert opened(tmp_path / "killed")[1] == list(range(1, 8))


def test_a_group_of_which_a_power_cut_left_only_later_pages_is_cut_whole(tmp_path: Path) -> None:
    written(tmp_path / "log", [[1], [2, 3]])
    path = log_file_path(tmp_path / "log", 1)
    content = path.read_bytes()
    at = content.rindex(b"RPLR", 0, content.rindex(b"RPLR"))
    path.write_bytes(content[:at] + bytes(64) + content[at + 64 :])  # 2 is gone, and 3, of the same group, is there
    assert opened(tmp_path / "log")[1] == [1]


def test_a_log_file_that_is_missing_or_damaged_before_the_last_is_no_end(tmp_path: Path) -> None:
    written(tmp_path / "log", [[1], [2], [3], [4]], file_bytes=100)
    path = log_file_path(tmp_path / "log", 2)
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(CorruptData, match="log-000002: the record at byte"):
        opened(tmp_path / "log")
    path.unlink()
    with pytest.raises(CorruptData, match="segment 2 of the log is missing"):
        opened(tmp_path / "log")


def test_a_log_of_another_shard_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "log", [[1]])
    with pytest.raises(CorruptData, match="the log of shard 3, not of 4"):
        Log.open(tmp_path / "log", shard=4, deployment="d", replay=lambda *_: None)


def test_log_files_are_dropped_from_the_oldest_on_and_the_last_stays(tmp_path: Path) -> None:
    written(tmp_path / "log", [[1], [2], [3]], file_bytes=100)
    log, _ = opened(tmp_path / "log")
    number = log.roll()
    log.append([record(4)])
    log.sync()
    log.drop_below(number)
    assert log.files == [number]
    log.drop_below(number + 5)
    log.close()
    log, stamps = opened(tmp_path / "log")
    assert stamps == [4]
    assert log.had_pushes


def test_a_log_file_that_is_being_deleted_is_none_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at its files meanwhile would take it for lost."""
    written(tmp_path / "log", [[1], [2], [3]], file_bytes=100)
    log, _ = opened(tmp_path / "log")
    number, real, during = log.roll(), log_module.sync_folder, list[list[int]]()

    def failing(folder: Path) -> None:
        during.append(log.files)
        if len(during) == 2:
            raise OSError(errno.EIO, "broken")
        real(folder)

    monkeypatch.setattr(log_module, "sync_folder", failing)
    with pytest.raises(Unavailable, match="broken"):
        log.drop_below(number)
    assert (during, log.files) == ([[2, 3, number], [3, number]], [2, 3, number])
    log.drop_below(number)
    assert log.files == [number]
    log.close()


Fault = Callable[[str, OSError], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fault:
    """Function that makes a call of the log fail once."""

    def once(name: str, error: OSError) -> None:
        real = getattr(os, name)

        def failing(*args: Any) -> object:
            monkeypatch.setattr(log_module.os, name, real)
            if name == "pwrite":  # part of it was written
                real(args[0], args[1][:BLOCK_BYTES], args[2])
            raise error

        monkeypatch.setattr(log_module.os, name, failing)

    return once


def test_a_full_disk_leaves_no_half_a_record_and_the_log_goes_on(tmp_path: Path, fail: Fault) -> None:
    log, _ = opened(tmp_path / "log")
    log.append([record(1)])
    log.sync()
    fail("pwrite", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(LimitExceeded, match="No space left on device"):
        log.append([record(2), record(3)])
    assert log.last_stamp == 1
    log.append([record(4)])
    log.sync()
    log.close()
    assert opened(tmp_path / "log")[1] == [1, 4]


def test_what_could_not_be_cut_off_is_cut_off_later(tmp_path: Path, fail: Fault) -> None:
    log, _ = opened(tmp_path / "log")
    log.append([record(1)])
    fail("pwrite", OSError(errno.EIO, "broken"))
    fail("ftruncate", OSError(errno.EIO, "broken"))
    with pytest.raises(Unavailable, match="broken"):
        log.append([record(2)])
    log.append([record(3)])
    log.close()
    assert opened(tmp_path / "log")[1] == [1, 3]


def test_after_a_sync_that_failed_the_records_are_written_anew(tmp_path: Path, fail: Fault) -> None:
    log, _ = opened(tmp_path / "log")
    log.append([record(1)])
    log.sync()
    log.append([record(2), record(3)])
    fail("fdatasync", OSError(errno.EIO, "broken"))
    with pytest.raises(Unavailable, match="broken"):
        log.sync()
    first = log_file_path(log.folder, 1)
    log.sync()  # of the retry, which is not written again
    assert log.files == [1, 2]
    assert b"RPLR" in log_file_path(log.folder, 2).read_bytes()
    assert first.stat().st_size < 400
    log.append([record(4)])
    log.sync()
    log.close()
    assert opened(tmp_path / "log")[1] == [1, 2, 3, 4]


def test_a_second_failure_while_they_are_written_anew_loses_none(tmp_path: Path, fail: Fault) -> None:
    log, _ = opened(tmp_path / "log")
    log.append([record(1)])
    log.sync()
    log.append([record(2)])
    for name in ("fdatasync", "pwrite", "fdatasync"):
        fail(name, OSError(errno.EIO, name))
        with pytest.raises(Unavailable, match=name):
            log.sync()
    log.sync()
    log.close()
    assert opened(tmp_path / "log")[1] == [1, 2]


def test_without_durability_a_failed_sync_cuts_nothing(tmp_path: Path, fail: Fault) -> None:
    log, _ = opened(tmp_path / "log", durable=False)
    log.append([record(1)])
    fail("fdatasync", OSError(errno.EIO, "broken"))
    with pytest.raises(Unavailable, match="broken"):
        log.roll()
    log.append([record(2)])
    log.close()
    assert opened(tmp_path / "log")[1] == [1, 2]


def test_a_log_file_that_cannot_be_made_is_not_there_and_the_last_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = opened(tmp_path / "log")
    log.append([record(1)])
    with monkeypatch.context() as patch:
        patch.setattr(log_file_module, "sync_folder", full_disk)
        with pytest.raises(LimitExceeded):
            log.roll()
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["log-000001"]
    log.append([record(2)])
    log.close()
    with log_file_path(tmp_path / "log", 1).open("ab") as file:
        file.write(b"RPLR torn")  # which is the end of the log, as no other file follows
    assert opened(tmp_path / "log")[1] == [1, 2]


def test_a_log_file_that_cannot_be_opened_is_not_there_after_a_power_cut_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it behind them the zeros at the end of the last one, which goes on, would be damage."""
    log, _ = opened(tmp_path / "log")
    log.append([record(1)])
    real, on_disk = log_file_module.sync_folder, list[list[str]]()

    def syncing(folder: Path) -> None:
        real(folder)
        on_disk.append(sorted(path.name for path in folder.iterdir()))

    with monkeypatch.context() as patch:
        patch.setattr(log_file_module, "sync_folder", syncing)
        patch.setattr(log_file_module, "BlockFile", lambda *_, **__: full_disk(tmp_path))
        with pytest.raises(LimitExceeded):
            log.roll()
    assert on_disk == [["log-000001", "log-000002"], ["log-000001"]]
    log.append([record(2)])
    log.close()
    assert opened(tmp_path / "log")[1] == [1, 2]


def full_disk(_: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
