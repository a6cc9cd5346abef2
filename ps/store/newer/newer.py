"""Newer rows as a table takes them: one directory, what its words point to, and what they were opened from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ringpull.ps.store.base import Base
from ringpull.ps.store.newer.directory import Directory
from ringpull.ps.store.newer.segments import Segments


class NewerDescriptor(NamedTuple):
    """Newer rows as kernels see them: addresses and sizes."""

    tags_at: int
    """uint16, `probe.PLACES` of each bucket; address 0: there are no newer rows."""
    buckets_at: int
    newer_shift: int
    """`position >> newer_shift` is the bucket."""
    segments_at: int


NOTHING_NEWER = NewerDescriptor(0, 0, 0, 0)


Delta = tuple[Base, Base | None]
"""Rows that a delta changes or adds, and a table of bytes whose keys are those of rows that are gone."""


class Newer:
    """Newer rows of one table. Words change while it is read, memory goes no sooner than this."""

    def __init__(self, directory: Directory, segments: Segments, deltas: Sequence[Delta] = ()) -> None:
        """Hold what there is.

        Args:
            deltas: Those that were put into the directory, oldest first. Slots that one of them does not hold cannot be
                answered, and the last one's default vector is the table's.
        """
        self.directory = directory
        self.segments = segments
        self.deltas: tuple[Delta, ...] = tuple(deltas)
        self._generation = segments.generation
        self.descriptor = NewerDescriptor(
            directory.tags_at, directory.buckets_at, directory.shift, self._generation.table_at
        )

    @property
    def parts(self) -> list[Base]:
        """The bases of all deltas."""
        return [part for delta in self.deltas for part in delta if part is not None]

    def __repr__(self) -> str:
        return f"<Newer rows={self.directory.rows} deltas={len(self.deltas)}>"
