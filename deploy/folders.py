"""Folders that options name: whole paths, and nothing else in their place."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ringpull.ps.errors import InvalidInput


def as_folder(option: str, given: Path) -> Path:
    """Return the whole path of a folder, links followed. It need not exist yet.

    Raises:
        InvalidInput: It cannot be one: a link to itself, or there is something else; the message names the option.
    """
    try:
        # Of a folder that is not there yet, the nearest above it tells: it may be a file.
        path = given.expanduser().resolve()
        for each in (path, *path.parents):
            if (mode := _mode(each)) is not None:
                break
    except (RuntimeError, OSError, ValueError) as exc:
        raise InvalidInput(f"{option} {os.fspath(given)!r}: {exc}; write the path of a folder") from exc
    if mode is not None and not stat.S_ISDIR(mode):
        raise InvalidInput(f"{option} {os.fspath(given)!r}: {each} is there, and is no folder")
    return path


def as_folder_text(option: str, given: Path) -> str:
    """Return what `as_folder` does as text."""
    return str(as_folder(option, given))


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:  # Whoever uses it will say so.
        return stat.S_IFDIR
