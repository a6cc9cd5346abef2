"""Messages of newest rows: a table as it is now, pushed rows and all, streamed to whoever writes its next full version.

Rows change while they are streamed, so the cursor is a position, not a number of rows. Each row is the one before or
after a push, whole. What a stream surely has is told by a stamp that is asked for before it begins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import ProtocolError
from ringpull.ps.hashing import SLOT_SHIFT
from ringpull.ps.no_arrays import no_bytes, no_lengths, no_positions

MAX_NEWEST_BYTES: Final = 16 << 20
"""Upper bound on the size of one block, whatever its receiver asks for."""


@dataclass(frozen=True, slots=True)
class NewestRequest:
    """Ask for the next rows of a slot range of a table as they are now, in ring order, or for the shard's stamp."""

    model: str
    version: int
    table: str
    begin: int
    end: int
    """Slots [begin, end)."""
    first: int
    """Position below which rows are not wanted: 0 at first, then the one after the last that came."""
    max_bytes: int
    """Upper bound on the rows of the reply, with positions; at least one row is sent. 0: none, only the stamp is asked
    for."""
    identity: int = 0
    """Identity of the version that is meant; one that has another content is refused. 0: not known."""


@dataclass(frozen=True, slots=True)
class NewestReply:
    """Block of a range, sorted by position, or the stamp."""

    stamp: int
    """Stamp of the last push that every row sent from now on has, and that is as durable as pushes are there; only told
    where no rows are asked for."""
    done: bool
    """Whether no row of the range comes after these."""
    checksum: int
    """Checksum as that of a `RangePullReply`."""
    positions: NDArray[np.uint64] = field(default_factory=no_positions)
    """(n,), ascending."""
    rows: NDArray[np.uint8] = field(default_factory=no_bytes)
    """(n * row_bytes,): rows as stored, end to end."""
    lengths: NDArray[np.uint32] = field(default_factory=no_lengths)
    """(n,): bytes of each row of a table of bytes; else (0,)."""

    @property
    def bytes(self) -> int:
        """Bytes of its arrays."""
        return self.positions.nbytes + self.rows.nbytes + self.lengths.nbytes

    def check(self, request: NewestRequest) -> None:
        """Check that it can be the answer to a request.

        Raises:
            ProtocolError: It cannot.
        """
        positions, lengths = self.positions, self.lengths
        if not request.max_bytes and self.bytes:
            raise ProtocolError(f"NEWEST_REPLY: {len(positions)} rows, and only the stamp was asked for")
        if request.max_bytes and not len(positions) and not self.done:
            raise ProtocolError("NEWEST_REPLY: there are no rows, and it is not done")
        if lengths.size and (len(lengths) != len(positions) or int(lengths.sum(dtype=np.int64)) != len(self.rows)):
            raise ProtocolError(
                f"NEWEST_REPLY: {len(lengths)} lengths with {len(self.rows)} bytes of {len(positions)} rows, to which"
                " they must add up"
            )
        if self.rows.size and not len(positions):
            raise ProtocolError(f"NEWEST_REPLY: {len(self.rows)} bytes of no rows")
        if not len(positions):
            return
        lowest, end = max(request.first, request.begin << SLOT_SHIFT), request.end << SLOT_SHIFT
        if int(positions[0]) < lowest or int(positions[-1]) >= end or bool((positions[1:] <= positions[:-1]).any()):
            raise ProtocolError(
                f"NEWEST_REPLY: positions do not ascend within the slots {request.begin} to {request.end} from"
                f" {request.first} on"
            )
