"""Load board: how many requests a head has in hand, in a page that the other heads of its machine have mapped.

To look at it costs them no message and wakes nobody. A number is written at once, by its head alone; one that is a
moment old does no harm: who is handed a request and has others by then answers it after these.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from ringpull.ps.private_files import open_private

BUSY: Final = 1 << 62
"""Load of a head that takes no requests of others any more."""
_BYTES: Final = 8


class LoadBoard:
    """A board that is mapped."""

    def __init__(self, path: Path) -> None:
        """Map the board that is there; see also `make`.

        Raises:
            OSError: It is not.
        """
        with open(path, "r+b") as file:
            self._mapping = mmap.mmap(file.fileno(), _BYTES)
        self._number = memoryview(self._mapping).cast("q")
        self._path = path

    def __repr__(self) -> str:
        return f"<LoadBoard {self._path} {self.load}>"

    @classmethod
    def make(cls, path: Path) -> LoadBoard:
        """Make a board in place of one that another process left there, which keeps its own.

        Raises:
            OSError: It cannot be made.
        """
        with suppress(FileNotFoundError):
            path.unlink()
        with open_private(path, "xb") as file:
            os.truncate(file.fileno(), _BYTES)
        return cls(path)

    @property
    def load(self) -> int:
        """Requests in hand."""
        return self._number[0]

    @load.setter
    def load(self, requests: int) -> None:
        self._number[0] = requests

    def close(self) -> None:
        """Unmap it. Idempotent."""
        self._number.release()
        self._mapping.close()

    def remove(self) -> None:
        """Take it away, for whoever has not mapped it."""
        with suppress(OSError):
            self._path.unlink()
