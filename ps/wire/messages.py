"""Messages of the data plane, a dataclass per verb. `ringpull.ps.wire.codec` makes frames of them.

Nothing here opens a socket. Pulls and scans of top-k, which the store answers, are `ringpull.ps.pull_messages` and
`ringpull.ps.top_k_messages`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.ps.no_arrays import no_lengths
from ringpull.ps.pull_messages import PullReply, PullRequest
from ringpull.ps.top_k_messages import TopKReply, TopKRequest
from ringpull.ps.wire.files_messages import FilesReply, FilesRequest
from ringpull.ps.wire.newest_messages import NewestReply, NewestRequest
from ringpull.ps.wire.push_messages import PushReply, PushRequest

ANY_SHARD: Final = -1
"""Id of a shard that means: whichever it is."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Name of one shard's process. A connection begins with two: whom the caller means, and who answers.

    What either side leaves at its default may be anything.
    """

    deployment: str = ""
    """Id of the deployment."""
    shard: int = ANY_SHARD
    incarnation: str = ""
    """Id of the process, which no other one ever has."""

    def fits(self, other: Hello) -> bool:
        """Return whether both may be one process."""
        return (
            (not self.deployment or not other.deployment or self.deployment == other.deployment)
            and (ANY_SHARD in (self.shard, other.shard) or self.shard == other.shard)
            and (not self.incarnation or not other.incarnation or self.incarnation == other.incarnation)
        )

    def __str__(self) -> str:
        known = [
            f"{what} {value}"
            for what, value in (("deployment", self.deployment), ("incarnation", self.incarnation))
            if value
        ]
        which = "a shard" if self.shard == ANY_SHARD else f"shard {self.shard}"
        return f"{which} ({', '.join(known)})" if known else which


ANYONE: Final = Hello()
"""Hello of a caller to whom it is all the same who answers, and of a shard that is nobody in particular."""


@dataclass(frozen=True, slots=True)
class RangePullRequest:
    """Stream the rows of a slot range of one table, in blocks: each reply carries one, and where the next begins."""

    model: str
    version: int
    table: str
    begin: int
    end: int
    """Slots [begin, end)."""
    cursor: int
    """Rows of the range already sent: 0 at first, then the last reply's `next_cursor`."""
    max_bytes: int
    """Upper bound on the rows of one reply; at least one row is sent."""
    identity: int = 0
    """Identity that the table must have; 0: any."""


@dataclass(frozen=True, slots=True)
class RangePullReply:
    """Block of a range, sorted by position."""

    positions: NDArray[np.uint64]
    """(n,), ascending."""
    rows: NDArray[np.uint8]
    """(n * row_bytes,): the stored rows, bit for bit, in the table's row type; rows of bytes end to end."""
    checksum: int
    """xxh3_64 of the bytes of `positions` followed by those of `rows` and `lengths`."""
    next_cursor: int
    total_rows: int
    """Rows of the range; the stream is done when `next_cursor == total_rows`."""
    lengths: NDArray[np.uint32] = field(default_factory=no_lengths)
    """(n,): bytes of each row of a table of bytes; else (0,)."""

    @property
    def bytes(self) -> int:
        """Bytes of its arrays."""
        return self.positions.nbytes + self.rows.nbytes + self.lengths.nbytes


def range_checksum(
    positions: NDArray[np.uint64], rows: NDArray[np.uint8], lengths: NDArray[np.uint32] | None = None
) -> int:
    """Return the `checksum` of a `RangePullReply`, for its sender to fill in and its receiver to compare."""
    state = xxhash.xxh3_64()
    state.update(np.ascontiguousarray(positions).data)
    state.update(np.ascontiguousarray(rows).data)
    if lengths is not None:
        state.update(np.ascontiguousarray(lengths).data)
    checksum: int = state.intdigest()
    return checksum


@dataclass(frozen=True, slots=True)
class DescribeRequest:
    """Ask what a table is and how many rows a slot range of it has: the first question before a range is streamed."""

    model: str
    version: int
    table: str
    begin: int
    end: int
    """Slots [begin, end)."""
    identity: int = 0
    """Identity that the table must have; 0: any."""


@dataclass(frozen=True, slots=True)
class DescribeReply:
    """The answer to a `DescribeRequest`."""

    spec: NDArray[np.uint8]
    """(n,): `TableSpec.to_dict` in msgpack."""
    identity: int
    """Identity of its content (`ringpull.ps.store.format.Header.identity`): rows of two never make one table."""
    rows: int
    """Rows of the range."""
    rows_bytes: int = 0
    """Bytes of these rows, for a table of bytes; 0 where the spec says how many each has."""


@dataclass(frozen=True, slots=True)
class StatisticsRequest:
    """Ask a shard for its statistics."""


@dataclass(frozen=True, slots=True)
class TableStatistics:
    """Statistics of one table of one version on one shard."""

    model: str
    version: int
    table: str
    rows: int
    """Rows in the ranges this shard owns."""
    bytes: int
    """Bytes of these rows and their keys."""
    keys: int
    """Keys looked up since start."""
    missing: int
    """Keys among these that the table does not have."""


@dataclass(frozen=True, slots=True)
class ShardStatistics:
    """Statistics of one shard."""

    shard: int
    epoch: int
    pid: int
    slots: int
    """Slots owned at rank 0."""
    requests: int
    tables: tuple[TableStatistics, ...]


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """A verb failed. The caller raises it as the error class that `ringpull.ps.wire.error_codes` has for the code."""

    code: str
    message: str
    epoch: int = 0
    table: str = ""
    """Table whose `slots` are not answered for; empty for any other error."""
    slots: tuple[tuple[int, int], ...] = ()
    """Ranges [begin, end) of slots."""
    retry_after_ms: int = 0
    """Time after which the same request may be taken; 0: none is known."""


Request = (
    PullRequest
    | RangePullRequest
    | StatisticsRequest
    | DescribeRequest
    | TopKRequest
    | FilesRequest
    | PushRequest
    | NewestRequest
)
Reply = (
    PullReply
    | RangePullReply
    | ShardStatistics
    | DescribeReply
    | TopKReply
    | FilesReply
    | PushReply
    | NewestReply
    | ErrorReply
)
