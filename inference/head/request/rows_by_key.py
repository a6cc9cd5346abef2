"""A request for rows of a table by their keys, and its answer, whatever protocol they come and go over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.spec import Pooling


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowsRequest:
    """Request for rows by key, or for bags of them."""

    model: str
    table: str
    keys: NDArray[np.uint64]
    """(N,): keys. An int64 is taken bit for bit, a string is hashed (`ringpull.ps.hashing`)."""
    version: int = 0
    """Version asked for; 0: the live one."""
    label: str = ""
    """Label of the version asked for; empty: none."""
    pooling: Pooling = Pooling.NONE
    offsets: NDArray[np.int64] | None = None
    """(B+1,): starts of bags; None unless rows are pooled."""
    weights: NDArray[np.float32] | None = None
    """(N,): one weight per key; None unless they are summed."""
    request_id: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowsAnswer:
    """Rows that were asked for by key."""

    model: str
    version: int
    rows: NDArray[np.float32] | BytesRows
    """(N, dim) rows or (B, dim) bags; of a table of bytes N rows. An unknown key has the table's default vector, or no
    bytes."""
    found: NDArray[np.bool_] | None
    """(N,): whether the table has the key; None for bags."""
    missing: int
    """Keys that the table does not have."""
    lost: int = 0
    """Keys that no live shard could answer for, filled in by the table's policy."""
    request_id: str = ""
