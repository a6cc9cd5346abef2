"""A log's file: whatever becomes of it and of its folder, who logs goes on, and the file does when it can."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringpull.deploy.cluster import log_file
from ringpull.deploy.cluster.log_file import REOPEN_S, LogFile, StderrHandler
from tests.clock import Clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "mine-shard-3.log"


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def log(path: Path, clock: Clock) -> Iterator[logging.Logger]:
    """A logger of its own that logs to the file."""
    logger = logging.Logger("told")
    handler = LogFile(path, clock)
    handler.open()
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_the_folder_is_made_anew_and_the_file_goes_on(log: logging.Logger, path: Path) -> None:
    log.warning("one")
    assert path.read_text() == "one\n"
    shutil.rmtree(path.parent)
    log.warning("two")
    assert path.read_text() == "two\n"


def test_a_file_that_was_moved_away_is_opened_anew(log: logging.Logger, path: Path) -> None:
    log.warning("one")
    path.rename(path.with_suffix(".1"))
    log.warning("two")
    assert (path.with_suffix(".1").read_text(), path.read_text()) == ("one\n", "two\n")


def away(path: Path) -> None:
    """The folder is moved away, and a file is where it was: it can be neither opened nor made."""
    path.parent.rename(path.parent.with_name("away"))
    path.parent.write_text("")


def back(path: Path) -> None:
    path.parent.unlink()
    path.parent.with_name("away").rename(path.parent)


def test_a_folder_that_is_away_for_a_while(
    log: logging.Logger, path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines go to standard error meanwhile; the file says how many it missed."""
    log.warning("before")
    away(path)
    log.warning("one")
    log.warning("two")
    assert capsys.readouterr().err == "one\ntwo\n"
    back(path)
    log.warning("three")
    assert capsys.readouterr().err == "three\n", "it is not tried with every line"
    clock.now_s += REOPEN_S
    log.warning("after")
    assert path.read_text().splitlines() == [
        "before",
        "lines could not be written here, and went to standard error",
        "after",
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EDQUOT])
def test_a_disk_that_takes_no_more(
    log: logging.Logger,
    path: Path,
    clock: Clock,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Even in the middle of a line: the next line begins on one of its own."""
    real = os.write
    room = 3

    def write(descriptor: int, data: memoryview) -> int:
        nonlocal room
        if room == 0:
            raise OSError(number, os.strerror(number))
        part, room = data[:room], 0
        return real(descriptor, part)

    with monkeypatch.context() as patch:
        patch.setattr(log_file.os, "write", write)
        log.warning("in the middle")
    assert path.read_text() == "in "
    assert capsys.readouterr().err == "in the middle\n"
    clock.now_s += REOPEN_S
    log.warning("after")
    assert path.read_text().splitlines()[0] == "in "
    assert path.read_text().splitlines()[-1] == "after"


def test_neither_file_nor_standard_error(
    log: logging.Logger, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Closed, away, or a pipe that nobody reads: who logs goes on."""
    away(path)
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w") as broken, (tmp_path / "closed").open("w") as closed:
        closed.close()
        streams = (broken, closed, None)
        for stream in streams:
            monkeypatch.setattr(sys, "stderr", stream)
            log.warning("lost")
            to_stderr = logging.Logger("stderr")
            to_stderr.addHandler(StderrHandler())
            to_stderr.warning("lost")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writes)  # what is buffered goes there when it is closed


def test_an_event_that_is_not_a_line(log: logging.Logger, path: Path) -> None:
    """A bug of who logs costs the line, and not who logs."""
    log.warning("%d of them", "many")
    log.warning("lone \udc80 surrogate")
    first, second = path.read_text().splitlines()
    assert first.startswith("a line of the log could not be made: TypeError")
    assert second == "lone \\udc80 surrogate"


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_what_is_no_file_is_not_written(
    log: logging.Logger, path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """A pipe whose reader is slow would take half a line and hold up who logs, or lose lines."""
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    else:
        path.symlink_to("/dev/null")
        reader = os.open(path, os.O_RDONLY)
    try:
        log.warning("one")
        assert capsys.readouterr().err == "one\n"
        with pytest.raises(OSError, match="it is no file"):
            LogFile(path).open()
        assert kind == "a device" or os.read(reader, 9) == b""
    finally:
        os.close(reader)
    path.unlink()
    clock.now_s += REOPEN_S
    log.warning("two")
    assert path.read_text().splitlines()[-1] == "two"
