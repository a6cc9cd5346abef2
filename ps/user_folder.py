"""Folder of this user below the temporary one: for who has no home, or one that cannot be written, as in a container
that runs under a number without a name.

Others can write beside it, and what lies in it is trusted: numba's cache is code. So it is named by the user's number,
made for its owner alone, and refused if it is a link, another user's, or writable by others.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from ringpull.ps.errors import StartupError

PREFIX: Final = "ringpull-"

OWNER_ONLY: Final = 0o700
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH

_VARIABLES: Final = ("TMPDIR", "TEMP", "TMP")
_USUAL: Final = ("/tmp", "/var/tmp", "/usr/tmp")
_REMEDY: Final = "set TMPDIR to a folder that can be written"


def user_folder(name: str) -> Path:
    """Return the folder `name` of this user, which is there afterwards.

    Raises:
        StartupError: There is no temporary folder that can be written, or what lies there is not this user's alone.
    """
    above = temporary_folder() / f"{PREFIX}{os.geteuid()}"
    for folder in (above, above / name):
        _make_own(folder)
    return above / name


def temporary_folder() -> Path:
    """Return the temporary folder; Python would take the working folder as the last one, where nobody looks for it.

    Raises:
        StartupError: None can be written.
    """
    try:
        found = tempfile.gettempdir()
    except OSError as exc:
        raise StartupError(f"no temporary folder can be written; {_REMEDY}") from exc
    here = ""
    with suppress(OSError):  # a working folder that was removed
        here = os.getcwd()
    named = {os.path.abspath(os.environ[name]) for name in _VARIABLES if os.environ.get(name)}
    if found == here and found not in {*named, *_USUAL}:
        raise StartupError(f"no temporary folder can be written; {_REMEDY}")
    return Path(found)


def _make_own(folder: Path) -> None:
    try:
        folder.mkdir(OWNER_ONLY)
    except FileExistsError:
        pass
    except OSError as exc:
        raise StartupError(f"{folder} cannot be made: {exc.strerror or exc}; {_REMEDY}") from exc
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise StartupError(f"{folder} is no folder, or a link: it is not used; remove it, or set TMPDIR")
    if found.st_uid != os.geteuid():
        raise StartupError(f"{folder} belongs to user {found.st_uid}: it is not used; remove it, or set TMPDIR")
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise StartupError(f"{folder} can be written by others: it is not used; remove it, or set TMPDIR")
