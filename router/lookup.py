"""Look-ups, which the head asks of the router, and their merged results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.spec import Pooling


@dataclass(frozen=True, slots=True)
class Lookup:
    """Keys of one (feature, table), for all rows of a micro-batch."""

    table: str
    pooling: Pooling
    keys: NDArray[np.uint64]
    """(N,): keys, not ring positions; duplicates count as often as they appear."""
    offsets: NDArray[np.int64] | None = None
    """(B+1,): starts of bags, last = N. None only with Pooling.NONE."""
    weights: NDArray[np.float32] | None = None
    """(N,): one weight per key. None unless the pooling is SUM."""

    @property
    def outputs(self) -> int:
        """Vectors of the result: bags, or keys when nothing is pooled."""
        return len(self.keys) if self.offsets is None else len(self.offsets) - 1


@dataclass(frozen=True, slots=True, eq=False)
class FlatLookups(Sequence[Lookup]):
    """Look-ups of which the first F are flat, end to end: no object for each, however many there are.

    To whoever asks for one it is a `Lookup` as any other.
    """

    tables: tuple[str, ...]
    """(F,): table of each flat look-up."""
    keys: NDArray[np.uint64]
    """(N,): their keys, end to end."""
    counts: NDArray[np.int64]
    """(F,): keys of each."""
    others: Sequence[Lookup] = ()
    """Look-ups that come after them."""
    poolings: tuple[Pooling, ...] = ()
    """(F,): pooling of each, none of them weighted; empty: nothing is pooled."""
    bags: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(F,): bags of each, 0 of one that is not pooled; empty: nothing is pooled."""
    offsets: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(O,): B+1 offsets of each that is pooled, counted from its own first key."""
    _ends: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", np.cumsum(self.counts))

    @property
    def outputs(self) -> NDArray[np.int64]:
        """Vectors of each of the first F: bags, or keys when nothing is pooled."""
        if not self.poolings:
            return self.counts
        return np.where(_pooled(self.poolings), self.bags, self.counts)

    def __len__(self) -> int:
        return len(self.tables) + len(self.others)

    @overload
    def __getitem__(self, place: int) -> Lookup: ...

    @overload
    def __getitem__(self, place: slice) -> list[Lookup]: ...

    def __getitem__(self, place: int | slice) -> Lookup | list[Lookup]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if place < 0:
            place += len(self)
        if place >= len(self.tables):
            return self.others[place - len(self.tables)]
        end = int(self._ends[place])
        table, keys = self.tables[place], self.keys[end - int(self.counts[place]) : end]
        if not self.poolings or self.poolings[place] is Pooling.NONE:
            return Lookup(table, Pooling.NONE, keys)
        begin = int((self.bags[:place] + _pooled(self.poolings)[:place]).sum())
        return Lookup(table, self.poolings[place], keys, self.offsets[begin : begin + int(self.bags[place]) + 1])

    def __iter__(self) -> Iterator[Lookup]:
        return (self[place] for place in range(len(self)))


@lru_cache(64)
def _pooled(poolings: tuple[Pooling, ...]) -> NDArray[np.bool_]:
    """Return which of these pool, not to be written; a head's are of few kinds."""
    return np.array([each is not Pooling.NONE for each in poolings], np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Absent:
    """Keys of a pooled look-up for which the default vector stands: the table does not have them, or they are lost."""

    bags: NDArray[np.int64]
    """(M,): bag of each; a key counts as often as it appears."""
    positions: NDArray[np.uint64]
    """(M,): ring position of each (`ringpull.ps.hashing`)."""


@dataclass(frozen=True, slots=True)
class LookupResult:
    """The merged answer to one `Lookup`."""

    values: NDArray[np.float32]
    """(B, D) pooled bags, or (N, D) rows; owned by the caller. An empty bag is zeros. (N, 0) of a table of bytes."""
    missing: int
    """Keys the table does not have: each counted with the default vector."""
    found: NDArray[np.bool_] | None = None
    """(N,): False where the default vector, or an empty row of bytes, stands. None unless the pooling is NONE."""
    lost: int = 0
    """Keys no live shard could answer for, filled in by the table's policy `on_unavailable: default`."""
    bytes_rows: BytesRows | None = None
    """Rows of the N keys of a table of bytes, owned by the caller; None of any other table."""
    withheld: bool = False
    """Whether some keys were not looked up, and default vectors stand for them."""
    absent: Absent | None = None
    """Keys for which the default vector stands, where these are pooled; None: there are none, or a shard of an earlier
    build did not tell them, or nothing is pooled: see `found`."""

    @property
    def lacks_rows(self) -> bool:
        """Whether some keys have no row of their own, for which something stands."""
        return bool(self.missing or self.lost or self.withheld) or self.absent is not None
