"""Call in a thread of its own: for work that may hang in a file system or a library, and that no limit of its own ends.

Whoever waits gives up after a while, and the thread is left to the call: a daemon's, so that the process can end. That
a call hangs has an error of its own, since what it raises itself may be a `TimeoutError`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")


class Hangs(Exception):
    """Raised when a call has not ended in time; it goes on."""


def begun(work: Callable[[], T], *, name: str) -> Future[T]:
    """Begin to call `work` in a thread of this name; return what has its outcome once it ends."""
    call: Future[T] = Future()

    def run() -> None:
        try:
            call.set_result(work())
        except BaseException as exc:
            call.set_exception(exc)

    threading.Thread(target=run, name=name, daemon=True).start()
    return call


def outcome(call: Future[T], within_s: float) -> T:
    """Return what a call returns; raises what it raises.

    Raises:
        Hangs: It has not ended within that time.
    """
    done, _ = wait([call], within_s)
    if not done:
        raise Hangs
    return call.result()
