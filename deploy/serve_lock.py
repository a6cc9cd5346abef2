"""Lock of a `serve` process, held for as long as it lives, whatever kills it.

It is a flock(2) on a file of its own, so the kernel frees it with the process, and it is seen through PID namespaces
and containers of one machine. Children do not inherit it: the descriptor is closed by exec, and by fork. Who would
remove what a `serve` made takes its lock first, and leaves everything where it is if that fails.

That the lock is free proves an end only on a file system of this machine. A server's (NFS) may refuse locks, or keep
those of its clients to each of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

import psutil

from ringpull.ps.private_files import make_private_folder
from ringpull.ps.store.file_errors import read_file

LOCK_SUFFIX: Final = ".lock"

LOCAL_FILE_SYSTEMS: Final = frozenset(
    ["apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "hfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"]
)
"""File systems on which flock is this kernel's own, for all who see the file."""

TAKE_TIMEOUT_S: Final = 5.0
"""Longest wait for a lock of one's own, which nobody holds for longer than a look. A file system may not answer."""
TAKE_AGAIN_S: Final = 0.02

_held: Final[set[int]] = set()
"""Descriptors of the locks of this process."""


class ServeLock:
    """Lock of this process, from `take` to `release` or the end of the process."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        """Use `take`."""
        self._path = path
        self._descriptor = descriptor

    def __repr__(self) -> str:
        return f"<ServeLock {self._path} {'held' if self.held else 'not held'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """Whether it is held; never where the file system refuses locks."""
        return self._descriptor is not None

    @property
    def name(self) -> str | None:
        """Name of its file; None if it is not held."""
        return self._path.name if self.held else None

    @classmethod
    def take(cls, folder: Path) -> Self:
        """Make a new lock in a folder, which is made when absent; where locks are refused it is not held.

        Raises:
            OSError: The folder cannot be written.
        """
        make_private_folder(folder, ours=True)
        path = folder / f"{secrets.token_hex(8)}{LOCK_SUFFIX}"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _lock_within(descriptor, TAKE_TIMEOUT_S)
            except OSError:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                return cls(path, None)
            if _is_at(descriptor, path):
                _held.add(descriptor)
                return cls(path, descriptor)
            os.close(descriptor)  # Somebody took it for one that was left behind, and removed it, before it was locked.

    def note_folders(self, folders: Iterable[str]) -> None:
        """Say in its file which folders were made for what is to be served, for whoever finds it free.

        A `serve` that is killed before predictions work has no record that would say so.
        """
        if self._descriptor is not None:
            content = json.dumps({"folders": list(folders)}).encode()
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, content, 0)

    def release(self) -> None:
        """Remove the file and free the lock. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            _held.discard(descriptor)
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            os.close(descriptor)


@contextmanager
def taken(path: Path) -> Iterator[bool]:
    """Context that holds a lock which another process left behind; yields whether it could be taken.

    Its file goes at the end, unless an error came first.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:  # It is not there, or not ours.
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = _is_at(descriptor, path)
    except OSError:
        mine = False
    try:
        yield mine
        if mine:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def noted_folders(path: Path) -> list[str]:
    """Return the folders that the file of a lock names: see `ServeLock.note_folders`."""
    try:
        folders = json.loads(read_file(path))["folders"]
        return [each for each in folders if isinstance(each, str) and os.path.isabs(each)]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def is_held(path: Path) -> bool | None:
    """Return whether some process holds the lock; None if nobody can tell. Changes nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        # Shared, so that several who look at a time do not take each other for a holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def is_local(path: Path) -> bool:
    """Return whether a path is surely on a file system of this machine."""
    best, kind = -1, ""
    with suppress(OSError, RuntimeError, psutil.Error):  # RuntimeError: a link to itself
        real = path.resolve()
        for mount in psutil.disk_partitions(all=True):
            if real.is_relative_to(mount.mountpoint) and len(mount.mountpoint) >= best:
                best, kind = len(mount.mountpoint), mount.fstype
    return kind in LOCAL_FILE_SYSTEMS


def _lock_within(descriptor: int, timeout_s: float) -> None:
    """Lock a file that nobody but a passer-by holds.

    Raises:
        OSError: Locks are refused, or somebody holds it for too long.
    """
    until_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise
            time.sleep(TAKE_AGAIN_S)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _close_in_child() -> None:
    """Close in a forked child what it must not hold on to: a lock is free when the last descriptor of it is closed."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
