"""The router's only door: one pull becomes one message per shard and comes back as one result per look-up.

Every key is in exactly one answer, so it counts exactly once (see `scatter_gather.py`). Answers are merged when all
are there, in ascending shard id: equal maps and equal loads give equal bits.

One event loop, no locks: state changes only between awaits.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy

import numpy as np

from ringpull.ps.errors import DeadlineExceeded, LimitExceeded, NotFound, ProtocolError, RingpullError
from ringpull.ps.identity import number_of
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.spec import TableSpec
from ringpull.ps.wire.messages import Reply, Request, ShardStatistics, StatisticsRequest
from ringpull.router.backoff import Backoff
from ringpull.router.batch import Batch, Int64Array
from ringpull.router.connections import Connect, Connections, ShardConnection
from ringpull.router.counters import RouterCounters, Tally
from ringpull.router.health import Health
from ringpull.router.here import LAYERS, FilesHere, is_here
from ringpull.router.in_flight import InFlightByEpoch
from ringpull.router.lookup import Lookup, LookupResult
from ringpull.router.merge import FlatResults, Merge
from ringpull.router.partition import Part
from ringpull.router.pull import Pull, RegisteredTable, RegisteredVersion
from ringpull.router.pushed_rows import PushedRows, PushResult
from ringpull.router.pushing import Pushing
from ringpull.router.route_planning import RoutePlanner
from ringpull.router.routes import Refresh, Routes
from ringpull.router.scan import Scan
from ringpull.router.scatter_gather import Answer, ScatterGather
from ringpull.router.settings import RouterSettings
from ringpull.router.shard_calls import ShardCalls
from ringpull.router.shard_map import MapEdition, ShardAddress, ShardMap
from ringpull.router.top_k import TopKQuery, TopKResult
from ringpull.router.top_k_merge import merge_bytes, merged


class Router:
    """Pulls rows and pooled bags from the shards of the current map.

    Args:
        connect: Opens a connection to a shard; called when one is first needed, and again after it broke.
        refresh: Fetches the newest map; called when a shard says that ours is out of date, or is not where it should
            be. None: maps come by `update` only.
        settings: How patient it is.
        deployment: Id of the deployment whose maps it takes; empty: any.
        local: What can be answered here, without a shard; None: nothing.
        clock: Seconds; deadlines are on this clock. Waits are the event loop's.
        rng: Where the jitter of waits comes from.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        refresh: Refresh | None = None,
        settings: RouterSettings | None = None,
        deployment: str = "",
        local: FilesHere | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._as_exported = False
        self._local = local
        self._settings = chosen = RouterSettings() if settings is None else settings
        self._clock = clock
        self._tally = Tally()
        backoff = Backoff(chosen.backoff_first_s, chosen.backoff_max_s, random.Random() if rng is None else rng)
        self._connections = Connections(_with_layers(connect, local), backoff, clock=clock)
        self._health = Health(chosen, self._connections, backoff, self._tally, clock=clock)
        self._calls = ShardCalls(self._connections, self._health, self._tally, chosen, clock=clock)
        self._routes = Routes(refresh, self._want, deployment=deployment, clock=clock)
        self._planner = RoutePlanner(self._routes, self._health, self._calls.loads)
        self._scan_calls = ShardCalls(
            self._connections, self._health, self._tally, chosen.for_scans(), clock=clock, tells_health=False
        )
        self._scan_planner = RoutePlanner(self._routes, self._health, self._scan_calls.loads)
        self._in_flight = InFlightByEpoch()
        self._pushing = Pushing(self._routes, self._connections, self._in_flight, clock=clock)
        self._served: dict[tuple[str, int], RegisteredVersion] = {}

    def __repr__(self) -> str:
        return (
            f"<Router epoch={self.epoch} versions={len(self._served)} {self._connections!r} {self._health!r}"
            f" {self._calls!r}>"
        )

    def uncounted(self) -> Router:
        """Return a view of this router whose pulls are in none of its counts: those that no request asked for.

        They are of shards, whatever is here: what is to be found out is whether those answer, and what. It is asked for
        rows as they were exported, which samples are of: pushes since then change others.
        """
        view = copy(self)
        view._as_exported = True
        view._local = None
        view._tally = Tally()
        view._calls = self._calls.counted_by(view._tally)
        view._scan_calls = self._scan_calls.counted_by(view._tally)
        return view

    def update(self, shard_map: ShardMap) -> bool:
        """Route by a newer map from now on; return whether it is newer. Pulls in flight finish where they are."""
        return self._routes.update(shard_map)

    async def refresh(self) -> None:
        """Fetch the newest map, and route by it.

        Raises:
            RingpullError: Nobody answers.
        """
        await self._routes.refresh()

    @property
    def shard_map(self) -> ShardMap:
        """The map.

        Raises:
            Unavailable: There is none yet.
        """
        return self._routes.current().shard_map

    @property
    def deployment(self) -> str:
        """Id of the deployment whose shards are meant: its own, or else that of the map; empty: any."""
        return self._routes.deployment

    @property
    def edition(self) -> MapEdition:
        """The edition of the map; `NO_MAP` before there is one."""
        return self._routes.edition

    @property
    def epoch(self) -> int:
        """The epoch of the map; 0 before there is one."""
        return self._routes.edition.epoch

    async def drained(self, epoch: int) -> None:
        """Wait until no shard is asked by a map older than `epoch` any more."""
        await self._in_flight.drained(epoch)

    def register(self, model: str, version: int, specs: Mapping[str, TableSpec], *, identity: str = "") -> None:
        """Make the tables of a version known, by name.

        Args:
            identity: Identity of the version, which every pull names; empty: not known.
        """
        tables = {name: RegisteredTable(spec, spec.default_vector()) for name, spec in specs.items()}
        self._served[model, version] = RegisteredVersion(number_of(identity), tables)

    def retire(self, model: str, version: int) -> None:
        """Forget a version; pulls in flight finish.

        Raises:
            NotFound: It is not registered.
        """
        if self._served.pop((model, version), None) is None:
            raise NotFound(f"{model}/{version} is not registered with this router")

    async def pull(
        self, model: str, version: int, lookups: Sequence[Lookup], *, deadline_s: float, max_reply_bytes: int = 0
    ) -> Sequence[LookupResult]:
        """Pull all look-ups of a micro-batch, in one message per shard.

        Args:
            model: With `version`, names what was registered.
            version: All look-ups are answered from this version, or none.
            lookups: Their arrays are copied at once and not referred to afterwards.
            deadline_s: Absolute, `time.monotonic()` seconds.
            max_reply_bytes: Most bytes of rows of bytes; no shard sends more, and no more are put together. 0: any.

        Returns:
            One result per look-up, in their order. The arrays are the caller's.

        Raises:
            NotFound: The version or a table is not registered.
            InvalidInput: A look-up's arrays do not fit each other, or it pools rows of bytes.
            LimitExceeded: Rows of bytes have more than `max_reply_bytes`.
            DeadlineExceeded: Not everything was answered in time.
            Unavailable: No live shard could answer, or said anything, in time for some keys of a table whose policy is
                `error`, or there is no map yet.
        """
        self._tally.pulls += 1
        try:
            results, here = await self._pull(model, version, lookups, deadline_s, max_reply_bytes)
        except BaseException:
            self._tally.failed += 1
            raise
        self._tally.looked_up(model, lookups, results, here)
        return results

    async def top_k(self, model: str, version: int, query: TopKQuery, *, deadline_s: float) -> TopKResult:
        """Return the rows of a table with the largest scores, exactly, of each query.

        Args:
            deadline_s: Absolute, `time.monotonic()` seconds.

        Raises:
            NotFound: The version or the table is not registered.
            InvalidInput: Queries do not fit the table, or its rows are bytes.
            LimitExceeded: Too much is asked at once.
            DeadlineExceeded: Not all rows were looked at in time.
            Unavailable: No live shard could answer for some slots of a table whose policy is `error`.
        """
        self._tally.pulls += 1
        try:
            return await self._top_k(model, version, query, deadline_s)
        except BaseException:
            self._tally.failed += 1
            raise

    async def push(self, pushed: PushedRows, *, deadline_s: float) -> PushResult:
        """Have rows written, or keys removed; return when every shard concerned has acknowledged its part.

        A push that fails may have been applied in part. Pushed again under the same number, each part applies once.

        Args:
            deadline_s: Absolute, `time.monotonic()` seconds.

        Raises:
            StaleNumber: Its writer has sent a larger number since, to a shard that took the rest.
            UnmetCondition: No shard has a version of the lineage, or the table takes no pushes.
            InvalidInput: Rows do not fit the table.
            LimitExceeded: Too much comes at once, or from too many writers.
            DeadlineExceeded: Not all was acknowledged in time.
            Unavailable: A shard takes none now, or does not answer. The message says which, and of how many keys.
        """
        if deadline_s <= self._clock():
            raise DeadlineExceeded("no time was left to push")
        return await self._pushing.push(pushed, deadline_s=deadline_s)

    def top_k_bytes(self, rows: int, queries: int, k: int) -> int:
        """Return the memory that a top-k over a table of so many rows takes at most until shards' replies are merged.

        Raises:
            Unavailable: There is no map yet.
        """
        return merge_bytes(len(self.shard_map.shards), rows, queries, k)

    async def _top_k(self, model: str, version: int, query: TopKQuery, deadline_s: float) -> TopKResult:
        now_s = self._clock()
        if deadline_s <= now_s:
            raise DeadlineExceeded("no time was left to ask the shards")
        served = self._version(model, version)
        table = served.tables.get(query.table)
        if table is None:
            raise NotFound(f"{model}/{version} has no table {query.table!r}; it has {sorted(served.tables)}")
        query.check(table.spec)
        answer_by_s = self._settings.answer_by_s(now_s, deadline_s)
        scan = Scan(model, version, table.spec, query, answer_by_s, served.identity)
        answers = await ScatterGather(scan, self._scan_planner, self._scan_calls, self._in_flight).answers()
        replies = [reply for _, reply in answers if reply is not None]
        lost = sum(part.size for part, reply in answers if reply is None)
        return merged(replies, len(query.vectors), query.k, lost=lost, epoch=self.epoch)

    async def _pull(
        self, model: str, version: int, lookups: Sequence[Lookup], deadline_s: float, max_reply_bytes: int
    ) -> tuple[FlatResults, Int64Array | None]:
        """Return the results, and how many keys of each look-up were answered here; None: none was."""
        now_s = self._clock()
        if deadline_s <= now_s:
            raise DeadlineExceeded("no time was left to ask the shards")
        served = self._version(model, version)
        tables, dims = served.asked(f"{model}/{version}", lookups)
        batch, local = Batch.of(lookups), self._local
        pull = Pull(
            model,
            version,
            batch,
            tables,
            dims,
            self._settings.answer_by_s(now_s, deadline_s),
            served.identity,
            max_reply_bytes,
            None if local is None else local.here(model, version, served.identity, batch.tables),
            self._as_exported,
        )
        answers = await ScatterGather(pull, self._planner, self._calls, self._in_flight).answers()
        own = [part.keys for part, reply in answers if reply is not None and is_here(part.shard)]
        return _merged(pull, answers), np.sum(own, axis=0) if own else None

    def _version(self, model: str, version: int) -> RegisteredVersion:
        served = self._served.get((model, version))
        if served is None:
            raise NotFound(f"{model}/{version} is not registered with this router")
        return served

    def addresses(self) -> Sequence[ShardAddress]:
        """Return the shards of the map; none before there is one."""
        return self.shard_map.shards if self.epoch else ()

    async def ask(self, address: ShardAddress, request: Request, *, deadline_s: float) -> Reply:
        """Ask one shard something that is no pull, over the connection that pulls go over. It is not counted.

        Raises:
            RingpullError: It does not answer, or with an error.
        """
        return await self._connections.ask(address, request, deadline_s=deadline_s)

    async def statistics(self, *, deadline_s: float) -> dict[int, ShardStatistics | RingpullError]:
        """Ask every shard of the map for its numbers; an error stands for a shard that did not answer."""

        async def ask(address: ShardAddress) -> ShardStatistics | RingpullError:
            try:
                reply = await self.ask(address, StatisticsRequest(), deadline_s=deadline_s)
            except RingpullError as exc:
                return exc
            if not isinstance(reply, ShardStatistics):
                return ProtocolError(f"shard {address.shard} answered statistics with {type(reply).__name__}")
            return reply

        shards = self.shard_map.shards
        replies = await asyncio.gather(*[ask(address) for address in shards])
        return {address.shard: reply for address, reply in zip(shards, replies, strict=True)}

    def counters(self) -> RouterCounters:
        """Return what this router has done so far."""
        return self._tally.counters()

    async def close(self) -> None:
        """Close all connections. Pulls in flight fail."""
        self._routes.close()
        self._health.close()
        await self._connections.close()

    def _want(self, addresses: frozenset[ShardAddress]) -> None:
        if self._local is not None:
            addresses = addresses.union(LAYERS)
        self._connections.want(addresses)
        self._health.want(addresses)


def _with_layers(connect: Connect, local: FilesHere | None) -> Connect:
    """Return what opens connections to shards, and to the layers of what is here."""
    if local is None:
        return connect

    async def opened(address: ShardAddress) -> ShardConnection:
        return local.connection(address.port) if is_here(address.shard) else await connect(address)

    return opened


def _merged(pull: Pull, answers: Sequence[Answer[Part, PullReply]]) -> FlatResults:
    if pull.max_reply_bytes:
        nbytes = sum(reply.data.nbytes for _, reply in answers if reply is not None)
        if nbytes > pull.max_reply_bytes:  # before they are copied once more
            raise LimitExceeded(f"pull: the answers have {nbytes} bytes; the limit is {pull.max_reply_bytes}")
    merge = Merge(pull.batch, pull.dims)
    lost: list[Part] = []
    # Sorting is stable: what a shard was asked later comes after what it was asked before.
    for part, reply in sorted(answers, key=_by_shard):
        if reply is None:
            lost.append(part)
        else:
            merge.add(part, reply)
    for part in lost:
        merge.add_lost(part, [table.default for table in pull.tables])
    return merge.results()


def _by_shard(answer: Answer[Part, PullReply]) -> int:
    return answer[0].shard or 0
