"""Pushing: rows go to the shards that own their slots, one frame each, until each of them has acknowledged its part.

A part whose shard is not its owner any more, or whose connection broke, is sent again by a newer map, under the same
number, until the time is up: it applies once. Nothing is asked twice for speed. All parts are waited for, whatever
fails; then the worst is raised, and whoever pushes the same rows again, under the same number, loses and doubles none.
The stamp of a push is that of every shard, also of those that have no part of it: all pushes up to then are meant.

A client that pushes to shards itself has another way, through a head: it sends each part once. It has no compiler
either, and brings its own functions for what is compiled here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import (
    ConnectionLost,
    CorruptData,
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotOwner,
    ProtocolError,
    RingpullError,
    StaleNumber,
    Stranger,
    Unavailable,
    may_pass,
)
from ringpull.ps.hashing import SLOT_SHIFT, positions_of
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.raw_rows import RawRows, flat, lengths_of
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from ringpull.router.connections import Connections, NotReached
from ringpull.router.in_flight import InFlightByEpoch
from ringpull.router.last_stamps import LastStamps, LastStampsBeside
from ringpull.router.pushed_rows import PushedRows, PushResult
from ringpull.router.replicas import Placement
from ringpull.router.routes import Routes
from ringpull.router.shard_map import ShardAddress

RETRY_S: Final = 0.05
"""Pause before parts are sent again that reached nobody: a shard that restarts takes a second or two."""

Indices = NDArray[np.intp]

Gather = Callable[[BytesRows, Indices], BytesRows]
"""Function that returns some of several rows of bytes, by their numbers."""


@dataclass(slots=True)
class _Part:
    """Rows for one shard."""

    shard: int
    count: int
    rows: Indices | None
    """Their numbers in the push, ascending; None: it has all rows, none of which is copied."""


class Pushing:
    """Pushes of one router, or of a client.

    Args:
        once: Whether a part is sent once, whatever becomes of it.
        only_live: Whether shards are to refuse what is for a lineage that is not live.
        positions: Function that returns the positions of keys; None: the compiled one.
        gather: Function that chooses among rows of bytes; None: the compiled one.
    """

    def __init__(
        self,
        routes: Routes,
        connections: Connections,
        in_flight: InFlightByEpoch,
        *,
        once: bool = False,
        only_live: bool = False,
        positions: Callable[[UInt64Array], UInt64Array] | None = None,
        gather: Gather | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._routes, self._connections, self._in_flight, self._clock = routes, connections, in_flight, clock
        self._once, self._only_live = once, only_live
        self._positions = positions or positions_of
        self._gather = gather or _gathered
        self._last_stamps = LastStamps(self._ask, only_live=only_live, clock=clock)

    async def push(self, pushed: PushedRows, *, deadline_s: float) -> PushResult:
        """See `Router.push`."""
        positions = self._positions(np.ascontiguousarray(pushed.keys, np.uint64))
        _check(pushed)
        with self._last_stamps.beside(pushed) as others:
            replies = await self._acknowledged(pushed, positions, others, deadline_s)
            return _joined(replies, await others.answers())

    async def _acknowledged(
        self, pushed: PushedRows, positions: UInt64Array, others: LastStampsBeside, deadline_s: float
    ) -> list[tuple[int, PushReply]]:
        """Return the answers of the shards that have a part, once that is all there is."""
        left: Indices | None = None
        replies: list[tuple[int, PushReply]] = []
        while positions.size:
            placement = self._routes.current()
            parts = _parts(placement, positions, left)
            others.ask(placement, [part.shard for part in parts])
            outcomes = await self._sent(pushed, positions, parts, placement, deadline_s)
            failed: dict[int, tuple[_Part, RingpullError]] = {}
            for part, outcome in zip(parts, outcomes, strict=True):
                if isinstance(outcome, PushReply):
                    replies.append((part.shard, outcome))
                else:
                    failed[part.shard] = (part, outcome)
            if not failed:
                break
            final = [error for _, error in failed.values() if not _may_try_again(error, pushed)]
            if self._once or final or self._clock() + RETRY_S >= deadline_s:
                raise _worst(pushed, failed, len(positions))
            left = _rows_of([part for part, _ in failed.values()])
            await self._renew(placement, [error for _, error in failed.values()], deadline_s)
        return replies

    async def _sent(
        self, pushed: PushedRows, positions: UInt64Array, parts: list[_Part], placement: Placement, deadline_s: float
    ) -> list[PushReply | RingpullError]:
        self._in_flight.begin(placement.epoch)
        try:
            asked = [
                self._ask(placement.address(part.shard), self._request(pushed, positions, part, placement), deadline_s)
                for part in parts
            ]
            # Mostly there is one part, which needs no task of its own.
            return [await asked[0]] if len(asked) == 1 else await asyncio.gather(*asked)
        finally:
            self._in_flight.end(placement.epoch)

    async def _ask(self, address: ShardAddress, request: PushRequest, deadline_s: float) -> PushReply | RingpullError:
        try:
            reply = await self._connections.ask(address, request, deadline_s=deadline_s)
        except RingpullError as exc:
            return exc
        if not isinstance(reply, PushReply):
            return ProtocolError(f"shard {address.shard} answered a push with {type(reply).__name__}")
        return reply

    def _request(self, pushed: PushedRows, positions: UInt64Array, part: _Part, placement: Placement) -> PushRequest:
        # Keys that are removed have no rows to choose from.
        sent = pushed.rows if pushed.remove else self._chosen(pushed.rows, part.rows)
        return PushRequest(
            model=pushed.model,
            table=pushed.table,
            epoch=placement.epoch,
            lineage=pushed.lineage,
            writer=pushed.writer,
            number=pushed.number,
            remove=pushed.remove,
            positions=positions if part.rows is None else positions[part.rows],
            rows=flat(sent),
            lengths=lengths_of(sent),
            only_live=self._only_live,
        )

    def _chosen(self, rows: RawRows, which: Indices | None) -> RawRows:
        """Return some rows; all of them as they are."""
        if which is None:
            return rows
        return self._gather(rows, which) if isinstance(rows, BytesRows) else rows.take(which, axis=0)

    async def _renew(self, placement: Placement, errors: list[RingpullError], deadline_s: float) -> None:
        """Get a newer map, or wait a moment."""
        sure = any(isinstance(error, NotOwner | Stranger) for error in errors)
        if not await self._routes.renewed(placement.shard_map.edition, deadline_s, sparingly=not sure):
            await asyncio.sleep(RETRY_S)


def _check(pushed: PushedRows) -> None:
    count = 0 if pushed.remove else len(pushed.keys)
    if len(pushed.rows) != count:
        raise InvalidInput(f"push to {pushed.model}/{pushed.table}: {len(pushed.rows)} rows come with {count} keys")


def _parts(placement: Placement, positions: UInt64Array, rows: Indices | None) -> list[_Part]:
    """Return some rows of a push by their owners; of equal keys the last stays the last.

    Args:
        rows: Their numbers; None: all.
    """
    if rows is None and len(placement.run_starts) == 1:  # all slots have the same owners: one shard, mostly
        return [_Part(int(placement.owners[0, 0]), positions.size, None)]
    asked = positions if rows is None else positions[rows]
    owners = placement.owners[:, 0].take((asked >> np.uint64(SLOT_SHIFT)).astype(np.intp))
    if (owners == owners[0]).all():
        return [_Part(int(owners[0]), asked.size, rows)]
    numbers: Indices = np.arange(asked.size) if rows is None else rows
    chosen = [(shard, numbers[owners == shard]) for shard in np.unique(owners).tolist()]
    return [_Part(shard, each.size, each) for shard, each in chosen]


def _rows_of(parts: list[_Part]) -> Indices | None:
    """Return the numbers of the rows of some parts, ascending; None: all."""
    numbers = [part.rows for part in parts if part.rows is not None]
    return np.sort(np.concatenate(numbers)) if numbers else None


def _gathered(rows: BytesRows, which: Indices) -> BytesRows:
    from ringpull.ps.store.gather import gather_from  # compiled

    return gather_from(rows.data, rows.offsets[:-1][which], np.diff(rows.offsets)[which].astype(np.uint32))


def _may_try_again(error: RingpullError, pushed: PushedRows) -> bool:
    """Return whether a part may be sent again: by a newer map, or to a shard that is back."""
    if isinstance(error, NotOwner | NotReached | Stranger):
        return True
    # It may have been applied: sent again without a number it would go over what others pushed since.
    return isinstance(error, ConnectionLost) and not isinstance(error, ProtocolError) and pushed.writer != 0


def _worst(pushed: PushedRows, failed: Mapping[int, tuple[_Part, RingpullError]], keys: int) -> RingpullError:
    """Return the error for a push that was not acknowledged everywhere.

    What somebody has to act on goes before what passes by itself: whoever pushes would else wait for this, and go on as
    if nothing were lost. A number that is too low goes last: the others may be acknowledged when they are sent again,
    and then it alone says how the push has ended.
    """
    lost = sum(part.count for part, _ in failed.values())
    why = "; ".join(f"shard {shard}: {error}" for shard, (_, error) in sorted(failed.items()))
    message = f"push to {pushed.model}/{pushed.table}: {lost} of {keys} keys were not acknowledged: {why}"
    errors = [error for _, error in failed.values()]
    lasting = [error for error in errors if not may_pass(error) and not isinstance(error, StaleNumber)]
    if lasting:
        # The operator's before the caller's.
        worst = min(lasting, key=lambda error: not isinstance(error, CorruptData))
        return worst if len(errors) == 1 else type(worst)(message)
    for kind in (DeadlineExceeded, Unavailable):
        if any(isinstance(error, kind) for error in errors):
            return kind(message)
    if any(isinstance(error, NotOwner) for error in errors):
        return Unavailable(message)
    pauses = [error.retry_after_s for error in errors if isinstance(error, LimitExceeded) and error.retry_after_s]
    return LimitExceeded(message, retry_after_s=max(pauses)) if pauses else errors[0]


def _joined(replies: list[tuple[int, PushReply]], others: list[tuple[int, PushReply]]) -> PushResult:
    """Return what became of a push.

    Args:
        others: Answers of shards that have no part of it, with their last stamps.
    """
    stamp: dict[int, int] = {}
    for shard, reply in [*replies, *others]:
        stamp[shard] = max(reply.stamp, stamp.get(shard, 0))
    return PushResult(
        stamp=stamp,
        rows=sum(reply.rows for _, reply in replies),
        new_keys=sum(reply.new_keys for _, reply in replies),
        repeated=sum(reply.repeated for _, reply in replies),
    )
