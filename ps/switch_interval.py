"""Switch interval of the interpreter, shortened while heavy Python work runs beside requests.

A thread that wants to run Python waits up to the switch interval, 5 ms by default, until the running thread releases
the interpreter; a request needs it about ten times. Loading a version takes tens of milliseconds of Python.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SWITCH_S: Final = 0.000_5

DEFAULT_S: Final = sys.getswitchinterval()


@contextmanager
def frequent_switches() -> Iterator[None]:
    """Make all threads of this process release the interpreter within half a millisecond while the context lasts.

    Of two contexts that overlap, the first to end restores the default for both.
    """
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(DEFAULT_S)
