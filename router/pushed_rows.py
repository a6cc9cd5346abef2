"""Rows that are pushed to a table, as a router takes them, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PushedRows:
    """Rows of one push."""

    model: str
    table: str
    lineage: int
    """Lineage that is meant: its number."""
    writer: int = 0
    """Who pushes: 0, nobody who counts; else see `ringpull.ps.live.numbers`."""
    number: int = 0
    """Number of the push; 0: its writer counts none."""
    remove: bool = False
    """Whether the keys are taken out, instead of written."""
    keys: NDArray[np.uint64]
    """(n,): of a key that is there twice the last row counts."""
    rows: NDArray[np.uint8] | BytesRows
    """(n, row_bytes): as the table stores them; or n rows of bytes. None of them where keys are removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """Push that was acknowledged by every shard that it concerns."""

    stamp: Mapping[int, int]
    """Stamp by shard."""
    rows: int
    """Rows that were written, or keys that were taken out."""
    new_keys: int
    """Keys among these that nothing had been pushed to before, whether they were exported or not."""
    repeated: int
    """Rows that the same number had written before."""
