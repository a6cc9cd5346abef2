"""Things that lie where files should: made for tests, without a hang where something opens them after all."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = ("pipe", "socket", "device", "link to itself")


@contextmanager
def in_the_way(path: Path, kind: str) -> Iterator[None]:
    """Context in which a pipe, a socket, a device or a link to itself is at a path.

    Whoever opens the pipe all the same, and waits for somebody at its other end, finds it empty.
    """
    if kind == "pipe":
        os.mkfifo(path)
        pipe = os.open(path, os.O_PATH)  # which may be removed meanwhile
        over = threading.Event()
        other_end = threading.Thread(target=_open_and_close, args=(f"/proc/self/fd/{pipe}", over))
        other_end.start()
        try:
            yield
        finally:
            over.set()
            while other_end.is_alive():
                os.close(os.open(f"/proc/self/fd/{pipe}", os.O_RDONLY | os.O_NONBLOCK))
            os.close(pipe)
        return
    if kind == "socket":
        leave_socket(path)
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        path.symlink_to(path)
    yield


def leave_socket(path: Path) -> None:
    """A socket that nobody listens at any more, however long its path: a name to bind to has 107 bytes at most."""
    folder = os.open(path.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _open_and_close(path: str, over: threading.Event) -> None:
    while not over.is_set():
        os.close(os.open(path, os.O_WRONLY))
