"""Fenced shard: a shard's process as coordinators call it. Each order is checked before anything is done."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ringpull.ps.fence import Fence, Order
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.ps.placement import NONE_LIVE, ServedRanges, VersionPlacement
from ringpull.ps.process import ShardProcess


class FencedShard:
    """Shard's process behind a fence; what asks nothing of a leader goes through to the process.

    Every method that takes an order raises what `ringpull.ps.fence.Fence.check` does, and then does nothing.

    Args:
        process: The process.
        deployment: Id of the deployment that it belongs to; empty: any.
    """

    def __init__(self, process: ShardProcess, deployment: str = "") -> None:
        self.process = process
        """The process itself, for whoever is no coordinator."""
        self._fence = Fence(deployment, process.heartbeat().incarnation)
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<FencedShard {self.process!r} {self._fence!r}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.process, name)

    def heartbeat(self) -> ShardHeartbeat:
        """See `ShardProcess.heartbeat`."""
        return replace(self.process.heartbeat(), term=self._fence.term)

    def obey(self, order: Order) -> None:
        """See `Fence.obey`. What a lower term has ordered to be prepared is given up: the new one may want less."""
        if self._fence.obey(order):
            self.process.cancel()

    def check(self, order: Order) -> None:
        """See `Fence.check`."""
        self._fence.check(order)

    def prepare(self, order: Order, placements: Sequence[VersionPlacement]) -> None:
        """See `ShardProcess.prepare`."""
        self._fence.check(order, "tables")
        with self._turn:
            # The wait may have been long: by now somebody else may lead, or want something else.
            self._fence.check(order, "tables")
            self.process.prepare(placements)

    def assign(
        self,
        order: Order,
        epoch: int,
        served_ranges: Sequence[ServedRanges],
        versions: Collection[tuple[str, int]],
        pushed: Collection[tuple[str, int, str]] = (),
        live: Mapping[str, int] = NONE_LIVE,
    ) -> None:
        """See `ShardProcess.assign`."""
        with self._fence.obeyed(order, "tables"):
            self.process.assign(epoch, served_ranges, versions, pushed, live)

    def throttle(self, order: Order, bytes_per_s: float | None) -> None:
        """See `ShardProcess.throttle`."""
        with self._fence.obeyed(order, "throttle"):
            self.process.throttle(bytes_per_s)

    def cancel(self, order: Order) -> None:
        """See `ShardProcess.cancel`."""
        with self._fence.obeyed(order, "tables"):
            self.process.cancel()
