"""Damage to the files of a table, done to the very files that are mapped: they are written into, not replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ringpull.ps.hashing import SLOT_SHIFT, positions_of
from ringpull.ps.store.base import Base


def flip(file: Path, at: int) -> None:
    """Flip one bit of the byte at a place, from the end when negative."""
    with file.open("r+b") as opened:
        size = opened.seek(0, 2)
        opened.seek(at % size)
        byte = opened.read(1)[0]
        opened.seek(at % size)
        opened.write(bytes([byte ^ 0x10]))


def zero(file: Path, begin: int, size: int) -> None:
    """Write zeros over a stretch."""
    with file.open("r+b") as opened:
        opened.seek(begin)
        opened.write(bytes(size))


def byte_of_block(base: Base, block: int) -> int:
    """Return where in the file of rows the middle of a block is."""
    firsts = [*base.sections.blocks[:, 0].tolist(), base.rows]
    return base.byte_range((firsts[block] + firsts[block + 1]) // 2, base.rows)[0]


def keys_of_block(base: Base, block: int, keys: np.ndarray) -> np.ndarray:
    """Return which keys (N,) have a slot that has a row in a block: bool (N,)."""
    firsts = [*base.sections.blocks[:, 0].tolist(), base.rows]
    begin, end = base.sections.positions[[firsts[block], firsts[block + 1] - 1]] >> np.uint64(SLOT_SHIFT)
    slots = positions_of(keys) >> np.uint64(SLOT_SHIFT)
    return (slots >= begin) & (slots <= end)
