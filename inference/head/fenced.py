"""Fenced head: a head's process as coordinators call it. Each order is checked before anything is done."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ringpull.inference.head.catalog import NO_LABELS, Labels
from ringpull.inference.head.process import HeadProcess
from ringpull.ps.fence import Fence, Order
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.shard_map import ShardMap


class FencedHead:
    """Head's process behind a fence; what asks nothing of a leader goes through to the process.

    Every method that takes an order raises what `ringpull.ps.fence.Fence.check` does, and then does nothing.

    Args:
        process: The process.
        deployment: Id of the deployment that it belongs to; empty: any.
    """

    def __init__(self, process: HeadProcess, deployment: str = "") -> None:
        self.process = process
        """The process itself, for whoever is no coordinator."""
        self._fence = Fence(deployment, process.heartbeat().incarnation)
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<FencedHead {self.process!r} {self._fence!r}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.process, name)

    def heartbeat(self) -> HeadHeartbeat:
        """Return how the head is; its lease is as it was."""
        return replace(self.process.heartbeat(), term=self._fence.term)

    def renew(self, order: Order, lease_s: float) -> HeadHeartbeat:
        """Return how the head is, and renew its lease."""
        self._fence.check(order)
        return replace(self.process.heartbeat(lease_s), term=self._fence.term)

    def obey(self, order: Order) -> None:
        """See `Fence.obey`."""
        self._fence.obey(order)

    def check(self, order: Order) -> None:
        """See `Fence.check`."""
        self._fence.check(order)

    def load(self, order: Order, versions: Sequence[PlacedVersion], shard_map: ShardMap) -> None:
        """See `HeadProcess.load`."""
        with self._own_turn(order):
            self.process.load(versions, shard_map)

    def route(
        self,
        order: Order,
        shard_map: ShardMap,
        live: Mapping[str, int],
        versions: Collection[tuple[str, int]],
        labels: Labels = NO_LABELS,
    ) -> None:
        """See `HeadProcess.route`."""
        with self._own_turn(order):
            self.process.route(shard_map, live, versions, labels)

    @contextmanager
    def _own_turn(self, order: Order) -> Iterator[None]:
        """Wait until no other order is being carried out; an order is checked again then, since that may take long."""
        self._fence.check(order, "versions")
        with self._turn:
            self._fence.check(order, "versions")
            yield
