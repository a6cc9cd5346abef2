"""The ring: which shards own which slots, as ranges with an ordered list of owners each.

A table with r copies uses the first r owners of every range, so each rank of the lists is balanced by itself
(`ringpull.ps.balance`). A ring is a value: joining and leaving return a new one.

Invariants, checked at construction: ranges are sorted, disjoint and cover slots 0..65,536; every range lists the same
number of owners (`ranks`), all distinct; and `ranks == min(wanted, number of shards)`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps import balance
from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import SLOTS
from ringpull.ps.rank_fill import UNOWNED, OwnerTable, run_starts
from ringpull.ps.spec import ALL, Replicas

MAX_SHARD: Final = UNOWNED - 1
"""Largest shard id, 65,534: owner tables are uint16, and the largest value means unowned."""


@dataclass(frozen=True, slots=True, order=True)
class SlotRange:
    """Slots `begin` to `end`, half open: the unit of ownership, movement and repair."""

    begin: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= SLOTS:
            raise InvalidInput(f"slot range [{self.begin}, {self.end}): must be within 0..{SLOTS} and not empty")

    def __len__(self) -> int:
        return self.end - self.begin

    def __contains__(self, slot: int) -> bool:
        return self.begin <= slot < self.end


@dataclass(frozen=True, slots=True)
class OwnedRange:
    """A range and its owners, first owner first."""

    slots: SlotRange
    owners: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ring:
    """The whole assignment of slots to shards."""

    ranges: tuple[OwnedRange, ...]
    wanted: int = 1
    """Owners that a range should list; fewer only while there are fewer shards. Never below what the ranges list."""

    def __post_init__(self) -> None:
        _check_cover(self.ranges)
        ranks = len(self.ranges[0].owners)
        object.__setattr__(self, "wanted", max(self.wanted, ranks))
        for owned in self.ranges:
            _check_owners(owned, ranks)
        shards = len(self.shards)
        if ranks != min(self.wanted, shards):
            raise InvalidInput(f"ring: {self.wanted} owners are wanted of {shards} shards, but ranges list {ranks}")

    @property
    def ranks(self) -> int:
        """Owners that every range lists: `min(wanted, shards)`."""
        return len(self.ranges[0].owners)

    @property
    def shards(self) -> tuple[int, ...]:
        """Ids of all shards that own anything, ascending."""
        return tuple(sorted({shard for owned in self.ranges for shard in owned.owners}))

    # -- making rings --------------------------------------------------------------------------------------------------

    @classmethod
    def even(cls, shards: Collection[int], ranks: int = 1) -> Ring:
        """Return a new ring of these shards, the same for the same ids: one run each at rank 0, later ranks mixed.

        Raises:
            InvalidInput: No shards, an id given twice or outside 0..MAX_SHARD, or `ranks` below 1.
        """
        _check_shards(shards)
        _check_ranks(ranks)
        return cls._of(balance.even(sorted(shards), min(ranks, len(shards))), ranks)

    def join(self, shard: int) -> Ring:
        """Return the ring with one shard more. Only the newcomer gains slots.

        Raises:
            InvalidInput: The shard is in the ring already, or its id is outside 0..MAX_SHARD.
        """
        _check_shards([*self.shards, shard])
        return Ring._of(balance.join(self._table(), shard, min(self.wanted, len(self.shards) + 1)), self.wanted)

    def leave(self, shard: int) -> Ring:
        """Return the ring with one shard fewer. Only slots of the leaver move.

        Raises:
            InvalidInput: The shard is not in the ring, or is the last one.
        """
        rest = [other for other in self.shards if other != shard]
        if len(rest) == len(self.shards):
            raise InvalidInput(f"shard {shard} is not in the ring of shards {self.shards}")
        if not rest:
            raise InvalidInput(f"shard {shard} is the last of the ring and cannot leave it")
        return Ring._of(balance.leave(self._table(), shard, min(self.wanted, len(rest))), self.wanted)

    def with_shards(self, shards: Collection[int]) -> Ring:
        """Return the ring of exactly these shards.

        Newcomers first take the places of leavers one for one, which moves nothing else; then the rest join or leave.
        The steps between are never seen: a range moves once, from where it is to where it ends.
        """
        _check_shards(shards)
        table = self._table()
        leavers = [shard for shard in self.shards if shard not in shards]
        newcomers = [shard for shard in sorted(shards) if shard not in self.shards]
        for old, new in zip(leavers, newcomers, strict=False):
            table[table == old] = new
        # On the table from end to end: a ring of each step would cost as much as the step.
        count = len(self.shards)
        for shard in newcomers[len(leavers) :]:
            count += 1
            table = balance.join(table, shard, min(self.wanted, count))
        for shard in leavers[len(newcomers) :]:
            count -= 1
            table = balance.leave(table, shard, min(self.wanted, count))
        return Ring._of(table, self.wanted)

    def with_ranks(self, ranks: int) -> Ring:
        """Return the ring that wants this many owners per range: later ranks are dropped or added, the others stay."""
        _check_ranks(ranks)
        return Ring._of(balance.with_ranks(self._table(), min(ranks, len(self.shards))), ranks)

    @classmethod
    def _of(cls, table: OwnerTable, wanted: int) -> Ring:
        bounds = [*run_starts(table).tolist(), SLOTS]
        owners = table[bounds[:-1]].tolist()
        ranges = (
            OwnedRange(SlotRange(begin, end), tuple(row))
            for (begin, end), row in zip(pairwise(bounds), owners, strict=True)
        )
        return cls(tuple(ranges), wanted)

    # -- reading rings -------------------------------------------------------------------------------------------------

    def owner_table(self, replicas: int) -> OwnerTable:
        """Return the owners of every slot for a table of this many copies: new, (SLOTS, min(replicas, ranks))."""
        _check_ranks(replicas)
        return np.ascontiguousarray(self._table()[:, :replicas])

    def owned_mask(self, shard: int, replicas: Replicas) -> NDArray[np.uint8]:
        """Return, for a table of this many copies, 1 for every slot the shard owns: uint8 (SLOTS,), new."""
        if replicas == ALL:
            return np.full(SLOTS, shard in self.shards, np.uint8)
        owned: NDArray[np.bool_] = (self.owner_table(replicas) == shard).any(axis=1)
        return owned.view(np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON/msgpack values; `from_dict` reads them back."""
        ranges = [[owned.slots.begin, owned.slots.end, list(owned.owners)] for owned in self.ranges]
        return {"wanted": self.wanted, "ranges": ranges}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Ring:
        """Read what `to_dict` wrote.

        Raises:
            InvalidInput: A field is missing or of the wrong type, or an invariant of rings does not hold.
        """
        try:
            ranges = tuple(
                OwnedRange(SlotRange(_integer(begin), _integer(end)), tuple(_integer(owner) for owner in owners))
                for begin, end, owners in fields["ranges"]
            )
            return cls(ranges, _integer(fields["wanted"]))
        except KeyError as exc:
            raise InvalidInput(f"ring: field {exc} is missing") from exc
        except (TypeError, ValueError) as exc:
            raise InvalidInput(f"ring: {exc}") from exc

    def _table(self) -> OwnerTable:
        lengths = [len(owned.slots) for owned in self.ranges]
        return np.repeat(np.array([owned.owners for owned in self.ranges], np.uint16), lengths, axis=0)

    def __repr__(self) -> str:
        return f"<Ring [{len(self.shards)} shards, {self.ranks} ranks, {len(self.ranges)} ranges]>"


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not an integer")
    return value


def _check_cover(ranges: tuple[OwnedRange, ...]) -> None:
    expected = 0
    for owned in ranges:
        if owned.slots.begin != expected:
            raise InvalidInput(f"ring: a range begins at slot {owned.slots.begin}; the one before ends at {expected}")
        expected = owned.slots.end
    if expected != SLOTS:
        raise InvalidInput(f"ring: the ranges end at slot {expected}; they must cover all {SLOTS}")


def _check_owners(owned: OwnedRange, ranks: int) -> None:
    if not owned.owners or len(owned.owners) != ranks or len(set(owned.owners)) != ranks:
        raise InvalidInput(
            f"ring: range {owned.slots} lists owners {owned.owners};"
            f" every range must list {ranks or 1} different shards"
        )
    if not all(0 <= shard <= MAX_SHARD for shard in owned.owners):
        raise InvalidInput(f"ring: range {owned.slots} lists owners {owned.owners}; shard ids are 0..{MAX_SHARD}")


def _check_shards(shards: Iterable[int]) -> None:
    ids = list(shards)
    if not ids:
        raise InvalidInput("ring: there must be at least one shard")
    if len(set(ids)) != len(ids):
        raise InvalidInput(f"ring: a shard is named twice in {sorted(ids)}")
    if not all(0 <= shard <= MAX_SHARD for shard in ids):
        raise InvalidInput(f"ring: shard ids {sorted(ids)} must be 0..{MAX_SHARD}")


def _check_ranks(ranks: int) -> None:
    if ranks < 1:
        raise InvalidInput(f"ring: {ranks} owners per range; there must be at least 1")
