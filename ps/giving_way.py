"""Threads that give way: work that may take its time beside requests, in a thread of its own with a niceness.

Niceness is a thread's on Linux, and only a privileged process may take it back: so the thread is made for the work and
ends with it. Threads that the work starts have its niceness too. What it does in Python holds the interpreter's lock
meanwhile, and other threads of its process wait for it, so a process that answers requests gives little of it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def give_way(nice: int) -> None:
    """Have the calling thread, and what it starts, give way to others: 0 not at all, 19 most."""
    if nice and sys.platform == "linux":  # elsewhere it would be that of the whole process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def giving_way(work: Callable[[], T], nice: int, *, name: str) -> T:
    """Return what `work` returns, called in a thread that gives way to others; raises what it raises.

    Args:
        nice: How much: 0 not at all, 19 most.
        name: Name of the thread.
    """
    with ThreadPoolExecutor(1, name, give_way, (nice,)) as thread:
        return thread.submit(work).result()
