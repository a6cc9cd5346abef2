"""The counters of a router since it was made: a mutable tally, copied on demand into frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import ConnectionLost, NotOwner, RingpullError, Unavailable
from ringpull.ps.wire.messages import PullReply, PullRequest, Reply, Request
from ringpull.ps.wire.top_k_messages import TopKReply, TopKRequest
from ringpull.router.lookup import Lookup, LookupResult

TableKey = tuple[str, str]
"""(model, table)."""


@dataclass(frozen=True, slots=True)
class TableCounters:
    """Counts of one table over all its versions: counts by version would grow without end."""

    keys: int = 0
    bags: int = 0
    """Vectors returned: pooled bags, and keys of look-ups that are not pooled."""
    missing: int = 0
    """Keys among these that the table does not have."""
    lost: int = 0
    """Keys among these that no live shard could answer for, filled in by the table's policy."""
    here: int = 0
    """Keys among these that were answered here, without a shard."""


@dataclass(frozen=True, slots=True)
class RouterCounters:
    """Counts of one router."""

    pulls: int = 0
    """Pulls, and scans for top-k."""
    failed: int = 0
    """Those that raised, cancelled ones included."""
    messages: int = 0
    """Requests of pulls and scans sent to shards."""
    sent_bytes: int = 0
    """Bytes of arrays in requests; headers are not counted."""
    received_bytes: int = 0
    """Bytes of arrays in answers."""
    not_owner: int = 0
    """Messages a shard refused because its ranges were others by then; their keys were routed again."""
    unavailable: int = 0
    """Messages that got no rows because the shard could not be reached, broke off, or had too much to do."""
    retries: int = 0
    """Parts asked anew because their shard failed, refused or was ejected."""
    hedges: int = 0
    """Parts asked of other owners too because their shard was slow."""
    hedges_won: int = 0
    """Hedged parts that the other owners answered first."""
    ejections: int = 0
    """Times that a shard was taken out of the choice because it said nothing, failed or was slow repeatedly."""
    tables: Mapping[TableKey, TableCounters] = field(default_factory=dict)
    here_refused: int = 0
    """Parts that were to be answered here and could not be, so that shards were asked."""


class Tally:
    """Counts as they go; the only mutable thing here, owned by one router."""

    def __init__(self) -> None:
        self.pulls = self.failed = self.messages = self.sent_bytes = self.received_bytes = 0
        self.not_owner = self.unavailable = 0
        self.retries = self.hedges = self.hedges_won = self.ejections = self.here_refused = 0
        self._tables: dict[str, dict[str, list[int]]] = {}
        """The fields of `TableCounters`, by model, then table."""

    def sent(self, request: Request) -> None:
        """Count one message to a shard."""
        self.messages += 1
        if isinstance(request, PullRequest):
            self.sent_bytes += request.positions.nbytes + request.lengths.nbytes + request.weights.nbytes
        elif isinstance(request, TopKRequest):
            self.sent_bytes += request.vectors.nbytes + request.ranges.nbytes
            self.sent_bytes += request.lengths.nbytes + request.positions.nbytes

    def received(self, reply: Reply) -> None:
        """Count one answer."""
        if isinstance(reply, PullReply):
            self.received_bytes += reply.values.nbytes + reply.missing.nbytes + reply.found.nbytes + reply.absent.nbytes
        elif isinstance(reply, TopKReply):
            self.received_bytes += reply.counts.nbytes + reply.positions.nbytes + reply.scores.nbytes

    def got_nothing(self, error: RingpullError, *, local: bool) -> None:
        """Count a message without an answer: an error of a shard, or of what was to be answered here."""
        if local:
            self.here_refused += 1
        else:
            self.not_owner += isinstance(error, NotOwner)
            self.unavailable += isinstance(error, Unavailable | ConnectionLost)

    def looked_up(
        self,
        model: str,
        lookups: Sequence[Lookup],
        results: Sequence[LookupResult],
        here: NDArray[np.int64] | None = None,
    ) -> None:
        """Count the merged look-ups of one pull.

        Args:
            here: (L,): keys of each that were answered here; None: of none.
        """
        tables = self._tables.setdefault(model, {})
        own = [0] * len(lookups) if here is None else here.tolist()
        for lookup, result, keys_here in zip(lookups, results, own, strict=True):
            counts = tables.get(lookup.table)
            if counts is None:
                counts = tables[lookup.table] = [0, 0, 0, 0, 0]
            counts[0] += lookup.keys.size
            counts[1] += lookup.outputs
            counts[2] += result.missing
            counts[3] += result.lost
            counts[4] += keys_here

    def counters(self) -> RouterCounters:
        """Return the counts so far."""
        return RouterCounters(
            self.pulls,
            self.failed,
            self.messages,
            self.sent_bytes,
            self.received_bytes,
            self.not_owner,
            self.unavailable,
            self.retries,
            self.hedges,
            self.hedges_won,
            self.ejections,
            {
                (model, table): TableCounters(*counts)
                for model, tables in self._tables.items()
                for table, counts in tables.items()
            },
            self.here_refused,
        )
