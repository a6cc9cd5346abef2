"""A table as pulls see it: one base, and which of its slots may be answered from.

Callers pull from a `Table`, kernels read its `packed` descriptor, and only these two know what a table is made of. A
table never changes; quarantine makes another one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, minus, runs
from ringpull.ps.spec import TableSpec
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.kernels import BYTES, TABLE, TableDescriptor, address
from ringpull.ps.store.reducers import ROW_TYPES


class Table:
    """An immutable view of one table, ready for kernels. It keeps what it reads mapped."""

    def __init__(self, base: Base, *, quarantined: Iterable[int] = (), keys_damaged: bool = False) -> None:
        """View `base`, refusing to answer for the `quarantined` slots (those of damaged blocks, see `BadBlock`)."""
        self.base = base
        self.quarantined: frozenset[int] = frozenset(quarantined)
        self.keys_damaged = keys_damaged
        """Whether positions or index have damage: keys of other slots are found, but no range can be cut out."""
        self._default = base.spec.default_vector()
        self._answered: SlotMask | None = None
        if base.held != fmt.FULL or self.quarantined:
            self._answered = base.held_mask()
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
        )
        self.packed: bytes = TABLE.pack(*descriptor)
        """The descriptor as kernels read it."""

    @property
    def spec(self) -> TableSpec:
        """The fixed properties of the table."""
        return self.base.spec

    @property
    def rows(self) -> int:
        """Rows of all slots."""
        return self.base.rows

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
        return Table(self.base, quarantined=quarantined, keys_damaged=self.keys_damaged)

    @classmethod
    def without(cls, base: Base, bad: Iterable[BadBlock]) -> Table:
        """Return a view of a base that refuses to answer for the slots of its bad blocks."""
        bad = tuple(bad)
        keys_damaged = any(each.file in (fmt.POSITIONS, fmt.INDEX) for each in bad)
        table = cls(base, keys_damaged=keys_damaged)
        return table.with_quarantine(slot for each in bad for slot in range(*each.slots)) if bad else table

    def __repr__(self) -> str:
        return (
            f"<Table {self.spec.name} rows={self.rows} dim={self.spec.dim} quarantined_slots={len(self.quarantined)}>"
        )
