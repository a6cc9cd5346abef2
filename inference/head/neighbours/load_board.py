"""Load board: how many requests a head has in hand, in a page of memory that other heads of its machine have mapped.

To look at it costs them no message and wakes nobody. A number is written at once, by its head alone; one that is a
moment old does no harm: who is handed a request and has others by then answers it after these.

It is memory and no file of a disk, whose pages may wait to be written, and has no name that is left behind: the others
open it by the process that has it, which only its user may.
"""

from __future__ import annotations

import mmap
import os
from typing import Final, Self

BUSY: Final = 1 << 62
"""Load of a head that takes no requests of others any more."""
_BYTES: Final = 8


class LoadBoard:
    """Board that is mapped."""

    def __init__(self, descriptor: int, *, own: bool) -> None:
        """Use `LoadBoard.make` or `LoadBoard.of`."""
        self._descriptor = descriptor if own else -1
        access = mmap.PROT_READ | (mmap.PROT_WRITE if own else 0)
        self._mapping = mmap.mmap(descriptor, _BYTES, prot=access)
        self._number = memoryview(self._mapping).cast("q")

    def __repr__(self) -> str:
        return f"<LoadBoard {'closed' if self._mapping.closed else self.load}>"

    @classmethod
    def make(cls) -> Self:
        """Make a board.

        Raises:
            OSError: There is no memory for it.
        """
        descriptor = os.memfd_create("ringpull-load", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, bytes(_BYTES))  # which fails where a store would end the process
            return cls(descriptor, own=True)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def of(cls, pid: int, descriptor: int) -> Self:
        """Map the board of another process.

        Raises:
            OSError: It is not there, or is not for us.
        """
        opened = os.open(f"/proc/{int(pid)}/fd/{int(descriptor)}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return cls(opened, own=False)
        except ValueError as exc:
            raise OSError(f"process {pid} has no board: {exc}") from exc
        finally:
            os.close(opened)

    @property
    def place(self) -> tuple[int, int]:
        """Process and descriptor that others find it by."""
        return os.getpid(), self._descriptor

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
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
