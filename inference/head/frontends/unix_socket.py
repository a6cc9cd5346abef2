"""Unix socket for its owner alone: a file of mode 0600 in a folder of mode 0700.

It is bound under another name and put in its place when it is ready, so whoever finds it can connect, and what an
earlier process left there is replaced. So a head that is restarted has the address that it had before, and one that
ends takes its own socket away and nobody else's.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from ringpull.ps.errors import RingpullError, StartupError
from ringpull.ps.private_files import make_private_folder

MAX_PATH_BYTES: Final = 107
"""Bytes of a socket's path on Linux (`sun_path`, unix(7)), without the zero that ends it."""

SCHEME: Final = "unix:"

FOLDER: Final = "doors"
"""Folder of the sockets of a user's deployments: in the state folder, or else below the temporary one."""

OWNER_ONLY: Final = 0o700

SHORTEST: Final = Path("/tmp")
"""Temporary folder in which any socket has room, whatever TMPDIR says."""

_PLAIN: Final = re.compile(r"/[A-Za-z0-9._/@+,=-]*")
"""Paths that mean the same as an address of gRPC and as a word of the ready line."""


class UnixSocket:
    """Place of a socket that somebody is about to listen on, and takes away at the end."""

    def __init__(self, path: Path) -> None:
        """Use `UnixSocket.claim`."""
        self.path = path
        # No longer than the name itself, and no other head's.
        self._made = path.with_name(f"{path.stem}.{secrets.token_hex(2)}")
        self._identity = (-1, -1)

    def __repr__(self) -> str:
        return f"<UnixSocket {self.path}>"

    @classmethod
    def claim(cls, folders: Iterable[Callable[[], Path]], name: str) -> Self:
        """Return a place in the first folder in which a socket can be.

        Args:
            folders: Functions that return a folder, which is there afterwards and is this user's alone.
            name: Name of the socket.

        Raises:
            StartupError: None of them will do; the message has the reason of each.
        """
        reasons = []
        for folder in folders:
            try:
                return cls._in(folder(), name)
            except (RingpullError, OSError, RuntimeError) as exc:  # RuntimeError: a user without a home
                reasons.append(str(exc))
        raise StartupError("; ".join(reasons))

    @classmethod
    def _in(cls, folder: Path, name: str) -> Self:
        found = cls(folder / name)
        _check_path(found.path)
        # What binds it later tells no reason: here it is found out whether and why it cannot.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.bind(str(found._made))
            except OSError as exc:
                raise StartupError(f"{folder} can hold no socket: {exc.strerror or exc}") from exc
            finally:
                found._made.unlink(missing_ok=True)
        return found

    @property
    def address(self) -> str:
        """Address to connect to, `unix:/PATH`."""
        return f"{SCHEME}{self.path}"

    @property
    def address_to_bind(self) -> str:
        """Address to listen on, before `show`."""
        return f"{SCHEME}{self._made}"

    def show(self) -> None:
        """Put the socket that was bound in its place, for its owner alone.

        Raises:
            StartupError: It is not there.
        """
        try:
            self._made.chmod(stat.S_IRUSR | stat.S_IWUSR)
            found = self._made.stat()
            self._made.replace(self.path)
        except OSError as exc:
            raise StartupError(f"{self.path} cannot be made: {exc.strerror or exc}") from exc
        self._identity = found.st_dev, found.st_ino

    def remove(self) -> None:
        """Take the socket away, unless another process has its place by now, and its folder if nothing else is there.

        Idempotent.
        """
        with suppress(OSError):
            self._made.unlink(missing_ok=True)
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._identity:
                self.path.unlink()
                self.path.parent.rmdir()


def own_folder(folder: Path) -> Path:
    """Return a folder that is there afterwards, and that nobody but this user can enter.

    Raises:
        StartupError: It cannot be made, or is another user's.
    """
    try:
        make_private_folder(folder)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise StartupError(f"{folder} is no folder, or a link: it is not used")
        if found.st_uid != os.geteuid():
            raise StartupError(f"{folder} belongs to user {found.st_uid}: it is not used")
        if stat.S_IMODE(found.st_mode) != OWNER_ONLY:
            folder.chmod(OWNER_ONLY)
    except OSError as exc:
        raise StartupError(f"{folder} cannot be used: {exc.strerror or exc}") from exc
    return folder


def _check_path(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        raise StartupError(f"{path} has {size} bytes; the path of a socket has at most {MAX_PATH_BYTES}")
    if _PLAIN.fullmatch(str(path)) is None:
        raise StartupError(f"{str(path)!r} has other characters than letters, digits and '/._@+,=-'")
