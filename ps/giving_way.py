"""Giving way: heavy Python work that runs beside requests and hands the interpreter over often.

A thread that wants to run Python asks the one that does to let go, and waits up to the switch interval for it, 5 ms
unless told otherwise; a request wants it some ten times. A version being loaded is tens of milliseconds of Python.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SWITCH_S: Final = 0.000_5

_DEFAULT_SWITCH_S: Final = sys.getswitchinterval()


@contextmanager
def giving_way() -> Iterator[None]:
    """Have all threads of this process hand the interpreter over within half a millisecond, in the meantime.

    Where two such times overlap, the first that ends ends both: work then gives way less, and nothing stays changed.
    """
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(_DEFAULT_SWITCH_S)
