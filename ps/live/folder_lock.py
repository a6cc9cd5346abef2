"""Folder lock: one process at a time has the log of a shard open. It goes with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from ringpull.ps.errors import Unavailable
from ringpull.ps.live.log_file import sync_folder
from ringpull.ps.private_files import make_private_folder, opener

FILE: Final = "lock"
WAIT_S: Final = 5.0
"""Time that is waited for a process that ends: a shard may be started again while it does."""
_LOOK_S: Final = 0.05


class FolderLock:
    """Lock on a folder, held from the beginning until `release`."""

    def __init__(self, folder: Path, *, wait_s: float = WAIT_S) -> None:
        """Make the folder if it is not there, and lock it.

        Raises:
            Unavailable: Another process has it, or the folder cannot be used.
        """
        try:
            if not folder.is_dir():
                make_private_folder(folder)
                sync_folder(folder.parent)
            self._descriptor = opener(str(folder / FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except OSError as exc:
            raise Unavailable(f"{folder}: the log cannot be opened: {exc}") from exc
        end_s = time.monotonic() + wait_s
        while not self._taken():
            if time.monotonic() >= end_s:
                self.release()
                raise Unavailable(
                    f"{folder}: another process has this log open; two deployments need a --data-dir each"
                )
            time.sleep(_LOOK_S)

    def release(self) -> None:
        """Let another process have it. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
