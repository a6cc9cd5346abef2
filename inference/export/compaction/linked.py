"""Files of one version in another one's folder: as hard links where the file system can, else copied.

Neither version needs the other's folder then: a file goes with its last name.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ringpull.inference.model.version_files import FileEntry, resolve
from ringpull.ps.errors import ExportError, RingpullError
from ringpull.ps.store.base import Base


def link_file(entry: FileEntry, source: Path, target: Path) -> None:
    """Have a file of the version in `source` in that in `target`, too, once it is checked.

    Raises:
        CorruptData: It is damaged.
        ExportError: It cannot be written.
    """
    entry.verify(source)
    _link(resolve(source, entry.path), target / entry.path)


def has_table(folder: str, identity: int) -> bool:
    """Return whether a table lies in a folder that can be seen from here; `identity` 0 is any."""
    if "://" in folder:
        return False
    try:
        return Base.open(Path(folder), verify_rows=False).identity == identity or not identity
    except (RingpullError, OSError):
        return False


def link_table(source: Path, target: Path) -> None:
    """Have all files of a table in another folder, too. Its rows are read where samples are taken of it, not here.

    Raises:
        ExportError: It cannot be written.
    """
    for file in sorted(source.iterdir()):
        if file.is_file():
            _link(file, target / file.name)


def _link(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        real = source.resolve()
        try:
            os.link(real, target)
        except OSError:  # another file system, one without links, or another user's file
            shutil.copyfile(real, target)
    except OSError as exc:
        raise ExportError(f"{target}: cannot be written: {exc.strerror or exc}") from exc
