"""Slots that the simulation looks at: a few of the 65,536, spread over the ring, as the bits of one integer.

Who owns what is decided by the product's own rings; here it is only read off them, and remembered, since thousands of
histories ask for the same few.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from random import Random
from typing import Final

from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.spec import ALL, Replicas
from tests.simulation.remembered import by_identity

LOOKED_AT: Final = tuple(sorted({0, SLOTS - 1, *Random(7).sample(range(SLOTS), 46)}))
"""Slots that are looked at, ascending."""

EVERY_SLOT: Final = (1 << len(LOOKED_AT)) - 1

Bits = int
"""Set of slots: bit i is `LOOKED_AT[i]`."""


def bits_of(ranges: Iterable[SlotRange]) -> Bits:
    """Return the slots of some ranges."""
    bits = 0
    for slots in ranges:
        bits |= _below(slots.end) & ~_below(slots.begin)
    return bits


def owned(ring: Ring, shard: int, replicas: Replicas) -> Bits:
    """Return the slots that a shard owns of a table with so many copies."""
    return by_identity(("bits", shard, replicas), ring, lambda: _owned(ring, shard, replicas))  # type: ignore[no-any-return]


def _owned(ring: Ring, shard: int, replicas: Replicas) -> Bits:
    if replicas == ALL:
        return EVERY_SLOT if shard in ring.shards else 0
    return bits_of(each.slots for each in ring.ranges if shard in each.owners[:replicas])


def _below(slot: int) -> Bits:
    return (1 << bisect_right(LOOKED_AT, slot - 1)) - 1
