"""Last stamps of the shards that have no part of a push, so that its stamp says of each up to where pushes came before.

They are asked while the push is on its way, by a push of no keys, which a shard answers behind the pushes that it has
in hand. What one has acknowledged by then is meant, and what comes later is not. A push waits little for that: its
stamp goes without a shard that is slow, or away, and such a shard is not asked again for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Final, Self

from ringpull.ps.errors import RingpullError
from ringpull.ps.no_arrays import no_positions
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from ringpull.router.pushed_rows import PushedRows
from ringpull.router.replicas import Placement
from ringpull.router.shard_map import ShardAddress

STAMP_S: Final = 0.1
"""Time, beyond its own, that a push waits for the stamps of shards that have no part of it."""
NOT_ASKED_S: Final = 5.0
"""Time for which a shard that did not say its stamp is not asked for it."""
_ASKED_S: Final = 1.0

Ask = Callable[[ShardAddress, PushRequest, float], Awaitable[PushReply | RingpullError]]
"""Function that sends a push to a shard, with the time until which it may take."""


class LastStamps:
    """Asks shards for their last stamps. Used in one event loop."""

    def __init__(self, ask: Ask, *, only_live: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._only_live, self._clock = ask, only_live, clock
        self._owners: tuple[Placement, frozenset[int]] | None = None
        self._not_before_s: dict[int, float] = {}

    def beside(self, pushed: PushedRows) -> LastStampsBeside:
        """Return what asks beside a push; on its end it asks no more."""
        return LastStampsBeside(self, pushed)

    def others(self, placement: Placement, shards: Iterable[int]) -> frozenset[int]:
        """Return the shards that own slots but these, and but those that did not answer just now."""
        if self._owners is None or self._owners[0] is not placement:
            self._owners = placement, frozenset(placement.owners[:, 0].tolist())
        others = self._owners[1].difference(shards)
        if others and self._not_before_s:
            now = self._clock()
            self._not_before_s = {shard: until for shard, until in self._not_before_s.items() if until > now}
            others = others.difference(self._not_before_s)
        return others

    async def of(self, shard: int, placement: Placement, pushed: PushedRows) -> tuple[int, PushReply] | None:
        """Return the last stamp of a shard as the answer to a push of no keys; None: it does not say it."""
        request = PushRequest(
            pushed.model, pushed.table, placement.epoch, pushed.lineage, 0, 0, False, no_positions(),
            only_live=self._only_live,
        )  # fmt: skip
        answer = await self._ask(placement.address(shard), request, self._clock() + _ASKED_S)
        if isinstance(answer, PushReply):
            return shard, answer
        self.silent(shard)
        return None

    def silent(self, shard: int) -> None:
        """Ask a shard no more for a while."""
        self._not_before_s[shard] = self._clock() + NOT_ASKED_S


class LastStampsBeside:
    """Last stamps of other shards, asked beside one push."""

    def __init__(self, last_stamps: LastStamps, pushed: PushedRows) -> None:
        self._last_stamps, self._pushed = last_stamps, pushed
        self._asked: dict[asyncio.Task[tuple[int, PushReply] | None], int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._asked or ():
            task.cancel()

    def ask(self, placement: Placement, shards: Iterable[int]) -> None:
        """Ask all shards but these; nothing when it is called again."""
        if self._asked is None:
            self._asked = {
                asyncio.create_task(self._last_stamps.of(shard, placement, self._pushed)): shard
                for shard in self._last_stamps.others(placement, shards)
            }

    async def answers(self) -> list[tuple[int, PushReply]]:
        """Return the shards that have answered, or do so soon, each with its answer."""
        if not self._asked:
            return []
        done, silent = await asyncio.wait(self._asked, timeout=STAMP_S)
        for task in silent:
            self._last_stamps.silent(self._asked[task])
        return [answer for task in done if (answer := task.result()) is not None]
