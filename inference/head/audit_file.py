"""File of an audit log: lines of JSON, each appended by itself, in a thread that holds up nobody.

Where the disk hangs, lines wait, so many at most; what is more is lost, and counted in the next line that is written.
The thread is a daemon: a disk that hangs does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import stat
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from ringpull.ps.errors import StartupError

logger: Final = logging.getLogger("ringpull.audit")

WRITE_WAIT_S: Final = 1.0
"""Longest wait of a verb for its line: a disk that hangs holds up no operator for longer."""

MAX_WAITING: Final = 1_000
"""Lines that wait to be written; each has at most some kilobytes."""


class AuditFile:
    """File that lines are appended to. Safe to use from any thread, also once it is closed.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._there = threading.Condition(self._lock)
        self._waiting: deque[bytes | Future[None]] = deque()
        """Lines to write, and what is to be told once all before it are."""
        self._lost = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        self.trouble = ""
        """What an operator should know of it; empty: it can be written."""

    def __repr__(self) -> str:
        return f"<AuditFile {self._path}{' in trouble' if self.trouble else ''}>"

    def put(self, line: Mapping[str, Any]) -> None:
        """Have a line written soon; once the file is closed and its thread has ended, at once."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                self._lost += 1
                self._warn(f"the audit log {self._path} is not written, and loses lines: {MAX_WAITING} are waiting")
                return
            if self._lost:
                line, self._lost = {**line, "lines_lost": self._lost}, 0
            text = json.dumps(line).encode() + b"\n"
            if not (self._closed and self._thread is None):
                self._hand_over(text)
                return
        self._append(text)

    async def written(self) -> None:
        """Wait until every line so far is in the file, or for `WRITE_WAIT_S`."""
        with self._lock:
            if self._thread is None:
                return
            last: Future[None] = Future()
            self._hand_over(last)
        done, _ = await asyncio.wait([asyncio.wrap_future(last)], timeout=WRITE_WAIT_S)
        if not done:
            with self._lock:
                self._warn(f"the audit log {self._path} has not been written for {WRITE_WAIT_S:g} s")

    def close(self) -> None:
        """Write what waits, for `WRITE_WAIT_S` at most, and end the thread."""
        with self._lock:
            self._closed = True
            thread = self._thread
            self._there.notify()
        if thread is not None:
            thread.join(WRITE_WAIT_S)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _hand_over(self, item: bytes | Future[None]) -> None:
        """Give something to the thread, which is started by the first. The lock is held."""
        self._waiting.append(item)
        if self._thread is None:
            thread = threading.Thread(target=self._write, name="audit", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:  # there is none to be had, or the interpreter ends
                self._waiting.clear()
                self._lost += 1
                self._warn(f"the audit log {self._path} cannot be written: {exc}")
                return
            self._thread = thread
        self._there.notify()

    def _write(self) -> None:
        while True:
            with self._lock:
                while not self._waiting:
                    if self._closed:
                        self._thread = None
                        return
                    self._there.wait()
                item = self._waiting.popleft()
            if isinstance(item, bytes):
                self._append(item)
            elif item.set_running_or_notify_cancel():
                item.set_result(None)

    def _append(self, line: bytes) -> None:
        try:
            append(self._path, line)
        except OSError as exc:
            self._warn(f"the audit log {self._path} cannot be written: {exc.strerror or exc}")
        else:
            self.trouble = ""

    def _warn(self, trouble: str) -> None:
        if trouble != self.trouble:
            logger.warning(trouble)
        self.trouble = trouble


def append(file: Path, line: bytes) -> None:
    """Append a line to a file, which is made for its owner alone.

    Raises:
        OSError: It cannot be written, or is no regular file: a pipe would have its writer wait for a reader.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as exc:
        # Of a pipe that nobody reads, and of a socket.
        raise (_no_regular_file() if exc.errno == errno.ENXIO else exc) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _no_regular_file()
        while line:
            line = line[os.write(descriptor, line) :]
    finally:
        os.close(descriptor)


def _no_regular_file() -> OSError:
    return OSError(errno.EINVAL, "it is no regular file")


def check(file: Path) -> None:
    """Look whether lines can be appended to a file, before a head does it.

    Raises:
        StartupError: They cannot.
    """
    try:
        append(file, b"")
    except OSError as exc:
        raise StartupError(f"--audit-log: {file} cannot be written: {exc.strerror or exc}") from exc
