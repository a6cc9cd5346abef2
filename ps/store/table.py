"""A table as pulls see it: one base, the rows that are newer than it, and which slots may be answered for.

Callers pull from a `Table`, kernels read its `packed` descriptor, and only these two know what a table is made of. A
table never changes, but for words of its directory, one at a time; quarantine, a larger directory or a segment that was
dropped make another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, minus, runs
from ringpull.ps.spec import TableSpec, UInt64Array
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.descriptor import BYTES, TABLE, TableDescriptor
from ringpull.ps.store.kernels import address
from ringpull.ps.store.newer.newer import NOTHING_NEWER, Newer
from ringpull.ps.store.newest import newest_block
from ringpull.ps.store.raw_rows import RawRows
from ringpull.ps.store.reducers import ROW_TYPES


class Table:
    """An immutable view of one table, ready for kernels. It keeps what it reads mapped."""

    def __init__(
        self, base: Base, newer: Newer | None = None, *, quarantined: Iterable[int] = (), keys_damaged: bool = False
    ) -> None:
        """View `base` and what is newer, refusing to answer for the `quarantined` slots.

        Those are the slots of damaged blocks (see `BadBlock`), of the base or of a delta.
        """
        self.base = base
        self.newer = newer
        parts = [] if newer is None else newer.parts
        self._spec = _spec_of(base, [] if newer is None else [changed for changed, _ in newer.deltas])
        self.quarantined: frozenset[int] = frozenset(quarantined)
        self.keys_damaged = keys_damaged
        """Whether positions or index have damage: keys of other slots are found, but no range can be cut out."""
        self._default = self._spec.default_vector()
        self._answered: SlotMask | None = None
        if any(each.held != fmt.FULL for each in (base, *parts)) or self.quarantined:
            self._answered = base.held_mask()
            for each in parts:
                self._answered &= each.held_mask()
            self._answered[list(self.quarantined)] = 0
        self._sections = sections = base.sections
        is_bytes = base.spec.is_bytes
        descriptor = TableDescriptor(
            index_at=address(sections.index),
            index_entry_bytes=sections.index.itemsize,
            index_shift=64 - base.index_bits,
            positions_at=address(sections.positions),
            rows_at=address(sections.starts if is_bytes else sections.rows),
            rows=base.rows,
            row_bytes=fmt.START_BYTES if is_bytes else base.spec.row_bytes,
            dim=base.spec.dim,
            row_type=BYTES if is_bytes else ROW_TYPES[base.spec.row_type],
            default_at=0 if is_bytes else address(self._default),
            answered_at=0 if self._answered is None else address(self._answered),
            data_at=address(sections.rows) if is_bytes else 0,
            data_bytes=base.rows_bytes if is_bytes else 0,
            **(NOTHING_NEWER if newer is None else newer.descriptor)._asdict(),
        )
        self.packed: bytes = TABLE.pack(*descriptor)
        """The descriptor as kernels read it."""

    @property
    def spec(self) -> TableSpec:
        """The fixed properties of the table."""
        return self._spec

    @property
    def rows(self) -> int:
        """Rows of the base, in all slots."""
        return self.base.rows

    @property
    def newer_rows(self) -> int:
        """Positions with a newer row, in all slots, those of gone rows included."""
        return 0 if self.newer is None else self.newer.directory.rows

    def answers(self, slot: int) -> bool:
        """Whether keys of this slot can be answered: it is stored here, and not quarantined."""
        return self._answered is None or bool(self._answered[slot])

    def unanswered(self, mask: SlotMask | None = None) -> list[SlotRange]:
        """Return the slots that cannot be answered, of those in the mask; None: of all."""
        if self._answered is None:
            return []
        return runs(minus(np.ones(SLOTS, np.uint8) if mask is None else mask, self._answered))

    def with_quarantine(self, slots: Iterable[int]) -> Table:
        """Return the same table with more slots quarantined."""
        quarantined = self.quarantined | {slot for slot in slots if 0 <= slot < SLOTS}
        return Table(self.base, self.newer, quarantined=quarantined, keys_damaged=self.keys_damaged)

    def with_newer(self, newer: Newer | None) -> Table:
        """Return the same table with these newer rows instead of its own."""
        return Table(self.base, newer, quarantined=self.quarantined, keys_damaged=self.keys_damaged)

    def newest_block(self, slots: SlotRange, after_position: int | None, max_bytes: int) -> tuple[UInt64Array, RawRows]:
        """Return the next rows of a slot range as they are now, in ring order, those that are gone left out.

        While a writer runs each row is the one of before or after, whole; a row that is new meanwhile may be left out.

        Args:
            after_position: The last position that was returned; None: from the beginning.
            max_bytes: Of rows and positions; one row is returned in any case.

        Returns:
            Positions (n,) and their rows as stored; none only at the end of the range.
        """
        return newest_block(self.base, self.newer, slots, after_position, max_bytes)

    @classmethod
    def without(cls, base: Base, bad: Iterable[BadBlock]) -> Table:
        """Return a view of a base that refuses to answer for the slots of its bad blocks."""
        bad = tuple(bad)
        keys_damaged = any(each.file in (fmt.POSITIONS, fmt.INDEX) for each in bad)
        table = cls(base, keys_damaged=keys_damaged)
        return table.with_quarantine(slot for each in bad for slot in range(*each.slots)) if bad else table

    def __repr__(self) -> str:
        return (
            f"<Table {self.spec.name} rows={self.rows} newer_rows={self.newer_rows} dim={self.spec.dim}"
            f" quarantined_slots={len(self.quarantined)}>"
        )


def _spec_of(base: Base, parts: Sequence[Base]) -> TableSpec:
    """Return the spec of a table with deltas: its base's, with the default vector of the last delta.

    Raises:
        InvalidInput: A delta has rows of another kind.
    """
    spec = base.spec
    for part in parts:
        for field in ("dim", "row_type", "key_type"):
            own, other = getattr(spec, field), getattr(part.spec, field)
            if own != other:
                raise InvalidInput(f"table {spec.name}: {field} is {own}; the delta in {part.folder} has {other}")
        spec = replace(spec, default=part.spec.default)
    return spec
