"""The compiled parts of asking what words say besides where a row is: since which stamp, and whether it is gone.

Kernels take addresses, as those of `ringpull.ps.store.kernels` do; callers check all sizes and keep the arrays alive.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ringpull.ps.compiled import kernel
from ringpull.ps.store.intrinsics import u64
from ringpull.ps.store.newer.kernels import SEGMENT_FIELDS
from ringpull.ps.store.newer.words import OFFSET_MASK, SEGMENT_SHIFT

STAMP_FIELDS: Final = 3
"""Numbers of a segment, uint64: where its stamps are, the bytes of its words' offsets from one stamp to the next, and,
where the first is 0, the stamp of all its rows."""


@kernel()
def stamps_of(words_at, fields_at, stamps):  # type: ignore[no-untyped-def]
    """Write the stamp of each uint64 word into `stamps`, (n,); `fields_at` has `STAMP_FIELDS` of every segment."""
    for k in range(len(stamps)):
        word = u64(words_at + 8 * k)
        at = fields_at + 8 * STAMP_FIELDS * np.int64(word >> np.uint64(SEGMENT_SHIFT))
        stamps_at = np.int64(u64(at))
        if stamps_at == 0:
            stamps[k] = u64(at + 16)
        else:
            stamps[k] = u64(stamps_at + 8 * np.int64((word & np.uint64(OFFSET_MASK)) // u64(at + 8)))


@kernel()
def gone_of(words_at, segments_at, gone):  # type: ignore[no-untyped-def]
    """Write whether the row of each uint64 word is gone into `gone`, bool (n,)."""
    for k in range(len(gone)):
        segment = np.int64(u64(words_at + 8 * k) >> np.uint64(SEGMENT_SHIFT))
        gone[k] = u64(segments_at + 8 * SEGMENT_FIELDS * segment) == 0
