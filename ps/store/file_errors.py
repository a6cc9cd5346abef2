"""File errors: what the system says of a file that it does not read, as what that says of the file.

And files that are none: opening a pipe that nobody writes into would wait for ever, and a device may never end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from ringpull.ps.errors import CorruptData, Unavailable

GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Errors that say that there is no such file."""

DAMAGED: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA})
"""Errors of a read that say that the storage has lost what was there. When a file is opened they may say less: a mount
that is away answers so too."""


_KINDS: Final = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFile(OSError):
    """Raised when what has a file's name is a pipe, a socket or a device."""


def opened(path: Path) -> BinaryIO:
    """Open a file for reading, and nothing else that may have its name.

    Raises:
        NotAFile: It is a pipe, a socket or a device.
        OSError: It cannot be opened.
    """
    try:
        # Without waiting for somebody at the other end of a pipe; to a file that makes no difference.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            raise NotAFile(errno.ENXIO, "it is a socket or a device, not a file", str(path)) from exc
        raise
    try:
        check_is_file(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_is_file(path: Path, mode: int) -> None:
    """Check that the mode of what is at a path is that of a file.

    Raises:
        NotAFile: It is that of a pipe, a socket or a device.
        IsADirectoryError: It is that of a folder.
    """
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        raise NotAFile(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, not a file", str(path))


def read_file(path: Path) -> bytes:
    """Return the content of a file. Raises what `opened` does."""
    with opened(path) as file:
        return file.read()


def unreadable(path: Path, error: OSError) -> CorruptData | Unavailable:
    """Return the error for a file that cannot be opened or read: damage only where it can never be read as a file.

    No descriptors, no permission, a disk or server with trouble: that may pass, and says nothing of what is in it.
    """
    text = f"{path}: cannot be read: {error.strerror or error}"
    return CorruptData(text) if error.errno in GONE or isinstance(error, NotAFile) else Unavailable(text)


def is_there(path: Path) -> bool:
    """Return whether there is a file or folder.

    Raises:
        Unavailable: It cannot be told now.
    """
    try:
        path.stat()
    except OSError as exc:
        if exc.errno in GONE:
            return False
        raise Unavailable(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    return True
