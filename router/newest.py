"""Newest rows of a version, read from whichever shards own them: a whole table in ring order, and the shards' stamps.

For jobs of their own process, which take their time: whatever a shard refuses, or loses with its connection, is asked
of the next owner, then by a newer map, from the position that was reached, until nothing has come for long.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final

from ringpull.ps.errors import CorruptData, NotFound, ProtocolError, Retryable, RingpullError, Unavailable
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import ALL, TableSpec, UInt64Array
from ringpull.ps.store.raw_rows import RawRows, rows_of
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.throttle import Throttle
from ringpull.ps.wire.messages import Reply, range_checksum
from ringpull.ps.wire.newest_messages import NewestReply, NewestRequest
from ringpull.router.shard_map import ShardAddress, ShardMap

BLOCK_BYTES: Final = 1 << 20
"""Size of rows that are asked for at a time. Larger blocks are faster, and hold up pulls: see ps/README.md."""

RETRY_S: Final = 0.5
"""Time between two rounds of asking all owners."""

GIVE_UP_S: Final = 120.0
"""Time without any answer after which a stream is given up: a shard that restarts reads its log first."""

FIRST_ANSWER_S: Final = 10.0
"""The same while none has answered at all: a wrong certificate, or a way that is closed, is told soon."""

_END: Final = SLOTS << SLOT_SHIFT

_ERRORS_OF_ONE: Final = (Retryable, CorruptData, NotFound)
"""Errors of one shard, or of one moment, that another may not have."""

Ask = Callable[[ShardAddress, NewestRequest], Reply]
"""Function that sends a request to a shard and waits for the reply."""


class NewestRows:
    """Reads one version from the shards of a deployment. Used by one thread."""

    def __init__(
        self,
        model: str,
        version: int,
        identity: int,
        *,
        ask: Ask,
        refresh: Callable[[], ShardMap],
        job: Job,
        throttle: Throttle,
        block_bytes: int = BLOCK_BYTES,
        give_up_s: float = GIVE_UP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read by the map that there is now.

        Args:
            identity: Identity of the version; 0: not known.
            refresh: Returns the newest map; raises where nobody tells one, and for good where the version is not open
                any more.
            job: May be cancelled from another thread.
            throttle: What the bytes of rows are taken from.
        """
        self._model, self._version, self._identity = model, version, identity
        self._ask, self._refresh, self._job, self._throttle = ask, refresh, job, throttle
        self._block_bytes, self._give_up_s, self._clock = block_bytes, give_up_s, clock
        self._answered = False
        self._map = refresh()

    def stamps(self, table: str) -> dict[int, int]:
        """Return the stamp of each shard: all pushes up to it are in whatever is read from now on.

        Raises:
            Unavailable: A shard has not answered for long.
            Cancelled: The job was cancelled.
        """
        found: dict[int, int] = {}
        began_s = self._clock()
        while True:
            error: RingpullError | None = None
            for address in self._map.shards:
                if address.shard not in found:
                    try:
                        reply = self._asked(address, self._request(table, SlotRange(0, SLOTS), 0, 0))
                        found[address.shard] = reply.stamp
                    except _ERRORS_OF_ONE as exc:
                        error = self._noted(exc)
            if error is None:
                return found
            self._wait(began_s, f"shards do not tell up to which push they are: {error}")

    def blocks(self, spec: TableSpec) -> Iterator[tuple[UInt64Array, RawRows]]:
        """Yield all rows of a table as they are now, in ring order, as positions and stored rows.

        Raises:
            Unavailable: Rows could not be read for long.
            Cancelled: The job was cancelled.
        """
        position = 0
        while position < _END:
            end, reply = self._block(spec, position)
            if reply.done:
                position = end
                continue
            rows = rows_of(spec.row_bytes, len(reply.positions), reply.rows, reply.lengths)
            self._job.copied_bytes += reply.bytes
            yield reply.positions, rows
            position = int(reply.positions[-1]) + 1

    # -- inside -------------------------------------------------------------------------------------------------------

    def _block(self, spec: TableSpec, position: int) -> tuple[int, NewestReply]:
        """Return the rows from a position on that one shard has, and the position at which its range ends."""
        began_s = self._clock()
        while True:
            slots, owners = self._owners(spec.name, position >> SLOT_SHIFT)
            error: RingpullError | None = None
            for address in owners:
                try:
                    return slots.end << SLOT_SHIFT, self._rows(address, spec, slots, position)
                except _ERRORS_OF_ONE as exc:
                    error = self._noted(exc)
            self._wait(began_s, f"table {spec.name}: slots {slots.begin} to {slots.end} cannot be read: {error}")

    def _rows(self, address: ShardAddress, spec: TableSpec, slots: SlotRange, position: int) -> NewestReply:
        self._throttle.take(self._block_bytes, self._job)
        size = 0
        try:
            reply = self._asked(address, self._request(spec.name, slots, position, self._block_bytes))
            size = reply.bytes
        finally:
            self._throttle.give_back(self._block_bytes - size)
        if range_checksum(reply.positions, reply.rows, reply.lengths) != reply.checksum:
            raise CorruptData(f"a block of {len(reply.positions)} rows of shard {address.shard} was damaged on its way")
        rows_of(spec.row_bytes, len(reply.positions), reply.rows, reply.lengths)
        return reply

    def _asked(self, address: ShardAddress, request: NewestRequest) -> NewestReply:
        self._job.check()
        reply = self._ask(address, request)
        if not isinstance(reply, NewestReply):
            raise ProtocolError(f"shard {address.shard} answered a NEWEST with {type(reply).__name__}")
        self._answered = True
        return reply

    def _request(self, table: str, slots: SlotRange, first: int, max_bytes: int) -> NewestRequest:
        return NewestRequest(
            self._model, self._version, table, slots.begin, slots.end, first, max_bytes, self._identity
        )

    def _owners(self, table: str, slot: int) -> tuple[SlotRange, list[ShardAddress]]:
        """Return the range that a slot is in, and the shards that have it, the first owner first."""
        shard_map = self._map
        ranges = shard_map.ring.ranges
        found = ranges[bisect_right(ranges, slot, key=lambda each: each.slots.begin) - 1]
        by_shard = {address.shard: address for address in shard_map.shards}
        wanted = shard_map.wanted_replicas(self._model, table)
        if wanted == ALL:
            return found.slots, [by_shard.pop(found.owners[0]), *by_shard.values()]
        return found.slots, [by_shard[owner] for owner in found.owners[:wanted]]

    def _wait(self, began_s: float, why: str) -> None:
        """Wait, then go by the newest map."""
        if self._clock() - began_s > (self._give_up_s if self._answered else min(FIRST_ANSWER_S, self._give_up_s)):
            raise Unavailable(f"{self._model}/{self._version}: {why}")
        self._job.pause(RETRY_S)
        try:
            self._map = self._refresh()
        except Retryable:
            return  # whoever knows it is away, too

    def _noted(self, error: RingpullError) -> RingpullError:
        if isinstance(error, Cancelled):
            raise error
        return error.with_traceback(None)
