"""Folder of this user below the temporary one: for who has no home, or one that cannot be written, as in a container
that runs under a number without a name.

Others can write beside it, and what lies in it is trusted: numba's cache is code. So it is named by the user's number,
made for its owner alone, and refused if it is a link, another user's, or writable by others. A folder elsewhere, as in
a home, is held to the same (`check_path`).
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final

from ringpull.ps.errors import StartupError

PREFIX: Final = "ringpull-"

OWNER_ONLY: Final = 0o700
_MAX_LINKS: Final = 40
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


def check_path(folder: Path) -> None:
    """Check that what lies in a folder is this user's doing, wherever it is: its own code is trusted then.

    The folder must be this user's alone. Nobody but this user and root may be able to put another in its place, or in
    that of a folder above it, or of a link on the way to it.

    Raises:
        StartupError: Others can, or it is not there; the message names the folder.
    """
    try:
        way = _way_to(folder)
        _check_own(way[-1], way[-1].lstat())
        trusted = {os.geteuid(), 0, os.stat("/").st_uid}  # root has another number in a container of a user's own
        for each, below in pairwise(way):
            found = each.lstat()
            if found.st_uid not in trusted:
                raise StartupError(f"{each} belongs to user {found.st_uid}: what lies below it is not used")
            # In a folder like /tmp everybody makes files, and each moves only its own.
            mine = below.lstat().st_uid in trusted and found.st_mode & stat.S_ISVTX
            if found.st_mode & _WRITABLE_BY_OTHERS and not stat.S_ISLNK(found.st_mode) and not mine:
                raise StartupError(f"{each} can be written by others: what lies below it is not used")
    except OSError as exc:
        raise StartupError(f"{folder} cannot be looked at: {exc.strerror or exc}") from exc


def _way_to(folder: Path) -> list[Path]:
    """Return every folder and link that is passed on the way to a folder, which is the last."""
    way, left, links = [Path("/")], list(reversed(Path(os.path.abspath(folder)).parts[1:])), 0
    here = Path("/")
    while left:
        part = left.pop()
        here = here.parent if part == ".." else here / part
        way.append(here)
        if here.is_symlink():
            if (links := links + 1) > _MAX_LINKS:
                raise StartupError(f"{folder} is behind more than {_MAX_LINKS} links: it is not used")
            target = Path(os.readlink(here))
            left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            here = Path("/") if target.is_absolute() else here.parent
            way.append(here)
    return way


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
    _check_own(folder, folder.lstat())


def _check_own(folder: Path, found: os.stat_result) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise StartupError(f"{folder} is no folder, or a link: it is not used; remove it, or set TMPDIR")
    if found.st_uid != os.geteuid():
        raise StartupError(f"{folder} belongs to user {found.st_uid}: it is not used; remove it, or set TMPDIR")
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise StartupError(f"{folder} can be written by others: it is not used; remove it, or set TMPDIR")
