"""Scratch folder of a compaction: hidden in the model's folder, held by one process, and a version in the end.

It has one name, so that what a killed job left is found and removed by the next one; and a lock, so that this is not
done to a job that runs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ringpull.ps.errors import ExportError, InvalidInput

NAME: Final = ".compact"


class Scratch:
    """Folder that is written; `become` makes a version of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def become(self, target: Path) -> None:
        """Give it its name.

        Raises:
            ExportError: There is such a folder by now, or it cannot be renamed.
        """
        if target.exists():
            raise ExportError(f"{target} exists: another export wrote it meanwhile")
        try:
            self.path.rename(target)
        except OSError as exc:
            raise ExportError(f"{target}: cannot be written: {exc.strerror or exc}") from exc


@contextmanager
def scratch_in(folder: Path) -> Iterator[Scratch]:
    """An empty scratch folder in a model's folder, which goes when the context ends unless it became a version.

    Raises:
        InvalidInput: Another process has it.
        ExportError: It cannot be made.
    """
    path = folder / NAME
    try:
        descriptor = _locked(path)
    except OSError as exc:
        raise ExportError(f"{path}: cannot be made: {exc.strerror or exc}") from exc
    try:
        for left in path.iterdir():
            _remove(left)
        yield Scratch(path)
    finally:
        if _is_at(path, descriptor):
            shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _locked(path: Path) -> int:
    """Make the folder where it is missing, and lock it; return its descriptor."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(descriptor)
            raise InvalidInput(f"{path.parent} is being compacted: another process holds {path}") from exc
        except BaseException:
            os.close(descriptor)
            raise
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # it became a version, or went, before it was locked


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
