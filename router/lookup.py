"""Look-ups, which the head asks of the router, and their merged results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.spec import Pooling


@dataclass(frozen=True, slots=True)
class Lookup:
    """Keys of one (feature, table), for all rows of a micro-batch."""

    table: str
    pooling: Pooling
    keys: NDArray[np.uint64]
    """(N,): keys, not ring positions; duplicates count as often as they appear."""
    offsets: NDArray[np.int64] | None = None
    """(B+1,): starts of bags, last = N. None only with Pooling.NONE."""
    weights: NDArray[np.float32] | None = None
    """(N,): one weight per key. None unless the pooling is SUM."""

    @property
    def outputs(self) -> int:
        """Vectors of the result: bags, or keys when nothing is pooled."""
        return len(self.keys) if self.offsets is None else len(self.offsets) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Absent:
    """Keys of a pooled look-up for which the default vector stands: the table does not have them, or they are lost."""

    bags: NDArray[np.int64]
    """(M,): bag of each; a key counts as often as it appears."""
    positions: NDArray[np.uint64]
    """(M,): ring position of each (`ringpull.ps.hashing`)."""


@dataclass(frozen=True, slots=True)
class LookupResult:
    """The merged answer to one `Lookup`."""

    values: NDArray[np.float32]
    """(B, D) pooled bags, or (N, D) rows; owned by the caller. An empty bag is zeros. (N, 0) of a table of bytes."""
    missing: int
    """Keys the table does not have: each counted with the default vector."""
    found: NDArray[np.bool_] | None = None
    """(N,): False where the default vector, or an empty row of bytes, stands. None unless the pooling is NONE."""
    lost: int = 0
    """Keys no live shard could answer for, filled in by the table's policy `on_unavailable: default`."""
    bytes_rows: BytesRows | None = None
    """Rows of the N keys of a table of bytes, owned by the caller; None of any other table."""
    withheld: bool = False
    """Whether some keys were not looked up, and default vectors stand for them."""
    absent: Absent | None = None
    """Keys for which the default vector stands, where these are pooled; None: there are none, or a shard of an earlier
    build did not tell them, or nothing is pooled: see `found`."""
