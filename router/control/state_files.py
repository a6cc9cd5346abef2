"""State files: what a store of the coordinator's state asks of a folder, for a local one and for object stores.

Four things: list names, read, make a file that nobody else has made, delete; and one that need not be exclusive, to
replace a small file. Making is the one that everything rests on: of two that make one name, exactly one succeeds, and
what it made is there whole or not at all.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import fsspec

from ringpull.ps.errors import InvalidInput, StartupError
from ringpull.ps.private_files import FILE_MODE, make_private_folder, open_private
from ringpull.ps.store.file_errors import read_file
from ringpull.ps.thread_call import Hangs, begun, outcome

T = TypeVar("T")

EXCLUSIVE: Final = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
"""Kinds of URLs whose packages make a file only where there is none (`pipe_file(mode="create")`): S3 by If-None-Match,
Google's by generation 0, Azure's by `overwrite=False`. The others of fsspec look first and write then."""

ANSWER_S: Final = 7.0
"""Longest wait for a file system, local or not, before it counts as away. A state is saved in two answers, so whoever
asked for it waits twice as long."""


_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_SURELY_NOT: Final = (errno.EEXIST, errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""Errors after which there is no file. After others of a folder that is on another machine there may be."""


class StateFiles(Protocol):
    """Files of one folder. Any method may raise an `OSError` or a `StartupError`: the folder is away."""

    beat_s: float
    """Interval at which a leader shows there that it lives."""

    def names(self) -> list[str]:
        """Return the names of all files; none where there is no folder."""
        ...

    def read(self, name: str) -> bytes:
        """Return what a file holds.

        Raises:
            FileNotFoundError: There is none.
        """
        ...

    def create(self, name: str, content: bytes) -> None:
        """Make a file, whole, unless there is one; when this returns it is safe.

        Raises:
            FileExistsError: There is one.
            OSError: There is none, and it was not made.
            StartupError: It is not known whether it was made.
        """
        ...

    def replace(self, name: str, content: bytes) -> None:
        """Make a file, or replace it. It need not outlive the machine, nor be whole for who reads it meanwhile."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file if it is there."""
        ...


class FolderFiles:
    """Files of a local folder, made when the first file is.

    Args:
        folder: The folder.
    """

    beat_s = 2.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return str(self._folder)

    def names(self) -> list[str]:
        try:
            return [entry.name for entry in os.scandir(self._folder) if entry.is_file()]
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        return read_file(self._folder / name)

    def create(self, name: str, content: bytes) -> None:
        temporary, path = self._temporary(name), self._folder / name
        try:
            with open_private(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            made = _link(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if not made:
            # In place, into the space that was just freed. If that fails, the file stays as it is, and readers leave it
            # out: the next leader may have seen it and sealed the term behind it, so its name must not be free again.
            with open_private(path, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        # The new name is on disk only once its folder is.
        try:
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as exc:
            raise StartupError(f"{path} is there, and may not outlive its machine: {exc}") from exc

    def replace(self, name: str, content: bytes) -> None:
        # In place, which needs no space: a full disk must not make a deployment seem dead.
        file = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT, FILE_MODE)
        try:
            os.pwrite(file, content, 0)
            os.ftruncate(file, len(content))
        finally:
            os.close(file)

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def make_folder(self) -> None:
        """Make the folder; only for whoever takes it over, or one that is not mounted would be made up."""
        make_private_folder(self._folder)

    def _temporary(self, name: str) -> Path:
        return self._folder / f"{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def _link(temporary: Path, path: Path) -> bool:
    """Make a file where there is none by a link, which shows it whole; return whether there are links here."""
    try:
        os.link(temporary, path)
    except OSError as exc:
        if exc.errno in _NO_LINKS:
            return False
        if exc.errno in _SURELY_NOT:
            raise
        raise StartupError(f"it is not known whether {path} was made: {exc}") from exc
    return True


class UrlFiles:
    """Files below a URL, by a file system of fsspec that can make a file exclusively.

    Args:
        system: The file system.
        root: Path in it.
    """

    beat_s = 5.0

    def __init__(self, system: Any, root: str) -> None:
        self._system = system
        self._root = root.rstrip("/")

    def __repr__(self) -> str:
        return str(self._system.unstrip_protocol(self._root))

    def names(self) -> list[str]:
        try:
            self._system.invalidate_cache()
            found = self._system.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return [str(path).rpartition("/")[2] for path in found]

    def read(self, name: str) -> bytes:
        return bytes(self._system.cat_file(f"{self._root}/{name}"))

    def create(self, name: str, content: bytes) -> None:
        path = f"{self._root}/{name}"
        try:
            self._system.pipe_file(path, content, mode="create")
        except (FileExistsError, PermissionError, FileNotFoundError):
            raise
        except Exception as exc:  # every file system behind fsspec has errors of its own, for a lost answer, too
            raise StartupError(f"it is not known whether {path} was made: {type(exc).__name__}: {exc}") from exc

    def replace(self, name: str, content: bytes) -> None:
        self._system.pipe_file(f"{self._root}/{name}", content)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(f"{self._root}/{name}")

    def make_folder(self) -> None:
        """Make the folder, where the file system has folders."""
        self._system.makedirs(self._root, exist_ok=True)


class PatientFiles:
    """Files whose folder may hang: each answer is waited for so long, and the folder is away while one is missing.

    Args:
        files: The files.
        answer_s: Longest wait for an answer.
    """

    def __init__(self, files: FolderFiles | UrlFiles, answer_s: float = ANSWER_S) -> None:
        self._files = files
        self._answer_s = answer_s
        self._hanging: Future[Any] | None = None
        self.beat_s = files.beat_s

    def __repr__(self) -> str:
        return repr(self._files)

    def names(self) -> list[str]:
        return self._answer(self._files.names)

    def read(self, name: str) -> bytes:
        return self._answer(lambda: self._files.read(name))

    def create(self, name: str, content: bytes) -> None:
        self._answer(lambda: self._files.create(name, content))

    def replace(self, name: str, content: bytes) -> None:
        self._answer(lambda: self._files.replace(name, content))

    def delete(self, name: str) -> None:
        self._answer(lambda: self._files.delete(name))

    def make_folder(self) -> None:
        """See `FolderFiles.make_folder`."""
        self._answer(self._files.make_folder)

    def _answer(self, work: Callable[[], T]) -> T:
        if self._hanging is not None and not self._hanging.done():
            raise StartupError(f"{self!r} has not answered for over {self._answer_s:g} s")
        answer = begun(work, name="state files")
        try:
            return outcome(answer, self._answer_s)
        except Hangs:
            self._hanging = answer
            raise StartupError(f"{self!r} has not answered for {self._answer_s:g} s") from None


def open_files(folder: str) -> PatientFiles:
    """Return the files of a folder, given by its path or URL. Nothing is made or asked yet.

    Raises:
        InvalidInput: The URL is of a kind that fsspec does not know, whose package is not installed, or that cannot
            make a file exclusively.
    """
    try:
        system, root = fsspec.core.url_to_fs(folder)
    except (ValueError, ImportError) as exc:
        raise InvalidInput(f"--state-dir {folder!r} cannot be used: {exc}") from exc
    protocols = (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)
    if "file" in protocols:
        return PatientFiles(FolderFiles(Path(root)))
    if not set(protocols) & set(EXCLUSIVE):
        raise InvalidInput(
            f"--state-dir {folder!r} cannot be used: {protocols[0]} cannot make a file only where there is none, so two"
            f" coordinators could not be told apart; use a folder, or one of {', '.join(EXCLUSIVE)}"
        )
    return PatientFiles(UrlFiles(system, root))


def probe(files: PatientFiles, folder: str) -> None:
    """Check that a file can be made where there is none, and not where there is one; makes the folder.

    Raises:
        StartupError: The folder cannot be made or written.
        InvalidInput: It can make a file over another one.
    """
    name = f"probe-{secrets.token_hex(8)}"
    try:
        files.make_folder()
        files.create(name, b"1")
    except Exception as exc:  # every file system behind fsspec has errors of its own
        raise StartupError(f"--state-dir {folder!r} cannot be written: {exc}") from exc
    try:
        files.create(name, b"2")
    except FileExistsError:
        return
    except Exception as exc:
        raise StartupError(
            f"--state-dir {folder!r} does not say whether a file is there already: {type(exc).__name__}: {exc}"
        ) from exc
    finally:
        with suppress(Exception):
            files.delete(name)
    raise InvalidInput(
        f"--state-dir {folder!r} cannot be used: it makes a file over one that is there, so two coordinators could not"
        " be told apart"
    )
