"""State file of the coordinator: one JSON file in a folder, or below any URL that fsspec knows.

A crash at any moment leaves either the old or the new state complete: the file is written under a temporary name and
moved over the old one. In a folder that is one atomic step (rename), and in an object store too, whose copy appears
complete or not at all; on other file systems it is as atomic as their move.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import fsspec

from ringpull.ps.errors import CorruptData, InvalidInput, StartupError

FILE_NAME: Final = "coordinator.json"


class StateFile:
    """Saved state of one coordinator, which is its only writer.

    Args:
        folder: Path of a folder, or a URL such as `s3://bucket/ringpull`; created when absent.

    Raises:
        InvalidInput: The URL is of a kind that fsspec does not know, or whose package is not installed.
        StartupError: The folder cannot be made.
    """

    def __init__(self, folder: str) -> None:
        try:
            self._system, root = fsspec.core.url_to_fs(folder)
        except (ValueError, ImportError) as exc:
            raise InvalidInput(f"--state-dir {folder!r} cannot be used: {exc}") from exc
        self._path = f"{root.rstrip('/')}/{FILE_NAME}"
        self._local = "file" in _protocols(self._system)
        try:
            self._system.makedirs(root, exist_ok=True)
        except Exception as exc:
            raise StartupError(f"--state-dir {folder!r} cannot be made: {exc}") from exc

    def __repr__(self) -> str:
        return f"<StateFile {self._path}>"

    def save(self, fields: Mapping[str, Any]) -> None:
        """Replace the saved state.

        Raises:
            StartupError: It cannot be written; the old one is still there.
        """
        content = json.dumps(fields, indent=1).encode()
        temporary = f"{self._path}.tmp"
        try:
            if self._local:
                _replace(Path(temporary), Path(self._path), content)
            else:
                self._system.pipe_file(temporary, content)
                self._system.mv(temporary, self._path)
        except Exception as exc:  # every file system behind fsspec has errors of its own
            raise StartupError(f"the coordinator's state cannot be saved to {self._path}: {exc}") from exc

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None where there is none.

        Raises:
            CorruptData: What is there is not a JSON object.
            StartupError: It cannot be read.
        """
        try:
            content = self._system.cat_file(self._path)
        except FileNotFoundError:
            return None
        except Exception as exc:
            raise StartupError(f"the coordinator's state cannot be read from {self._path}: {exc}") from exc
        try:
            fields = json.loads(content)
        except ValueError as exc:
            raise CorruptData(f"{self._path} is not JSON: {exc}") from exc
        if not isinstance(fields, dict):
            raise CorruptData(f"{self._path} holds a {type(fields).__name__}; it must hold an object")
        return fields


def _replace(temporary: Path, path: Path, content: bytes) -> None:
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    # The new name is on disk only once its folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _protocols(system: Any) -> tuple[str, ...]:
    protocol = system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
