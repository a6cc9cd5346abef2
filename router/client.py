"""The router's only door: one pull becomes one message per shard and comes back as one result per look-up.

A pull goes in rounds. Each cuts what is left into parts by the map of that moment, asks all shards at once, and keeps
what they answered; a part that was refused or lost is cut anew in the next round, over a newer map or other owners.
While a move drains, the owners before it are asked where the new ones do not answer: they still hold their ranges.
Every key is in exactly one answered part, so it counts exactly once. Answers are merged when all are there, in
ascending shard id: equal maps and equal loads give equal bits.

One event loop, no locks: state changes only between awaits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ps.errors import DeadlineExceeded, NotFound, NotOwner, ProtocolError, RingpullError, Unavailable
from ps.spec import Float32Array, OnUnavailable, TableSpec
from ps.wire.messages import PullReply, ShardStatistics, StatisticsRequest
from router.batch import Batch, Int64Array
from router.counters import RouterCounters, Tally
from router.fanout import Connect, Connections
from router.lookup import Lookup, LookupResult
from router.merge import Merge
from router.partition import Part, partition
from router.replicas import Loads, Placement, least_loaded
from router.rounds import Rounds
from router.shard_map import ShardAddress, ShardMap

Refresh = Callable[[], Awaitable[ShardMap]]


@dataclass(frozen=True, slots=True)
class _Table:
    """What a pull needs to know of one table, fetched by name once per look-up."""

    spec: TableSpec
    default: Float32Array


class Router:
    """Pulls rows and pooled bags from the shards of the current map.

    Args:
        connect: Opens a connection to a shard; called when one is first needed, and again after it broke.
        refresh: Fetches the newest map; called when a shard says that ours is out of date. None: maps come by
            `update` only.
    """

    def __init__(self, connect: Connect, *, refresh: Refresh | None = None) -> None:
        self._connections = Connections(connect)
        self._refresh = refresh
        self._refreshing = asyncio.Lock()
        self._rounds = Rounds()
        self._placement: Placement | None = None
        self._served: dict[tuple[str, int], Mapping[str, _Table]] = {}
        self._loads = Loads()
        self._tally = Tally()

    def __repr__(self) -> str:
        epoch = None if self._placement is None else self._placement.epoch
        return f"<Router epoch={epoch} versions={len(self._served)} {self._connections!r} {self._loads!r}>"

    def update(self, shard_map: ShardMap) -> None:
        """Route by a newer map from now on; one that is not newer is ignored. Pulls in flight finish where they are."""
        if self._placement is None or shard_map.epoch > self._placement.epoch:
            self._placement = placement = Placement(shard_map)
            before = () if placement.previous is None else placement.previous.shard_map.shards
            self._connections.want({*shard_map.shards, *before})

    @property
    def epoch(self) -> int:
        """The epoch of the map; 0 before there is one."""
        return 0 if self._placement is None else self._placement.epoch

    async def drained(self, epoch: int) -> None:
        """Wait until no shard is asked by a map older than `epoch` any more."""
        await self._rounds.drained(epoch)

    def register(self, model: str, version: int, specs: Mapping[str, TableSpec]) -> None:
        """Make the tables of a version known, by name."""
        self._served[model, version] = {name: _Table(spec, spec.default_vector()) for name, spec in specs.items()}

    def retire(self, model: str, version: int) -> None:
        """Forget a version; pulls in flight finish.

        Raises:
            NotFound: It is not registered.
        """
        if self._served.pop((model, version), None) is None:
            raise NotFound(f"{model}/{version} is not registered with this router")

    async def pull(
        self, model: str, version: int, lookups: Sequence[Lookup], *, deadline_s: float
    ) -> list[LookupResult]:
        """Pull all look-ups of a micro-batch, in one message per shard.

        Args:
            model: With `version`, names what was registered.
            version: All look-ups are answered from this version, or none.
            lookups: Their arrays are copied at once and not referred to afterwards.
            deadline_s: Absolute, `time.monotonic()` seconds.

        Returns:
            One result per look-up, in their order. The arrays are the caller's.

        Raises:
            NotFound: The version or a table is not registered.
            InvalidInput: A look-up's arrays do not fit each other.
            DeadlineExceeded: Not everything was answered in time.
            Unavailable: No live shard could answer for some keys of a table whose policy is `error`, or there is no
                map yet.
        """
        self._tally.pulls += 1
        try:
            results = await self._pull(model, version, lookups, deadline_s)
        except BaseException:
            self._tally.failed += 1
            raise
        self._tally.looked_up(model, version, lookups, results)
        return results

    async def _pull(self, model: str, version: int, lookups: Sequence[Lookup], deadline_s: float) -> list[LookupResult]:
        tables = self._tables(model, version, lookups)
        batch = Batch.of(lookups)
        merge = Merge(batch, np.array([table.spec.dim for table in tables], np.int64))
        answered: list[tuple[Part, PullReply]] = []
        lost: list[Part] = []
        down: dict[ShardAddress, RingpullError] = {}
        left = [batch]
        while left:
            current = self._current()
            parts, given_up = self._parts(left, current, model, batch.tables, down)
            _check_may_be_lost(given_up, tables, down)
            lost += given_up
            with self._rounds.by(current.epoch):
                outcomes = await asyncio.gather(
                    *[self._ask(placement, part, merge, model, version, deadline_s) for placement, part in parts]
                )
            left = []
            refused: dict[ShardAddress, RingpullError] = {}
            for (placement, part), outcome in zip(parts, outcomes, strict=True):
                assert part.shard is not None
                if isinstance(outcome, PullReply):
                    answered.append((part, outcome))
                    continue
                # A version that is registered here and not open there was retired: the shard is ahead of us.
                if isinstance(outcome, NotOwner | NotFound):
                    refused[placement.addresses[part.shard]] = outcome
                elif isinstance(outcome, Unavailable):
                    down[placement.addresses[part.shard]] = outcome
                else:
                    raise outcome
                left.append(part.again())
            if refused and not await self._renewed(current.epoch, deadline_s):
                # The map we have is the newest there is, and its owner does not answer: as good as down.
                down |= refused
        # Sorting is stable: what a shard answered in a later round comes after what it answered before.
        for part, reply in sorted(answered, key=lambda pair: pair[0].shard or 0):
            merge.add(part, reply)
        for part in lost:
            merge.add_lost(part, [table.default for table in tables])
        return merge.results()

    def _tables(self, model: str, version: int, lookups: Sequence[Lookup]) -> list[_Table]:
        served = self._served.get((model, version))
        if served is None:
            raise NotFound(f"{model}/{version} is not registered with this router")
        try:
            return [served[lookup.table] for lookup in lookups]
        except KeyError as exc:
            raise NotFound(f"{model}/{version} has no table {exc}; it has {sorted(served)}") from None

    def _current(self) -> Placement:
        if self._placement is None:
            raise Unavailable("this router has no shard map yet")
        return self._placement

    def _parts(
        self,
        batches: Sequence[Batch],
        current: Placement,
        model: str,
        tables: Sequence[str],
        down: Mapping[ShardAddress, RingpullError],
    ) -> tuple[list[tuple[Placement, Part]], list[Part]]:
        """Cut batches into parts with someone to ask, each with the map it goes by, and parts with nobody left."""
        parts: list[tuple[Placement, Part]] = []
        placement: Placement | None = current
        while placement is not None:
            cut = self._partition(batches, placement, placement.replicas(model, tables), down)
            parts += [(placement, part) for part in cut if part.shard is not None]
            given_up = [part for part in cut if part.shard is None]
            batches, placement = [part.again() for part in given_up], placement.previous
        return parts, given_up

    def _partition(
        self,
        batches: Sequence[Batch],
        placement: Placement,
        replicas: Int64Array,
        down: Mapping[ShardAddress, RingpullError],
    ) -> list[Part]:
        waiting = self._loads.waiting(placement, down)
        whole = least_loaded(waiting)
        return [part for batch in batches for part in partition(batch, replicas, whole, placement.owners, waiting)]

    async def _ask(
        self, placement: Placement, part: Part, merge: Merge, model: str, version: int, deadline_s: float
    ) -> PullReply | RingpullError:
        """Ask the shard of a part, and return its answer, checked, or what went wrong."""
        assert part.shard is not None
        request = part.request(model, version, placement.epoch)
        self._tally.sent(request)
        self._loads.add(part.shard, part.positions.size)
        try:
            reply = await self._connections.ask(placement.addresses[part.shard], request, deadline_s=deadline_s)
            if not isinstance(reply, PullReply):
                return ProtocolError(f"shard {part.shard} answered a pull with {type(reply).__name__}")
            merge.check(part, reply)
            self._tally.received(reply)
            return reply
        except NotOwner as exc:
            self._tally.not_owner += 1
            return exc
        except Unavailable as exc:
            self._tally.unavailable += 1
            return exc
        except RingpullError as exc:
            return exc
        finally:
            self._loads.add(part.shard, -part.positions.size)

    async def _renewed(self, epoch: int, deadline_s: float) -> bool:
        """Try to get a map newer than `epoch`; return whether there is one. Pulls that need one share the fetch."""
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()), self._refreshing:
                if self._refresh is not None and self._current().epoch <= epoch:
                    self.update(await self._refresh())
        except TimeoutError as exc:
            raise DeadlineExceeded("no newer shard map came in time") from exc
        except RingpullError:
            # Nobody to ask: predictions outlive the coordinator, with the map that is there.
            return False
        return self._current().epoch > epoch

    async def statistics(self, *, deadline_s: float) -> dict[int, ShardStatistics | RingpullError]:
        """Ask every shard of the map for its numbers; an error stands for a shard that did not answer."""

        async def ask(address: ShardAddress) -> ShardStatistics | RingpullError:
            try:
                reply = await self._connections.ask(address, StatisticsRequest(), deadline_s=deadline_s)
            except RingpullError as exc:
                return exc
            if not isinstance(reply, ShardStatistics):
                return ProtocolError(f"shard {address.shard} answered statistics with {type(reply).__name__}")
            return reply

        shards = self._current().shard_map.shards
        replies = await asyncio.gather(*[ask(address) for address in shards])
        return {address.shard: reply for address, reply in zip(shards, replies, strict=True)}

    def counters(self) -> RouterCounters:
        """Return what this router has done so far."""
        return self._tally.counters()

    async def close(self) -> None:
        """Close all connections. Pulls in flight fail."""
        await self._connections.close()


def _check_may_be_lost(
    parts: Sequence[Part], tables: Sequence[_Table], down: Mapping[ShardAddress, RingpullError]
) -> None:
    """Raise when keys without a live owner are of a table whose policy does not allow that."""
    refusing = sorted(
        {
            tables[index].spec.name
            for part in parts
            for index in part.asked()
            if tables[index].spec.on_unavailable is OnUnavailable.ERROR
        }
    )
    if refusing:
        causes = "; ".join(f"shard {address.shard}: {error}" for address, error in down.items())
        raise Unavailable(f"no live shard could answer for keys of {', '.join(refusing)} ({causes})")
