"""Job: the progress of one `prepare`, and the means to cancel it from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ringpull.ps.errors import Unavailable


class Cancelled(Unavailable):
    """Raised when a prepare was cancelled."""


class Job:
    """Progress of one prepare. Written by the thread that works; read and cancelled by any thread."""

    def __init__(self) -> None:
        self.copied_bytes = 0
        """Bytes of rows and keys copied, including what an interrupted job had left on disk."""
        self.bytes_to_copy = 0
        self.checked_bytes = 0
        """Bytes of rows that were read and held against their checksums."""
        self.bytes_to_check = 0
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._interrupts: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Make the job end soon, with `Cancelled`. Idempotent."""
        with self._lock:
            self._cancelled.set()
            interrupts = list(self._interrupts)
        for interrupt in interrupts:
            interrupt()

    def check(self) -> None:
        """Raise `Cancelled` if the job was cancelled."""
        if self._cancelled.is_set():
            raise Cancelled("the copy was given up")

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`.

        Raises:
            Cancelled: The job was cancelled meanwhile.
        """
        self._cancelled.wait(seconds)
        self.check()

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call `interrupt`, in the cancelling thread, if the job is cancelled within the context. It must not block."""
        with self._lock:
            self._interrupts.append(interrupt)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)

    def __repr__(self) -> str:
        state = " cancelled" if self._cancelled.is_set() else ""
        return f"<Job {self.copied_bytes} of {self.bytes_to_copy} bytes{state}>"
