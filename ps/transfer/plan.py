"""Copy plan of one table: which ranges to fetch, and which parts then make the new base.

    wanted = slots placed on the shard, and slots it stores and serves
    missing = wanted - slots of its base;  to fetch = missing - slots of its pieces

Ranges to fetch are split where the ranges of sources end, so that all of a range has the same sources, and where a
piece ends, so that the piece can be continued.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, mask_of, minus, runs
from ringpull.ps.store.base import Base
from ringpull.ps.transfer.fetch import Fetch, describe
from ringpull.ps.transfer.merge import Part, base_bytes
from ringpull.ps.transfer.piece import Piece
from ringpull.ps.transfer.source import RowSource, TableContent, streamed_bytes
from ringpull.ps.transfer.table_copy import TableCopy

SourcesOf = Callable[[SlotRange], Sequence[RowSource]]
"""Function that returns the sources of a range, in the order to try them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Fetches that complete the copy of one table; none if it is complete already."""

    table: str
    copy: TableCopy
    wanted: SlotMask
    usable: SlotMask
    """Slots that its base has undamaged."""
    content: TableContent | None = None
    """Spec and identity of the table; None if nothing is missing."""
    fetches: tuple[Fetch, ...] = ()

    @property
    def repairs(self) -> bool:
        """Whether all that is missing is damaged: the shard can do without."""
        base = self.copy.base
        return self.content is not None and base is not None and not minus(self.wanted, base.held_mask()).any()

    def given_up(self) -> Plan:
        """Return the plan that leaves the copy as it is."""
        return Plan(self.table, self.copy, self.wanted, self.usable)

    @property
    def bytes_to_fetch(self) -> int:
        return sum(fetch.bytes for fetch in self.fetches)

    @property
    def bytes_fetched(self) -> int:
        """Size of the wanted rows that an interrupted prepare has left in pieces."""
        if self.content is None:
            return 0
        found = [part for part in self.parts() if isinstance(part.holder, Piece)]
        size = sum(streamed_bytes(self.content.spec, part.rows, part.bytes) for part in found)
        return size + sum(fetch.copied_bytes for fetch in self.fetches)

    @property
    def bytes_of_base(self) -> int:
        """Approximate size of the new base on disk."""
        if self.content is None:
            return 0
        parts = self.parts()
        rows = sum(part.rows for part in parts) + sum(fetch.content.rows for fetch in self.fetches)
        size = sum(part.bytes for part in parts) + sum(fetch.content.stored_bytes for fetch in self.fetches)
        return base_bytes(rows, size, self.content.spec)

    def parts(self) -> list[Part]:
        """Return the parts that cover the wanted slots, ascending: all of these once the fetches are done."""
        left = self.wanted
        parts = []
        if self.copy.base is not None:
            parts += _parts(self.copy.base, left & self.usable)
            left = minus(left, self.usable)
        for piece in self.copy.pieces:
            if piece.until > piece.begin:
                whole = mask_of([SlotRange(piece.begin, piece.until)])
                parts += _parts(piece, left & whole)
                left = minus(left, whole)
        return sorted(parts, key=lambda part: part.slots)


def plan_table(
    table: str,
    copy: TableCopy,
    wanted: SlotMask,
    usable: SlotMask,
    sources_of: SourcesOf,
    edges: Iterable[int],
    content: TableContent | None,
) -> Plan:
    """Ask sources for the row counts of the missing ranges, and return the plan.

    Args:
        wanted: Slots that the copy has to have.
        usable: Slots that its base has undamaged.
        edges: Slots where sources begin or end.
        content: Description of any range of the table, which its pieces match; None if nothing is missing.

    Raises:
        Unavailable: A range has no source that answers.
        OtherContent: A range has no source with the identity of `content`.
    """
    if content is None:
        return Plan(table, copy, wanted, usable)
    pieces = copy.pieces
    whole = mask_of(SlotRange(piece.begin, piece.until) for piece in pieces if piece.until > piece.begin)
    to_fetch = minus(minus(wanted, usable), whole)
    fetches = []
    for slots in split_ranges(runs(to_fetch), {*edges, *(piece.until for piece in pieces)}):
        sources = sources_of(slots)
        piece = copy.piece_at(slots.begin)
        # Every range by the one identity, or a base would be made of rows of two.
        described = describe(table, slots, sources, content.identity)
        cursor, copied = (0, 0) if piece is None else (piece.tail_rows, piece.tail_bytes)
        fetches.append(Fetch(slots, sources, described, cursor, copied))
    return Plan(table, copy, wanted, usable, content, tuple(fetches))


def split_ranges(ranges: Iterable[SlotRange], at: Iterable[int]) -> list[SlotRange]:
    """Return the ranges, each split at those of the given slots that lie inside it."""
    is_edge = np.zeros(SLOTS + 1, bool)
    is_edge[list(at)] = True
    pieces = []
    for slots in ranges:
        inside = (np.flatnonzero(is_edge[slots.begin + 1 : slots.end]) + slots.begin + 1).tolist()
        bounds = [slots.begin, *inside, slots.end]
        pieces += [SlotRange(begin, end) for begin, end in pairwise(bounds)]
    return pieces


def _parts(holder: Base | Piece, mask: SlotMask) -> list[Part]:
    return [Part(slots, holder) for slots in runs(mask)]
