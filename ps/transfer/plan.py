"""What has to be copied before a shard holds what it should of one table: pure, from masks to fetches and parts.

    wanted = what it is told to hold, and what it holds and answers for
    missing = wanted - held by its base;  to fetch = missing - held by its pieces

Ranges to fetch are cut where the ranges of sources end, so that each has the same sources from end to end, and where a
piece ends, so that it can go on.
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
from ringpull.ps.transfer.piece import POSITION_BYTES, Piece
from ringpull.ps.transfer.source import RowSource, TableContent
from ringpull.ps.transfer.table_copy import TableCopy

SourcesOf = Callable[[SlotRange], Sequence[RowSource]]
"""The sources of a range, in the order to try them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What makes one table's copy hold all it should; nothing where it does already."""

    table: str
    copy: TableCopy
    wanted: SlotMask
    usable: SlotMask
    """What its base holds undamaged."""
    content: TableContent | None = None
    """None: nothing is missing."""
    fetches: tuple[Fetch, ...] = ()

    @property
    def bytes_to_fetch(self) -> int:
        return sum(fetch.bytes for fetch in self.fetches)

    @property
    def bytes_fetched(self) -> int:
        """Of these tables' rows, what an interrupted prepare left in pieces."""
        if self.content is None:
            return 0
        rows = sum(part.rows for part in self.parts() if isinstance(part.holder, Piece))
        rows += sum(fetch.cursor for fetch in self.fetches)
        return rows * (self.content.spec.row_bytes + POSITION_BYTES)

    @property
    def bytes_of_base(self) -> int:
        """About what the new base takes on disk."""
        if self.content is None:
            return 0
        rows = sum(part.rows for part in self.parts()) + sum(fetch.content.rows for fetch in self.fetches)
        return base_bytes(rows, self.content.spec)

    def parts(self) -> list[Part]:
        """Return who has which of the wanted slots, ascending; all of them once the fetches are done."""
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
    cuts: Iterable[int],
    content: TableContent | None,
) -> Plan:
    """Ask sources for the row counts of what is missing, and return what to fetch.

    Args:
        wanted: What the copy has to hold.
        usable: What its base holds undamaged.
        cuts: Slots where sources begin or end.
        content: Of any range, where it is known; its pieces are of this content.

    Raises:
        Unavailable: A range has no source that answers.
    """
    if content is None:
        return Plan(table, copy, wanted, usable)
    pieces = copy.pieces
    whole = mask_of(SlotRange(piece.begin, piece.until) for piece in pieces if piece.until > piece.begin)
    to_fetch = minus(minus(wanted, usable), whole)
    fetches = []
    for slots in cut(runs(to_fetch), {*cuts, *(piece.until for piece in pieces)}):
        sources = sources_of(slots)
        piece = copy.piece_at(slots.begin)
        fetches.append(Fetch(slots, sources, describe(table, slots, sources), 0 if piece is None else piece.tail_rows))
    return Plan(table, copy, wanted, usable, content, tuple(fetches))


def cut(ranges: Iterable[SlotRange], at: Iterable[int]) -> list[SlotRange]:
    """Return the ranges, each cut at every one of these slots that lies inside it."""
    edges = np.zeros(SLOTS + 1, bool)
    edges[list(at)] = True
    pieces = []
    for slots in ranges:
        inside = (np.flatnonzero(edges[slots.begin + 1 : slots.end]) + slots.begin + 1).tolist()
        bounds = [slots.begin, *inside, slots.end]
        pieces += [SlotRange(begin, end) for begin, end in pairwise(bounds)]
    return pieces


def _parts(holder: Base | Piece, mask: SlotMask) -> list[Part]:
    return [Part(slots, holder) for slots in runs(mask)]
