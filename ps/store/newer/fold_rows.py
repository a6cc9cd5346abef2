"""Fold rows: all that a directory has, as a fold takes it: rows by position, and apart from them keys that are gone."""

from __future__ import annotations

from typing import Final, NamedTuple, Self

import numpy as np

from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.kernels import address
from ringpull.ps.store.newer import kernels
from ringpull.ps.store.newer.directory import LAST_POSITION, Directory
from ringpull.ps.store.newer.fold_kernels import keep_others
from ringpull.ps.store.newer.scratch import scratch
from ringpull.ps.store.newer.segments import Segments

_NO_LIMIT: Final = LAST_POSITION >> 1


class FoldRows(NamedTuple):
    """Positions, ascending, their words and their stamps: uint64 (n,) each."""

    positions: UInt64Array
    words: UInt64Array
    stamps: UInt64Array

    @classmethod
    def of(cls, directory: Directory, segments: Segments) -> tuple[Self, Self]:
        """Return the rows of a directory, and the keys that are gone. Under the lock: nothing is put meanwhile."""
        positions, words, stamps = (scratch(directory.rows, segments.spares) for _ in cls._fields)
        kernels.walk(
            *(directory.tags_at, directory.buckets_at, directory.shift),
            *(np.uint64(0), np.uint64(LAST_POSITION), _NO_LIMIT),
            *(positions, words),
        )
        gone, every = segments.is_gone(words), cls(positions, words, segments.stamps(words, stamps))
        count = int(np.count_nonzero(gone))
        others = cls(*(numbers[gone] for numbers in every)) if count else cls(*(numbers[:0] for numbers in every))
        if count:
            for numbers in every:
                keep_others(gone, address(numbers))
        return cls(*(numbers[: len(numbers) - count] for numbers in every)), others
