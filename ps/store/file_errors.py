"""File errors: what the system says of a file that it does not read, as what that says of the file."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from ringpull.ps.errors import CorruptData, Unavailable

GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Errors that say that there is no such file."""

DAMAGED: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA})
"""Errors of a read that say that the storage has lost what was there. When a file is opened they may say less: a mount
that is away answers so too."""


def unreadable(path: Path, error: OSError) -> CorruptData | Unavailable:
    """Return the error for a file that cannot be opened or read: damage only where it can never be read as a file.

    No descriptors, no permission, a disk or server with trouble: that may pass, and says nothing of what is in it.
    """
    text = f"{path}: cannot be read: {error.strerror or error}"
    return CorruptData(text) if error.errno in GONE else Unavailable(text)


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
