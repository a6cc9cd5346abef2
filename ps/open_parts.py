"""Open parts of a table, and the table that they make: a base, or a base with what deltas brought.

What is found bad of a part is refused of the table. That of a table without deltas is what it always was: a view of
its one base.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.hashing import POSITION_BYTES, SLOT_SHIFT, SLOTS
from ringpull.ps.parts import PartName, tables_of
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, runs
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.compose import compose
from ringpull.ps.store.table import Table


@dataclass(frozen=True, slots=True)
class OpenPart:
    """A part of a table, mapped."""

    base: Base
    bad: tuple[BadBlock, ...] = ()
    """Its blocks that are known to be bad."""

    @property
    def keys_damaged(self) -> bool:
        """Whether positions or index have damage."""
        return any(each.file in (fmt.POSITIONS, fmt.INDEX) for each in self.bad)


def by_table(parts: Mapping[str, OpenPart]) -> dict[str, dict[str, OpenPart]]:
    """Return the parts of each table, by their names."""
    found = tables_of(parts)
    return {table: {str(name): parts[str(name)] for name in names} for table, names in found.items()}


def exported(parts: Mapping[str, OpenPart]) -> Table:
    """Return the table that its parts make, as it was exported.

    Raises:
        InvalidInput: Parts do not go together.
    """
    names = [PartName.of(part) for part in parts]
    base = next(parts[str(name)].base for name in names if not name.version)
    deltas = []
    for name in sorted((name for name in names if name.version and not name.gone), key=lambda name: name.version):
        gone = parts.get(str(PartName(name.table, name.version, gone=True)))
        deltas.append((parts[str(name)].base, None if gone is None else gone.base))
    return refusing(compose(base, deltas), parts.values())


def refusing(table: Table, parts: Iterable[OpenPart]) -> Table:
    """Return a table with what is newer in it, which refuses the slots of the blocks of its parts that are bad."""
    every = list(parts)
    slots = {slot for part in every for each in part.bad for slot in range(*each.slots) if 0 <= slot < SLOTS}
    damaged = any(part.keys_damaged for part in every)
    return Table(table.base, table.newer, quarantined=slots, keys_damaged=damaged)


def grown_by_slot(table: Table) -> NDArray[np.int64]:
    """Return by how many rows deltas made each slot of a table larger than its base's, (SLOTS,); less than 0: smaller.

    A row that was changed, however often, is none more.
    """
    grown = np.zeros(SLOTS, np.int64)
    if table.newer is None:
        return grown
    positions, words = table.newer.directory.walk(SlotRange(0, SLOTS))
    is_there = ~table.newer.segments.is_gone(words)
    was_there = table.base.find(positions) >= 0
    np.add.at(grown, (positions >> np.uint64(SLOT_SHIFT)).astype(np.int64), is_there.astype(np.int64) - was_there)
    return grown


def owned_size(
    parts: Mapping[str, OpenPart], mask: SlotMask, grown: NDArray[np.int64] | None = None
) -> tuple[int, int]:
    """Return the rows of these slots that the parts of a table make, and the bytes of all parts with those of their
    keys.

    Args:
        grown: See `grown_by_slot`; None: there are no deltas.
    """
    rows = 0 if grown is None else int(grown[mask != 0].sum())
    size = 0
    for name, part in parts.items():
        for slots in runs(mask):
            first, last = part.base.row_range(slots.begin, slots.end)
            begin, end = part.base.byte_range(first, last)
            rows += 0 if PartName.of(name).version else last - first
            size += end - begin + (last - first) * POSITION_BYTES
    return rows, size


def twin(base: Base) -> Base:
    """Return another base of the same maps: what is found bad of the one is not the other's."""
    return copy(base)


def twins(first: Base, second: Base) -> bool:
    """Return whether two bases have the same maps."""
    return first.sections is second.sections


def bases(tables: Iterable[Mapping[str, OpenPart]]) -> Iterator[tuple[str, Base]]:
    """Yield the base of each part of some tables, with the part's name."""
    for parts in tables:
        for name, part in parts.items():
            yield name, part.base
