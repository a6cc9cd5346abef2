"""Newest rows of a table in blocks, as a shard streams them: each stored block that they touch is verified first.

Rows in memory were never on a disk. Those of the base, of deltas and of folds are read from files, block by block; a
block that was verified is not again for a while, as the next rows of the stream are of the same one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import numpy as np

from ringpull.ps.errors import CorruptData, InvalidInput, NotAnswered
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS
from ringpull.ps.open_versions import ServedTable, ShardState, check_keys, not_owner
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import mask_of
from ringpull.ps.store.base import Base
from ringpull.ps.store.raw_rows import flat, lengths_of
from ringpull.ps.wire.messages import range_checksum
from ringpull.ps.wire.newest_messages import MAX_NEWEST_BYTES, NewestReply, NewestRequest

_REMEMBERED: Final = 1024
"""Blocks that are remembered to be whole."""

_Block = tuple[str, int, int]
"""Folder and identity of a base, and one of its blocks."""


class VerifiedBlocks:
    """Verifies stored blocks, and remembers those that it has verified last. Used by one thread at a time."""

    def __init__(self) -> None:
        self._whole: OrderedDict[_Block, None] = OrderedDict()

    def begin(self) -> None:
        """Forget all: another stream begins."""
        self._whole.clear()

    def check(self, base: Base, begin: int, end: int) -> None:
        """Read the stored blocks of the rows at positions [begin, end] of a base.

        Raises:
            CorruptData: They are damaged.
        """
        positions = base.sections.positions
        first = int(np.searchsorted(positions, np.uint64(begin)))
        last = int(np.searchsorted(positions, np.uint64(end), side="right"))
        if first == last:
            return
        firsts = base.sections.blocks[:, 0]
        block = int(np.searchsorted(firsts, np.uint64(first), side="right")) - 1
        for number in range(block, int(np.searchsorted(firsts, np.uint64(last)))):
            name = (str(base.folder), base.identity, number)
            if name not in self._whole:
                if bad := base.verify([number]):
                    slots = bad[0].slots
                    raise CorruptData(f"newest: {base.folder}: rows of the slots {slots[0]} to {slots[1]} are damaged")
                self._whole[name] = None
                while len(self._whole) > _REMEMBERED:
                    self._whole.popitem(last=False)


def check_slots(state: ShardState, shard: int, served: ServedTable, request: NewestRequest) -> SlotRange:
    """Return the slots that a request names, all of which are served here and can be answered for.

    Raises:
        InvalidInput: They are no range.
        NotOwner: Some are not owned here.
        NotAnswered: Some are damaged, or not stored here, or rows pushed to them are missing.
        CorruptData: Keys are damaged.
    """
    begin, end = request.begin, request.end
    if not 0 <= begin < end <= SLOTS:
        raise InvalidInput(f"newest: slots {begin} to {end} are not a range within 0..{SLOTS}")
    if served.mask is not None and not served.mask[begin:end].all():
        raise not_owner(state, shard, request.table, begin + int(np.argmin(served.mask[begin:end])))
    slots = SlotRange(begin, end)
    if unanswered := served.table.unanswered(mask_of([slots])):
        ranges = tuple((each.begin, each.end) for each in unanswered)
        raise NotAnswered(
            f"newest: shard {shard} does not answer for slots {ranges[0][0]} to {ranges[0][1]} of table"
            f" {request.table}: they are damaged here or not stored yet, or rows pushed to them are missing",
            table=request.table,
            slots=ranges,
        )
    for part in served.parts.values():
        check_keys(part)
    return slots


def read_newest(
    served: ServedTable, slots: SlotRange, request: NewestRequest, folds: Iterable[Base], verified: VerifiedBlocks
) -> NewestReply:
    """Return the next rows of a slot range as they are now.

    Args:
        folds: Bases that pushed rows may lie in.

    Raises:
        CorruptData: Rows of this block are damaged.
    """
    begin = max(request.first, slots.begin << SLOT_SHIFT)
    if begin == slots.begin << SLOT_SHIFT:
        verified.begin()
    most = min(request.max_bytes, MAX_NEWEST_BYTES)
    positions, rows = served.table.newest_block(slots, begin - 1 if begin else None, most)
    if not len(positions):
        return NewestReply(0, True, range_checksum(positions, flat(rows), lengths_of(rows)))
    for base in (*(part.base for part in served.parts.values()), *folds):
        verified.check(base, begin, int(positions[-1]))
    data, lengths = flat(rows), lengths_of(rows)
    return NewestReply(0, False, range_checksum(positions, data, lengths), positions, data, lengths)
