"""SIGINT and SIGTERM of a serving process: they interrupt a bring-up, and end a deployment that serves in order.

Code inside a `StopSignals` context sees either signal as KeyboardInterrupt, because that is the only exception which
Ray's blocking calls let through at once: any other that a handler raises becomes a SystemError after the call has ended
by itself. The context converts it to `Interrupted`.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Final, Self

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """Raised by `StopSignals` after a signal before serving began, or a second one during the shutdown.

    Attributes:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


class StopSignals:
    """Context that handles both signals; main thread only."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._held = False
        self._signum = signal.SIGINT
        self._before = {signum: signal.getsignal(signum) for signum in SIGNALS}

    def __enter__(self) -> Self:
        for signum in SIGNALS:
            signal.signal(signum, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        if isinstance(exc, KeyboardInterrupt):
            raise Interrupted(self._signum) from exc

    def hold(self) -> None:
        """Record the first signal from now on, for `wait`, instead of raising."""
        self._held = True

    def wait(self, timeout_s: float) -> bool:
        """Wait for a signal, at most `timeout_s` seconds; return whether one has come."""
        return self._asked.wait(timeout_s)

    @property
    def signum(self) -> int:
        """Last signal received."""
        return self._signum

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self._signum = signal.Signals(signum)
        if not self._held or self._asked.is_set():
            raise KeyboardInterrupt
        self._asked.set()
