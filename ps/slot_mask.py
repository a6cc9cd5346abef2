"""Sets of slots as masks, uint8 (SLOTS,), 1 for each slot of the set. Union is `|`, intersection `&`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from weakref import WeakValueDictionary

import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import SlotRange

SlotMask = NDArray[np.uint8]

_SHARED: Final[WeakValueDictionary[bytes, SlotMask]] = WeakValueDictionary()
"""Masks that somebody keeps, by their digest: a mask is 64 KiB, and a thousand tables have few different ones."""


def mask_of(ranges: Iterable[SlotRange]) -> SlotMask:
    """Return the set of all slots of some ranges, new."""
    mask = np.zeros(SLOTS, np.uint8)
    for slots in ranges:
        mask[slots.begin : slots.end] = 1
    return mask


def shared(mask: SlotMask) -> SlotMask:
    """Return the one mask kept of all that are equal to this one; nobody writes to it from now on."""
    kept = _SHARED.setdefault(xxhash.xxh3_128_digest(mask.data), mask)
    return kept if np.array_equal(kept, mask) else mask


def minus(mask: SlotMask, other: SlotMask) -> SlotMask:
    """Return the slots of `mask` that are not in `other`, new."""
    return mask & (other ^ np.uint8(1))


def runs(mask: SlotMask) -> list[SlotRange]:
    """Return the stretches of ones, ascending: the fewest ranges that make up the set."""
    return [SlotRange(begin, end) for begin, end in edges(mask).reshape(-1, 2).tolist()]


def edges(mask: SlotMask) -> NDArray[np.int64]:
    """Return begin and end of each of these ranges, (2 x ranges,)."""
    padded = np.zeros(len(mask) + 2, np.uint8)
    padded[1:-1] = mask
    return np.flatnonzero(padded[1:] != padded[:-1])
