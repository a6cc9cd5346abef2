"""Scan as a value: the question of a top-k about slots of one table, and what all its messages have in common.

It is about all slots of the ring or, limited to some keys, about theirs. Each slot is in exactly one answer, so each
row is looked at once, whatever was retried or hedged. Answers by two maps make one whole: the rows of a version never
change, whoever has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import ProtocolError
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, positions_of
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, edges, mask_of, minus
from ringpull.ps.spec import Float32Array, OnUnavailable, TableSpec, UInt64Array
from ringpull.ps.top_k_messages import TopKReply, TopKRequest
from ringpull.ps.wire.messages import Reply
from ringpull.router.pull import check_may_be_lost
from ringpull.router.question import Exclusions
from ringpull.router.replicas import DOWN, Placement
from ringpull.router.top_k import Int64Array, KeyLists, TopKQuery

STICKINESS_SLOTS: Final = 8192
"""Lead in waiting slots, an eighth of a table, that moves a slot off its first owner."""

_NO_RANGES: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class ScanPart:
    """Slots that one shard is asked about."""

    shard: int | None
    """Id of the shard; None: no owner is up."""
    mask: SlotMask
    size: int
    """Number of slots."""


@dataclass(frozen=True, slots=True)
class PositionLists:
    """Ring positions listed for each query."""

    positions: UInt64Array
    """(N,): the lists end to end."""
    queries: Int64Array
    """(N,): query of each, ascending."""
    slots: NDArray[np.uint16]
    """(N,): slot of each."""

    @classmethod
    def of(cls, lists: KeyLists | None, queries: int) -> PositionLists:
        """Hash lists of keys."""
        if lists is None:
            return cls(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.uint16))
        positions = positions_of(np.ascontiguousarray(lists.keys))
        slots = (positions >> np.uint64(SLOT_SHIFT)).astype(np.uint16)
        return cls(positions, np.repeat(np.arange(queries), np.diff(lists.offsets)), slots)

    def within(self, mask: SlotMask) -> PositionLists:
        """Return those in some slots."""
        places = np.flatnonzero(mask[self.slots])
        return PositionLists(self.positions[places], self.queries[places], self.slots[places])

    def lengths(self, queries: int) -> NDArray[np.uint32]:
        """Return the number of positions of each query."""
        return np.bincount(self.queries, minlength=queries).astype(np.uint32)


@dataclass(frozen=True)
class Scan:
    """Scan for one top-k."""

    model: str
    version: int
    spec: TableSpec
    query: TopKQuery
    answer_by_s: float
    """Deadline of shards, on the router's clock."""
    identity: int = 0
    """Identity of the version; 0: not known."""

    @cached_property
    def excluded(self) -> PositionLists:
        """Positions that each query excludes."""
        return PositionLists.of(self.query.exclude, len(self.query.vectors))

    @cached_property
    def among(self) -> PositionLists:
        """Positions that each query is limited to; none where it is not."""
        return PositionLists.of(self.query.among, len(self.query.vectors))

    @cached_property
    def batch(self) -> SlotMask:
        """All slots that are asked about."""
        if self.query.among is None:
            return np.ones(SLOTS, np.uint8)
        mask = np.zeros(SLOTS, np.uint8)
        mask[self.among.slots] = 1
        return mask

    @cached_property
    def vectors(self) -> Float32Array:
        """Queries end to end."""
        return np.ascontiguousarray(self.query.vectors).reshape(-1)

    @cached_property
    def size(self) -> int:
        """Number of these slots."""
        return int(self.batch.sum(dtype=np.int64))

    def parts(
        self, batches: Sequence[SlotMask], placement: Placement, waiting: Int64Array, here: bool
    ) -> list[ScanPart]:
        """Return parts by the owners of a map, ascending by shard, slots without an owner last.

        Scans are always of shards, whatever is here: they would take the processors that requests are answered with.

        A slot goes to its first owner, unless a later one has much less waiting. Of a table that every shard has, each
        shard that is up scans as much as any other.
        """
        unowned = waiting.size - 1
        starts, chosen = self._chosen(placement, waiting)
        chosen_by_slot = np.repeat(chosen.astype(np.int32), np.diff(starts, append=SLOTS))
        parts: list[ScanPart] = []
        for mask in batches:
            counts = np.zeros(waiting.size, np.int64)
            np.add.at(counts, chosen, np.add.reduceat(mask, starts, dtype=np.int64))
            waiting += counts
            parts += [
                ScanPart(None if shard == unowned else shard, mask & (chosen_by_slot == shard), int(counts[shard]))
                for shard in np.flatnonzero(counts).tolist()
            ]
        return parts

    def _chosen(self, placement: Placement, waiting: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return the first slot of each of some runs, and the shard to ask about it, the last id where none is up."""
        copies = int(placement.replicas(self.model, (self.spec.name,))[0])
        unowned = waiting.size - 1
        if not copies:
            up = np.flatnonzero(waiting < DOWN)
            if not up.size:
                up = np.array([unowned])
            return np.arange(up.size) * SLOTS // up.size, up
        starts = placement.run_starts
        owners = placement.owners[starts, :copies].astype(np.int64)
        chosen = owners[:, 0]
        for rank in range(1, owners.shape[1]):
            other = owners[:, rank]
            chosen = np.where(waiting[other] < waiting[chosen] - STICKINESS_SLOTS, other, chosen)
        return starts, np.where(waiting[chosen] < DOWN, chosen, unowned)

    def as_batch(self, part: ScanPart) -> SlotMask:
        """Return the slots of a part, to be asked about anew."""
        return part.mask

    def divide(
        self, part: ScanPart, table: str, slots: Sequence[tuple[int, int]]
    ) -> tuple[SlotMask | None, SlotMask | None]:
        """Return the slots of a part that are among these of a table, and all others; None: there are none."""
        named = mask_of([SlotRange(begin, end) for begin, end in slots] if table == self.spec.name else [])
        inside, others = part.mask & named, minus(part.mask, named)
        return inside if inside.any() else None, others if others.any() else None

    def request(self, part: ScanPart, epoch: int) -> TopKRequest:
        """Return the message that asks about a part, by the map of this epoch."""
        query, count = self.query, len(self.query.vectors)
        excluded, among = self.excluded.within(part.mask), self.among.within(part.mask)
        return TopKRequest(
            model=self.model,
            version=self.version,
            epoch=epoch,
            table=self.spec.name,
            k=query.k,
            cosine=query.metric == "cosine",
            count=count,
            among=query.among is not None,
            vectors=self.vectors,
            ranges=(_NO_RANGES if query.among is not None else edges(part.mask)).astype(np.uint32),
            lengths=np.concatenate([excluded.lengths(count), among.lengths(count)]),
            positions=np.concatenate([excluded.positions, among.positions]),
            identity=self.identity,
        )

    def checked(self, part: ScanPart, reply: Reply) -> TopKReply:
        """Return the answer to a part.

        Raises:
            ProtocolError: It is none, or has rows of other slots.
        """
        if not isinstance(reply, TopKReply):
            raise ProtocolError(f"shard {part.shard} answered a top-k with {type(reply).__name__}")
        if not part.mask[(reply.positions >> np.uint64(SLOT_SHIFT)).astype(np.int64)].all():
            raise ProtocolError(f"shard {part.shard} answered a top-k with rows of slots that it was not asked about")
        return reply

    def strict_tables(self, parts: Sequence[ScanPart]) -> list[str]:
        """Return the table, if slots of it are in these parts and may not be lost."""
        return [self.spec.name] if parts and self.spec.on_unavailable is OnUnavailable.ERROR else []

    def check_may_be_lost(self, parts: Sequence[ScanPart], excluded: Exclusions) -> None:
        """Check that the policy of the table allows to lose these parts.

        Raises:
            Unavailable: It does not.
        """
        check_may_be_lost(self.strict_tables(parts), excluded, "slots")
