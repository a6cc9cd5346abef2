"""Merging of rows of bytes: takes the shards' answers, gives the rows of one look-up in the order of its keys.

Answers are kept until the last is there, and each row is copied once, to its place. A key without an answer, or
unknown, has an empty row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.store.gather import gather
from ringpull.ps.store.kernels import address
from ringpull.router.batch import Int64Array


class BytesMerge:
    """Rows of one look-up in a table of bytes while answers come in."""

    def __init__(self, keys: int) -> None:
        self._from_ats = np.zeros(keys, np.int64)
        self._lengths = np.zeros(keys, np.uint32)
        self._kept: list[NDArray[np.uint8]] = []

    def add(
        self, targets: Int64Array, data: NDArray[np.uint8], starts: Int64Array, lengths: NDArray[np.uint32]
    ) -> None:
        """Take in rows of one answer.

        Args:
            targets: (n,): which of the look-up's keys each row is of.
            data: Contiguous: bytes of the answer; kept, not copied.
            starts: (n,): where each row begins in `data`.
            lengths: (n,): its bytes.
        """
        self._kept.append(data)
        self._from_ats[targets] = starts + address(data)
        self._lengths[targets] = lengths

    def rows(self) -> BytesRows:
        """Return the rows of all keys, in their order: new arrays. Call it once."""
        offsets = np.zeros(len(self._lengths) + 1, np.int64)
        np.cumsum(self._lengths, out=offsets[1:])
        data = gather(self._from_ats, self._lengths, int(offsets[-1]))
        self._kept.clear()
        return BytesRows(data, offsets)
