"""Flat pulls: all look-ups of a pull as arrays, in one call of the kernel; by a head from files, and by a shard.

A wide model asks for hundreds of tables at a time, a key or a few of each. What the kernel is told of a table is the
same in every request, so it is laid out once for all tables of a layout (`FlatTables`), and a request brings numbers
only (`FlatSubLookups`). A pull that is refused in any way, or is of rows of bytes, is not answered here: it is left to
`ringpull.ps.store.pull`, which checks everything one by one and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.pull_messages import Op, PullReply, PullRequest, SubLookup
from ringpull.ps.slot_mask import SlotMask
from ringpull.ps.store import descriptor, kernels
from ringpull.ps.store.kernels import address
from ringpull.ps.store.table import Table

Int64Array = NDArray[np.int64]

ANY_BYTES: Final = 2**63 - 1
"""Most bytes of an answer that goes over no wire: one part has all keys here, where each shard would have some."""

_OPS: Final = tuple(Op)
_OWN: Final = slice(descriptor.OP, descriptor.WEIGHTED + 1)
"""Columns of a descriptor that are the look-up's own: those of `FlatSubLookups.numbers`."""


class AskedTable(Protocol):
    """Table as what is asked has it."""

    @property
    def table(self) -> Table:
        """Its rows."""
        ...

    @property
    def mask(self) -> SlotMask | None:
        """Slots of it that are answered for; None: all."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FlatSubLookups(Sequence[SubLookup]):
    """Look-ups of one request, L of the T of its layout. To whoever asks for one it is a `SubLookup` as any other."""

    tables: tuple[str, ...]
    """(T,): table of each look-up of the layout."""
    places: Int64Array
    """(L,): place of each look-up among these."""
    numbers: Int64Array
    """(L, 4): operation, keys, bags, and 1 if weighted: as a descriptor has them."""

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> SubLookup: ...

    @overload
    def __getitem__(self, place: slice) -> list[SubLookup]: ...

    def __getitem__(self, place: int | slice) -> SubLookup | list[SubLookup]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        op, keys, bags, weighted = self.numbers[place].tolist()
        return SubLookup(self.tables[self.places[place]], _OPS[op], keys, bags, weighted != 0)

    def __iter__(self) -> Iterator[SubLookup]:
        return (self[place] for place in range(len(self)))


class FlatTables:
    """Tables of one layer for all look-ups of a layout, as the kernel takes them."""

    def __init__(self, tables: Sequence[str], layer: Mapping[str, AskedTable]) -> None:
        """Lay out the descriptors of these tables (T,), as a layer, or a shard, has them."""
        self._layer = layer  # keeps what the descriptors point to
        self._tables = tuple(tables)
        self._places = {table: place for place, table in enumerate(tables)}
        served = [layer.get(name) for name in tables]
        self._known = np.array([each is not None and not each.table.spec.is_bytes for each in served], np.bool_)
        self._descriptors = np.zeros((len(tables), descriptor.DESCRIPTOR_FIELDS), np.int64)
        for row, each in zip(self._descriptors, served, strict=True):
            if each is not None:
                row[: descriptor.OWNED_AT] = descriptor.TABLE.unpack(each.table.packed)
                row[descriptor.OWNED_AT] = 0 if each.mask is None else address(each.mask)

    def asked(self, request: PullRequest, max_reply_bytes: int) -> PullReply | None:
        """Return what `pull` does for look-ups in any of these tables, each of which is here once.

        Args:
            request: As decoded: its arrays are contiguous, and of the right types. Nothing else is believed.
            max_reply_bytes: As of `pull`.
        """
        try:
            tables, ops, keys, bags, weighted = zip(*request.lookups, strict=True)
            places = np.array([self._places[table] for table in tables], np.int64)
        except (KeyError, ValueError):  # an unknown table; no look-up at all
            return None
        # No count is more than there are keys, so no sum of them overflows.
        if min(keys) < 0 or min(bags) < 0 or max(*keys, *bags) > request.positions.size:
            return None
        numbers = np.array((ops, keys, bags, weighted), np.int64).T
        if numbers[numbers[:, 0] == descriptor.OP_ROWS, 2].any():
            return None
        return self.pull(request, FlatSubLookups(self._tables, places, numbers), max_reply_bytes)

    def pull(self, request: PullRequest, lookups: FlatSubLookups, max_reply_bytes: int = ANY_BYTES) -> PullReply | None:
        """Return what `ringpull.ps.store.pull.pull` returns for a request with these look-ups; None: leave it to that.

        Args:
            request: As a router of this process makes them: arrays are contiguous, and of the right types.
            max_reply_bytes: Upper bound on the bytes of values in the answer; that of the request may be lower.
        """
        if not self._known[lookups.places].all():
            return None
        descriptors = self._descriptors[lookups.places]
        descriptors[:, _OWN] = lookups.numbers
        op, keys, bags, weighted = lookups.numbers.T
        unpooled = op == descriptor.OP_ROWS
        vectors = np.where(unpooled, keys, bags)
        size = int(vectors @ descriptors[:, descriptor.DIM])
        most = min(max_reply_bytes, request.max_reply_bytes or max_reply_bytes)
        due = int(keys.sum()), int(bags.sum()), int(keys @ weighted)
        if due != (request.positions.size, request.lengths.size, request.weights.size) or 4 * size > most:
            return None
        values = np.empty(size, np.float32)
        missing = np.zeros(len(lookups), np.uint32)
        found = np.empty(int(keys @ unpooled), np.uint8)
        absents = np.empty(due[0] if request.tell_absent else 0, np.uint32)
        outcome, _, _ = kernels.pull_frame(
            descriptors,
            address(request.positions),
            address(request.lengths),
            address(request.weights),
            address(values),
            missing,
            found,
            absents,
        )
        if outcome != descriptor.DONE:
            return None
        absent = int(missing @ ~unpooled) if absents.size else 0
        return PullReply(values, missing, found, absent=absents[:absent].copy())
