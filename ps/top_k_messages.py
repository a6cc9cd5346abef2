"""Messages of top-k: the rows of one shard's slots that score highest, of each of some queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import ProtocolError
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS
from ringpull.ps.spec import TableSpec

MAX_K: Final = 10_000
"""Rows that a query may ask for."""
MAX_QUERIES: Final = 64
"""Queries of one call."""
MAX_LISTED_KEYS: Final = 1_000_000
"""Keys that all queries of a call may exclude, and as many that they may be limited to."""

_PRODUCTS_PER_BYTE: Final = 2
"""Products of numbers that take as long as a byte of rows that is read."""


def scan_cost(rows: float, spec: TableSpec, queries: int) -> float:
    """Return what a scan of rows costs: their bytes, and a byte for every few products of numbers.

    Rows are read once for all queries, which is why sixteen of them take as long as two or three.
    """
    return rows * (spec.row_bytes + spec.dim * queries / _PRODUCTS_PER_BYTE)


@dataclass(frozen=True, slots=True)
class TopKRequest:
    """Ask for the rows of one table with the largest scores, of those in some slots."""

    model: str
    version: int
    epoch: int
    """Epoch of the map that the sender routed with."""
    table: str
    k: int
    """Rows of each query, at most."""
    cosine: bool
    """Whether the score is a cosine; else it is a dot product."""
    count: int
    """Number of queries, Q."""
    among: bool
    """Whether only the rows of `positions` are looked at, and not all of `ranges`."""
    vectors: NDArray[np.float32]
    """(Q * dim,): the queries end to end."""
    ranges: NDArray[np.uint32]
    """(2 * R,): begin and end of ranges of slots, ascending and apart; of each all rows are looked at. (0,) if
    `among`."""
    lengths: NDArray[np.uint32]
    """(2 * Q,): positions that each query excludes, then those that it is limited to."""
    positions: NDArray[np.uint64]
    """(sum of lengths,): these, end to end."""
    identity: int = 0
    """Identity of the version that the sender has; one that has another content is refused. 0: not known."""

    def slots(self) -> NDArray[np.uint8]:
        """Return the slots that are asked for, uint8 (SLOTS,), 1 for each."""
        asked = np.zeros(SLOTS, np.uint8)
        for begin, end in self.ranges.reshape(-1, 2).tolist():
            asked[begin:end] = 1
        if self.among:
            listed = int(self.lengths[self.count :].sum(dtype=np.int64))
            asked[self.positions[len(self.positions) - listed :] >> np.uint64(SLOT_SHIFT)] = 1
        return asked

    def check(self) -> None:
        """Check that its counts fit its arrays; what they mean is for the shard to say.

        Raises:
            ProtocolError: They do not.
        """
        count, size = self.count, len(self.vectors)
        if size % count if count else size:
            raise ProtocolError(f"TOP_K: {size} numbers are not {count} queries")
        if len(self.lengths) != 2 * count or int(self.lengths.sum(dtype=np.int64)) != len(self.positions):
            raise ProtocolError(
                f"TOP_K: {len(self.lengths)} lengths of lists with {len(self.positions)} positions; there must be"
                f" {2 * count}, which add up to them"
            )
        if len(self.ranges) if self.among else self.lengths[count:].any():
            raise ProtocolError("TOP_K: rows are asked for by ranges of slots or by positions, and never by both")
        ranges = self.ranges.astype(np.int64)
        ascending = bool((ranges[1::2] > ranges[: len(ranges) // 2 * 2 : 2]).all() and (np.diff(ranges) >= 0).all())
        if len(ranges) % 2 or not ascending or (len(ranges) and ranges[-1] > SLOTS):
            raise ProtocolError(f"TOP_K: ranges of slots must be [begin, end), ascending and apart, within 0..{SLOTS}")


@dataclass(frozen=True, slots=True)
class TopKReply:
    """The answer to a `TopKRequest`: rows of each query, best first, and of equal scores the smallest key first."""

    counts: NDArray[np.uint32]
    """(Q,): rows of each query, `k` at most."""
    positions: NDArray[np.uint64]
    """(sum of counts,): of all queries end to end."""
    scores: NDArray[np.float32]
    """(sum of counts,): no NaN."""

    def check(self, request: TopKRequest) -> None:
        """Check that it can be the answer to a request.

        Raises:
            ProtocolError: It cannot.
        """
        rows = int(self.counts.sum(dtype=np.int64))
        if len(self.counts) != request.count or (self.counts > request.k).any():
            raise ProtocolError(
                f"TOP_K_REPLY: {len(self.counts)} queries with up to {self.counts.max(initial=0)} rows each;"
                f" the request has {request.count}, and asks for {request.k}"
            )
        if (len(self.positions), len(self.scores)) != (rows, rows):
            raise ProtocolError(
                f"TOP_K_REPLY: {len(self.positions)} positions and {len(self.scores)} scores; {rows} of each were due"
            )
        if np.isnan(self.scores).any():
            raise ProtocolError("TOP_K_REPLY: a score is NaN")
        same_query = np.ones(max(0, rows - 1), bool)
        ends = np.cumsum(self.counts.astype(np.int64))[:-1]
        same_query[ends[(ends > 0) & (ends < rows)] - 1] = False
        if (self.scores[1:] > self.scores[:-1])[same_query].any():
            raise ProtocolError("TOP_K_REPLY: the scores of a query do not descend")
