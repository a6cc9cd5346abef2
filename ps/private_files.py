"""Files and folders of a deployment that are its user's alone: 0600 and 0700, whatever the umask.

State, records, locks, logs, copies of rows and mirrors of models are made here. What an operator gave keeps its mode:
a folder that was there, and a log that `logrotate` made for a group. Exported models are made elsewhere: another user
may serve them.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700


def opener(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file for Python's `open`, by `opener=opener`; one that is made is its user's alone."""
    return os.open(path, flags, FILE_MODE)


def open_private(path: Path, mode: str) -> BinaryIO:
    """Return a file opened for writing bytes; one that is made is its user's alone.

    Args:
        mode: Of Python's `open`: `xb`, `wb` or `ab`; `r+b` for one that is there.

    Raises:
        OSError: It cannot be opened.
    """
    return cast("BinaryIO", open(path, mode, opener=opener))


def write_private(path: Path, content: bytes) -> None:
    """Write a file, or replace its content.

    Raises:
        OSError: It cannot be written.
    """
    with open(path, "wb", opener=opener) as file:
        file.write(content)


def make_private_folder(path: Path, *, ours: bool = False) -> None:
    """Make a folder and those above it that are missing, each its user's alone; one that exists stays as it is.

    Args:
        ours: The folder has a name of ours, so that one that exists was made by an older build: it becomes private,
            too, unless it is another user's.

    Raises:
        OSError: One cannot be made, or there is a file in its place.
    """
    try:
        path.mkdir(FOLDER_MODE)
    except FileNotFoundError:
        if path.parent == path:
            raise
        make_private_folder(path.parent)
        path.mkdir(FOLDER_MODE, exist_ok=True)
    except OSError:
        if not path.is_dir():  # a folder, or the root of a file system that cannot be written
            raise
        if ours and stat.S_IMODE(path.stat().st_mode) & ~FOLDER_MODE:
            with suppress(PermissionError):
                path.chmod(FOLDER_MODE)
