"""One prepare under way, as other threads see it: how far it is, and whether it was given up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ringpull.ps.errors import Unavailable


class Cancelled(Unavailable):
    """Raised when a prepare was given up."""


class Job:
    """Written by the thread that works; read and cancelled by any."""

    def __init__(self) -> None:
        self.copied_bytes = 0
        """Rows and their keys; begins with what an interrupted job left."""
        self.bytes_to_copy = 0
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._interrupts: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Have the job end soon, with `Cancelled`. Again, it does nothing."""
        with self._lock:
            self._cancelled.set()
            interrupts = list(self._interrupts)
        for interrupt in interrupts:
            interrupt()

    def check(self) -> None:
        """Raise `Cancelled` if the job was given up."""
        if self._cancelled.is_set():
            raise Cancelled("the copy was given up")

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            Cancelled: The job was given up meanwhile.
        """
        self._cancelled.wait(seconds)
        self.check()

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call `interrupt`, from the cancelling thread, when the job is cancelled within; it must not block."""
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
