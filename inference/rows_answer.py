"""The answer to a look-up of rows by key, as heads give it and clients return it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowsAnswer:
    """Rows that were asked for by key. `rows, found = answer` takes the two apart."""

    model: str
    version: int
    """Version that answered."""
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

    def __iter__(self) -> Iterator[Any]:
        return iter((self.rows, self.found))
