"""Where log lines go: a file that may be away for a while, or standard error that may be closed. Neither ever raises.

A thread that logs is a shard's, a head's or the coordinator's own: an error of the log would end it and leave its
process alive without it. So a line that cannot be written to the file goes to standard error, which Ray keeps, and one
that cannot be written there is lost. The file is opened anew when something such as logrotate has moved it, or when its
folder is back, which is made if it can be.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ringpull.ps.private_files import FILE_MODE, make_private_folder

REOPEN_S: Final = 1.0
"""Pause after the file could not be written: a folder on a server that is gone may take seconds to say so."""


class StderrHandler(logging.Handler):
    """Standard error, as it is when a line is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or lose it."""
        with suppress(Exception):
            write_stderr(self.format(record))


class LogFile(logging.Handler):
    """Handler that appends lines to a file whenever it can.

    Args:
        path: The file. Its folder is made when absent.
        clock: Monotonic clock.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._path = path
        self._clock = clock
        self._descriptor: int | None = None
        self._identity = (-1, -1)
        self._again_s = float("-inf")
        self._lost = 0
        self._torn = False

    def __repr__(self) -> str:
        return f"<LogFile {self._path} {'open' if self._descriptor is not None else 'away'}>"

    def open(self) -> None:
        """Open the file for the first time.

        Raises:
            OSError: It cannot be written.
        """
        self._follow()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line: to the file, else to standard error, else nowhere."""
        try:
            line = self.format(record)
        except Exception as exc:  # an event whose words and values do not fit
            line = (
                f"a line of the log could not be made: {type(exc).__name__}: {exc} ({record.pathname}:{record.lineno})"
            )
        if not self._to_file(line):
            self._lost += 1
            write_stderr(line)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._close()
        super().close()

    def _to_file(self, line: str) -> bool:
        if self._clock() < self._again_s:
            return False
        try:
            self._follow()
            if self._lost:
                self._write(self.format(_lost_lines(self._lost)))
                self._lost = 0
            self._write(line)
        except OSError:
            self._again_s = self._clock() + REOPEN_S
            with suppress(OSError):
                self._close()
            return False
        return True

    def _follow(self) -> None:
        """Have the file open that has the path now."""
        try:
            found = os.stat(self._path)
            moved = (found.st_dev, found.st_ino) != self._identity
        except FileNotFoundError:
            moved = True
        if self._descriptor is None or moved:
            self._close()
            make_private_folder(self._path.parent)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, FILE_MODE)
            opened = os.fstat(self._descriptor)
            if not stat.S_ISREG(opened.st_mode):  # A pipe takes half a line, or holds up who logs when nobody reads.
                self._close()
                raise OSError(errno.EINVAL, "it is no file", os.fspath(self._path))
            self._identity = opened.st_dev, opened.st_ino

    def _write(self, line: str) -> None:
        assert self._descriptor is not None
        left = memoryview(f"{chr(10) * self._torn}{line}\n".encode(errors="backslashreplace"))
        while left:
            left = left[os.write(self._descriptor, left) :]
            self._torn = bool(left)  # so if the next write fails, as on a full disk

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def write_stderr(line: str) -> None:
    """Write a line to standard error, which may be closed, full, or a pipe that nobody reads any more."""
    with suppress(Exception):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _lost_lines(number: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "name": __name__,
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "lines could not be written here, and went to standard error",
            "lines": number,
        }
    )
