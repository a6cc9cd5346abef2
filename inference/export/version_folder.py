"""The folder of a version that is exported: beside its place under a hidden name, and renamed when it is whole.

A failed export leaves nothing behind, and no half version is ever seen.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np

from ringpull.inference.model.model_dir import version_at
from ringpull.ps.errors import ExportError, InvalidInput, NotFound
from ringpull.ps.spec import check_name
from ringpull.ps.text.version_number import MAX_VERSION, RANGE, version_number

SCHEMA_FILE: Final = "schema.json"


def new_version(folder: Path, name: str, version: int) -> Path:
    """Return the folder of a version that does not exist yet.

    Raises:
        InvalidInput: The model's name, or the version, is not valid.
        ExportError: There is such a version.
    """
    check_name("model", name)
    return free_folder(folder, version)


def free_folder(folder: Path, version: int) -> Path:
    """Return the folder of a version that does not exist yet, of whatever name its model is.

    Raises:
        InvalidInput: The version is not valid.
        ExportError: There is such a version.
    """
    _check_number(version)
    for there in folder.iterdir() if folder.is_dir() else ():
        if version_number(there.name) == version:
            raise ExportError(f"{there} exists; a version is never written over: choose another, or delete it")
    return folder / str(version)


def _check_number(version: object) -> None:
    if isinstance(version, bool) or not isinstance(version, int | np.integer) or not 1 <= version <= MAX_VERSION:
        raise InvalidInput(f"version is {version!r}; it must be a whole number {RANGE}")


def version_before(folder: Path, version: int, follows: int) -> Path:
    """Return the folder of the version that a new one follows.

    Raises:
        InvalidInput: It is not there, or not before the new one, or that has no valid number.
    """
    _check_number(version)
    if isinstance(follows, bool) or not isinstance(follows, int | np.integer) or not 1 <= follows < version:
        raise InvalidInput(f"follows is {follows!r}; it must be the number of a version before {version}")
    try:
        return Path(version_at(str(folder.absolute()), int(follows)))
    except NotFound as exc:
        raise InvalidInput(f"follows version {follows}: {exc}") from exc


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """A hidden folder to write a version in, which becomes `target` when the context ends without an error.

    Raises:
        ExportError: It cannot be written.
    """
    hidden = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    made = [parent for parent in hidden.parents if not parent.exists()]
    try:
        hidden.mkdir(parents=True)
        yield hidden
        hidden.rename(target)
    except OSError as exc:
        if target.exists():
            raise ExportError(f"{target} exists: another export wrote it meanwhile") from exc
        raise ExportError(f"{target}: cannot be written: {exc.strerror or exc}") from exc
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        with suppress(OSError):  # one that holds something stays, and so do those that it lies in
            for parent in made:
                parent.rmdir()
