"""Messages of pushes: rows to be put, or keys to be removed, at the shard that owns their slots."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import ProtocolError
from ringpull.ps.no_arrays import no_bytes, no_lengths

MAX_PUSH_BYTES: Final = 64 << 20
"""Bytes of the arrays of one push, and of all pushes that one shard has in hand."""

NAMELESS: Final = 1 << 63
"""Bit that ids of nameless writers have, see `ringpull.ps.live.numbers`."""


class PushRequest(NamedTuple):
    """Put rows of one table, in all open versions of a lineage, or remove keys from it."""

    model: str
    table: str
    epoch: int
    """Epoch of the map that the sender routed with."""
    lineage: int
    """Lineage that is meant."""
    writer: int
    """Id of who pushes; 0: its pushes have no numbers. See `ringpull.ps.live.numbers`."""
    number: int
    """Number of the push among those of its writer; a repetition has the same one."""
    remove: bool
    """Whether the keys are removed: they have the table's default then, and no rows come with them."""
    positions: NDArray[np.uint64]
    """(n,): of equal ones the last counts."""
    rows: NDArray[np.uint8] = no_bytes()
    """(n * row_bytes,): rows as stored, end to end; rows of bytes (sum of `lengths`,)."""
    lengths: NDArray[np.uint32] = no_lengths()
    """(n,): bytes of each row of a table of bytes; else (0,)."""
    identity: int = 0
    """Identity of the version whose schema the rows were encoded by; 0: not known."""
    only_live: bool = False
    """Whether the lineage has to be the model's live one, as the shard was told it: who asks no head says so."""

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.positions.nbytes + self.rows.nbytes + self.lengths.nbytes

    def check(self) -> None:
        """Check that its counts fit its arrays; what they mean is for the shard to say.

        Raises:
            ProtocolError: They do not.
        """
        if bool(self.writer) is not bool(self.number):
            raise ProtocolError(f"PUSH: writer {self.writer:016x} sends number {self.number}; numbers begin at 1")
        if self.remove and (self.rows.size or self.lengths.size):
            raise ProtocolError(f"PUSH: {self.rows.size} bytes of rows come with keys that are to be removed")
        if self.lengths.size:
            total = int(self.lengths.sum(dtype=np.int64))
            if self.lengths.size != self.positions.size or total != self.rows.size:
                raise ProtocolError(
                    f"PUSH: {self.lengths.size} lengths with {self.rows.size} bytes of rows; there must be"
                    f" {self.positions.size}, which add up to them"
                )


class PushReply(NamedTuple):
    """The answer to a `PushRequest`: all of it is as durable as the shard makes pushes, and seen by pulls from now."""

    stamp: int
    """Stamp of the push at this shard, or of the last one where all of it was a repetition."""
    rows: int
    """Keys that were put or removed now."""
    new_keys: int
    """Keys among these that nothing had been pushed to before, whether they were exported or not."""
    repeated: int
    """Keys of slots where it was applied before."""

    def check(self, request: PushRequest) -> None:
        """Check that it can be the answer to a request.

        Raises:
            ProtocolError: It cannot.
        """
        if self.rows + self.repeated != request.positions.size or self.new_keys > self.rows:
            raise ProtocolError(
                f"PUSH_REPLY: {self.rows} keys put, {self.new_keys} of them new, and {self.repeated} repeated; the"
                f" request has {request.positions.size}"
            )
