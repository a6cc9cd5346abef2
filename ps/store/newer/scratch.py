"""Scratch: numbers of many rows in memory that is used again, as that of blocks is.

A fold has some of each row, and memory that was never written to costs more than to fill it. Spares have it in between,
which let go of it when nobody folds for long, or rows need the room.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.mapping import HUGE_PAGE_BYTES, anonymous
from ringpull.ps.store.newer.spares import Spares, lent

_NUMBER_BYTES: Final = 8


def scratch(count: int, spares: Spares) -> UInt64Array:
    """Return numbers, uint64 (count,), with whatever is in them; their memory is spare again once nobody has them.

    Raises:
        MemoryError: There is none left.
    """
    if count * _NUMBER_BYTES < HUGE_PAGE_BYTES:
        return np.empty(count, np.uint64)
    size = -(-count * _NUMBER_BYTES // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    memory = spares.take(size, 2 * size)
    if memory is None:
        try:
            memory = anonymous(size)
        except OSError as exc:  # which would end the round of all tables
            raise MemoryError(str(exc)) from exc
    return np.frombuffer(memoryview(lent(memory, spares.put)), np.uint64, count)
