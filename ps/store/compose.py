"""Composition of a table from a base and a chain of deltas: nothing is copied, words point into the mapped files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ringpull.ps.store.base import Base
from ringpull.ps.store.newer.directory import Directory, upserted
from ringpull.ps.store.newer.newer import Delta, Newer
from ringpull.ps.store.newer.segments import Segments
from ringpull.ps.store.table import Table

_AT_ONCE: Final = 1 << 18
"""Rows that are put at a time."""
_NO_STAMP: Final = 0
"""Stamp of rows that were not pushed."""


def compose(base: Base, deltas: Sequence[Delta]) -> Table:
    """Return the table that a base and deltas make, oldest first: what a later one says of a row wins.

    Raises:
        InvalidInput: A delta has rows of another kind.
    """
    if not deltas:
        return Table(base)
    segments = Segments(0 if base.spec.is_bytes else base.spec.row_bytes)
    directory = Directory.with_room(sum(changed.rows + (gone.rows if gone else 0) for changed, gone in deltas))
    for changed, gone in deltas:
        directory = _with_delta(directory, segments, changed, gone)
    return Table(base, Newer(directory, segments, deltas))


def _with_delta(directory: Directory, segments: Segments, changed: Base, gone: Base | None) -> Directory:
    """Put a delta into a directory, over what is there; return the directory that has it."""
    if gone is not None:
        words = segments.gone(_NO_STAMP)
        for begin in range(0, gone.rows, _AT_ONCE):
            positions = gone.positions_slice(begin, min(gone.rows, begin + _AT_ONCE))
            directory, _ = upserted(directory, positions, np.broadcast_to(words, positions.shape))
    number = segments.add_base(changed, _NO_STAMP)
    for begin in range(0, changed.rows, _AT_ONCE):
        end = min(changed.rows, begin + _AT_ONCE)
        words = segments.words_between(number, begin, end)
        directory, _ = upserted(directory, changed.positions_slice(begin, end), words)
    return directory
