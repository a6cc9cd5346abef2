"""Waiting for processes that end, whoever started them.

A process that has ended stays in the table of processes until its parent asks for its exit status. In a container whose
first process asks for none, that is for ever: it holds nothing any more, and counts as ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import psutil

LOOK_S: Final = 0.02
MAX_LOOK_S: Final = 0.2


def has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended, reaped or not."""
    try:
        return not process.is_running() or process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False  # It is there, and another user's.


def wait_ended(
    processes: Iterable[psutil.Process],
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> list[psutil.Process]:
    """Wait until processes have ended, at most so long; return those that have not.

    Args:
        clock: Monotonic clock.
        sleep: Waits between two looks.
    """
    left, until_s, look_s = list(processes), clock() + timeout_s, LOOK_S
    while True:
        left = [each for each in left if not has_ended(each)]
        rest_s = until_s - clock()
        if not left or rest_s <= 0:
            return left
        sleep(min(look_s, rest_s))
        look_s = min(2 * look_s, MAX_LOOK_S)
