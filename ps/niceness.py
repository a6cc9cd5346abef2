"""Niceness of threads: work that may take its time beside requests, in a thread of its own that gives way to them.

On Linux each thread has its own, and only a privileged process may take it back: so the thread is made for the work and
ends with it. Threads that the work starts have its niceness too, and keep it if they live on. What it does in Python
holds the interpreter's lock meanwhile, and other threads of its process wait for it, so a process that answers requests
gives little of it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def take_niceness(nice: int) -> None:
    """Give the calling thread, and what it starts, a niceness, unless it has a higher one: 0 none, 19 most."""
    if nice and sys.platform == "linux":  # elsewhere it would be that of the whole process
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, max(nice, os.getpriority(os.PRIO_PROCESS, thread)))


def in_nice_thread(work: Callable[[], T], nice: int, *, name: str) -> T:
    """Return what `work` returns, called in a thread that gives way to others; raises what it raises.

    What interrupts the caller, such as the exit that a SIGTERM asks for, is raised at once, and the end of the process
    does not wait for the work either.

    Args:
        nice: How much: 0 not at all, 19 most.
        name: Name of the thread.
    """
    outcome: Future[T] = Future()

    def call(outcome: Future[T]) -> None:
        try:
            take_niceness(nice)
            outcome.set_result(work())
        except BaseException as exc:
            outcome.set_exception(exc)
            del outcome  # The error has this frame, and would have itself.

    thread = threading.Thread(target=call, args=(outcome,), name=name, daemon=True)  # an executor's would be waited for
    thread.start()
    wait([outcome])  # before its error, which would hide that the thread has not ended yet
    thread.join()
    try:
        return outcome.result()
    finally:
        del outcome  # likewise
