"""The folder of a SavedModel, looked over before TensorFlow is started: its files are its own, and files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringpull.ps.errors import CorruptData, InvalidInput

_PARTS: Final = ("saved_model.pb", "variables", "assets")
"""What TensorFlow reads of a folder."""
_MAX_FILES: Final = 100_000


def check_folder(folder: Path) -> None:
    """Check that what TensorFlow reads of a SavedModel lies in its folder, and can be read to an end.

    Lines of a file that a link leads to would be texts of a vocabulary, and so of what is served.

    Raises:
        InvalidInput: There is no such folder.
        CorruptData: A link leads out of it, or to nothing; what should be a file is a pipe or a device.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: no such folder; a SavedModel is the folder of a saved_model.pb")
    root = folder.resolve()
    for number, path in enumerate(_entries(folder)):
        if number >= _MAX_FILES:
            raise CorruptData(f"{folder}: has more than {_MAX_FILES:,} files; a SavedModel has a few")
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError) as exc:  # links in a circle are a RuntimeError up to Python 3.12
            raise CorruptData(f"{path}: cannot be followed: {exc}; copy the file itself there") from exc
        if not target.is_relative_to(root):
            raise CorruptData(
                f"{path}: is a link out of the folder, to {target}; copy the SavedModel with its files: cp -rL"
            )
        if not target.is_file() and not target.is_dir():
            raise CorruptData(f"{path}: is no file but a pipe, a socket or a device")


def _entries(folder: Path) -> Iterator[Path]:
    for name in _PARTS:
        path = folder / name
        if path.is_symlink() or path.exists():
            yield path
        if path.is_dir() and not path.is_symlink():
            yield from path.rglob("*")
        elif path.is_dir():  # what a link of the folder's own leads to
            yield from path.resolve().rglob("*")
