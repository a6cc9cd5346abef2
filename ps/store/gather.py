"""Gathering: copies rows of bytes, which lie anywhere, into one buffer end to end, in a compiled loop."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.compiled import kernel
from ringpull.ps.store.intrinsics import LINE_BYTES, copy_bytes, prefetch_far
from ringpull.ps.store.kernels import address

_AHEAD: Final = 16
"""Rows whose first lines are being loaded while one is copied."""

Int64Array = NDArray[np.int64]


@kernel()
def _copy(from_ats, lengths, out_at):  # type: ignore[no-untyped-def]
    count = len(from_ats)
    for k in range(count):
        if k + _AHEAD < count:
            ahead = from_ats[k + _AHEAD]
            prefetch_far(ahead)
            prefetch_far(ahead + LINE_BYTES)
        length = np.int64(lengths[k])
        copy_bytes(out_at, from_ats[k], length)
        out_at += length


def gather(from_ats: Int64Array, lengths: NDArray[np.uint32], total: int) -> NDArray[np.uint8]:
    """Return rows end to end, uint8 (total,): a copy.

    Args:
        from_ats: (n,): address of each row; the caller keeps what lies there alive.
        lengths: (n,): bytes of each.
        total: Their sum.
    """
    out = np.empty(total, np.uint8)
    _copy(from_ats, lengths, address(out))
    return out


def gather_from(data: NDArray[Any], starts: Int64Array, lengths: NDArray[np.uint32]) -> BytesRows:
    """Return rows that lie anywhere in `data`, end to end: a copy.

    Args:
        data: uint8 (total,), contiguous.
        starts: (n,): where each row begins.
        lengths: (n,): bytes of each; no row leads out of `data`.
    """
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return BytesRows(gather(starts + address(data), lengths, int(offsets[-1])), offsets)
