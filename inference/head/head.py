"""The head: versions, router, gRPC and HTTP put together on one event loop.

It is led in three steps, each of which can be repeated: `load` has versions here and checked, `route` lets requests see
them and goes by a shard map, the first time also opening the ports: so what can be reached can serve. `heartbeat` says
how it is, and renews its lease. Stopping goes the other way round; what is in flight is answered first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Final, NamedTuple

from ringpull.inference.degrade.degrader import Degrader, following_pressure
from ringpull.inference.head.audit import Audited, AuditLog
from ringpull.inference.head.catalog import NO_LABELS, Catalog, Labels, ServedVersion, VersionName
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.counts import DeploymentCounts, traffic_of
from ringpull.inference.head.dense_threads import DenseThreads
from ringpull.inference.head.frontends.door import folders_of
from ringpull.inference.head.frontends.http.head_metrics import HeadMetrics
from ringpull.inference.head.frontends.operators import Operators
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.status import HeadView, cluster_status, head_status, name_of
from ringpull.inference.head.frontends.ways_in import WaysIn
from ringpull.inference.head.leadership import LeaderView
from ringpull.inference.head.lease import Lease
from ringpull.inference.head.local_reads.local_reads import LocalReads
from ringpull.inference.head.metrics.call_tally import CallTally
from ringpull.inference.head.metrics.call_watch import CallWatch
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.head.root_watch import RootWatch
from ringpull.inference.head.selfcheck import self_check
from ringpull.inference.head.tokens.tokens import Tokens
from ringpull.inference.head.watch import Watch, watching
from ringpull.inference.model.mirror import Mirror
from ringpull.inference.model.model_dir import parent_of
from ringpull.inference.model.samples import Samples
from ringpull.inference.model.script_maker import ScriptMaker
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import CorruptData, NotChecked, Replaced, RingpullError, Unavailable
from ringpull.ps.identity import differ, number_of
from ringpull.ps.refusals import Refusals
from ringpull.ps.tls import LiveTls, warnings_of
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.messages import Hello
from ringpull.router.client import Router
from ringpull.router.control.change import Kind
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.control.operations import Asker, GetChange, Operations
from ringpull.router.shard_map import ShardAddress, ShardMap

logger: Final = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 30.0
"""Time for each pull of the self-check of a version, which may wait for pages from disk."""
CHECK_TRIES: Final = 3
"""Number of tries of a head that serves nothing yet to ask the shards for a version's samples."""
ASK_TIMEOUT_S: Final = 2.0
"""Time for the coordinator to say what is under way."""
CHECK_AGAIN_S = 30.0
"""Pause before the self-check of a version that is served without it is tried again."""


class HeadAddress(NamedTuple):
    """The address that a head listens on."""

    host: str
    grpc_port: int
    http_port: int
    admin: str = ""
    """Address of the operators' door, `unix:/PATH` or HOST:PORT; empty: there is none."""


async def connect(address: ShardAddress, deployment: str = "", tls: LiveTls | None = None) -> Connection:
    """Open the data plane's connection to a shard of a deployment."""
    hello = Hello(deployment, address.shard, address.incarnation)
    return await Connection.connect(address.host, address.port, hello=hello, tls=tls)


class Head:
    """One inference head, on the loop that made it."""

    def __init__(
        self,
        config: HeadConfig,
        operations: Operations | None = None,
        *,
        cache_dir: Path | None = None,
        deployment: str = "",
        head: int = 0,
        replaced: Callable[[str], None] = lambda reason: None,
        state: Callable[[], Path] | None = None,
    ) -> None:
        """Prepare a head that serves nothing yet.

        Args:
            operations: The way to the coordinator; None: whoever made the head leads it.
            cache_dir: This head's own folder for what it reads of versions at URLs; None: a temporary one.
            deployment: Id of the deployment, whose maps it takes and whose shards it means; empty: any.
            head: Its number.
            replaced: Called, with the reason, when the coordinator says that another process is this head by now.
            state: Returns the state folder, for the socket of operators; None: it is below the temporary one.
        """
        self.config = config
        self._tls = LiveTls.of(config.tls)
        self._audit = AuditLog(None if config.audit_log is None else Path(config.audit_log), head)
        self._tokens = Tokens(config.tokens) if config.tokens.asked else None
        self._mirror = Mirror(cache_dir)
        self._operations = operations
        self._operators = Operators(operations, self._audit)
        self._incarnation = token_hex(8)
        self._asker = Asker(head, self._incarnation)
        self._door_folders = folders_of(deployment or self._incarnation, state)
        self._replaced = replaced
        self._local = LocalReads(config.local_reads)
        self._router = Router(
            self._connect,
            refresh=None if operations is None else self._newest_map,
            settings=config.router,
            deployment=deployment,
            local=self._local.files,
        )
        self._local.begin(self._router)
        self._lease = Lease(self._router.refresh)
        self._keeping = asyncio.create_task(self._lease.keep())
        self._rereading = None if self._tokens is None else asyncio.create_task(self._tokens.follow())
        self._started_s = time.monotonic()
        # Of its own, so that a coordinator that hangs holds up nobody who waits for a file.
        self._asking = ThreadPoolExecutor(1, "coordinator")
        self._scripts = ScriptMaker()
        self._catalog = Catalog()
        self._metrics = self._new_metrics() if config.metrics else None
        self._tally = CallTally(self._router.counters, here=self._local.keys)
        watch = CallWatch(None if self._metrics is None else self._metrics.calls, tally=self._tally)
        self._predictor = Predictor(self._catalog, config, watch=watch, access=self._tokens)
        self._dense = DenseThreads(config, self._predictor.has_one_call)
        self._counts = DeploymentCounts(self._tally, self._asker, operations, self.loaded)
        self._leading = asyncio.Lock()
        self._unasked: Counter[VersionName] = Counter()
        """Self-checks of each version that could not be made, as rows could not be had."""
        self._unchecked: dict[VersionName, str] = {}
        """Versions that are served without their self-check, with the reason of each."""
        self._checking: asyncio.Task[None] | None = None
        self._refused: dict[VersionName, str] = {}
        """Versions that could not be loaded, with the reason of each."""
        self._address: HeadAddress | None = None
        self._ways_in: WaysIn | None = None
        self._watch: Watch | None = None
        self._root_watch: RootWatch | None = None
        self._watching: asyncio.Task[None] | None = None
        self._degrading: asyncio.Task[None] | None = None

    def _new_metrics(self) -> HeadMetrics:
        return HeadMetrics(self.config, self._catalog, self._router, self._operations, self.leader, self._tls)

    def __repr__(self) -> str:
        return f"Head({self._address}, epoch {self._router.epoch}, {self._catalog!r}, {self._predictor.counts})"

    # -- how it is led -------------------------------------------------------------------------------------------------

    async def load(self, versions: Sequence[PlacedVersion | str | Path], shard_map: ShardMap) -> None:
        """Have these versions here, rehearsed, and checked against the shards.

        Those that are here already, with the same content, are left as they are, and no file of theirs is needed. One
        that cannot be loaded holds up no other one.

        Args:
            versions: Versions as they are placed, or the folder `NAME/VERSION/` or URL of each.
            shard_map: To check them by, unless the head has a newer one.

        Raises:
            InvalidInput: A folder is not there.
            OtherContent: A version has other content than it was placed with.
            CorruptData: A version is half-written, damaged, or answers wrongly.
            NotChecked: Its samples could not be looked up.
            RingpullError: The shards could not be asked.
            NotOpened: Any of these, for some of several versions.
        """
        refusals = Refusals()
        async with self._leading:
            # Also where it has one: the shards of that may all have died meanwhile, and be elsewhere.
            self._router.update(shard_map)
            for version in versions:
                if not isinstance(version, PlacedVersion):
                    await self._load(str(version), None)
                    continue
                with refusals.of(version.model, version.version):
                    await self._load(version.folder, version)
        self._refused |= {name: str(error) for name, error in refusals.errors.items()}
        refusals.check(len(versions))

    async def route(
        self,
        shard_map: ShardMap,
        live: Mapping[str, int],
        versions: Collection[VersionName],
        labels: Labels = NO_LABELS,
    ) -> HeadAddress:
        """Go by this map and show these versions, in one turn of the loop; return when nothing goes by older ones.

        Versions that are not named take no new requests, answer those they have, and are let go of. The first time,
        the ports are opened.

        Raises:
            InvalidInput: A version is not loaded.
            StartupError: A port cannot be used.
        """
        async with self._leading:
            if shard_map.edition >= self._router.edition:
                leaving = self._catalog.show(live, versions, self._refused, labels)
                self._refused = {name: reason for name, reason in self._refused.items() if name in versions}
                for each in leaving:
                    logger.info("version let go", extra={"model": each.key[0], "version": each.key[1]})
                self._router.update(shard_map)
                await asyncio.gather(*[self._let_go(version) for version in leaving])
            await self._router.drained(shard_map.epoch)
            if self._address is None:
                self._address = await self._listen()
                logger.info("head listens", extra=self._address._asdict())
            await asyncio.to_thread(self._mirror.keep, [each.loaded.source for each in self._catalog.loaded()])
            self._begin_watching()
            return self._address

    def heartbeat(self, lease_s: float | None = None) -> HeadHeartbeat:
        """Say how the head is; renew the lease if it is said for how long."""
        if lease_s is not None:
            self._lease.renew(lease_s)
        address = self._address or HeadAddress(self.config.host, 0, 0)
        p50_ms, p99_ms = self._predictor.latencies.percentiles_ms()
        return HeadHeartbeat(
            incarnation=self._incarnation,
            host=address.host,
            grpc_port=address.grpc_port,
            http_port=address.http_port,
            epoch=self._router.epoch,
            versions=tuple(self.loaded()),
            requests=self._predictor.counts.requests,
            failed=self._predictor.counts.failed,
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            traffic=traffic_of(self._router.counters()),
            metrics_port=0 if self._metrics is None else self._metrics.port,
            warnings=self._warnings(),
            counts=self._tally.news(),
            admin=address.admin,
        )

    def _warnings(self) -> tuple[str, ...]:
        refused = [
            f"{model}/{version} is not served: {reason}" for (model, version), reason in sorted(self._refused.items())
        ]
        unchecked = [
            f"{model}/{version} is served without its self-check, which is tried again: {reason}"
            for (model, version), reason in sorted(self._unchecked.items())
        ]
        door = None if self._ways_in is None else self._ways_in.door
        closed = () if door is None or not door.warning else (door.warning,)
        watches = [each for each in (self._watch, self._root_watch) if each is not None]
        watched = [warning for each in watches for warning in each.warnings]
        asked = () if self._tokens is None else self._tokens.warnings
        others = (*asked, *self._local.warnings, *warnings_of(self._tls), *closed, *self._audit.warnings)
        return (*refused, *unchecked, *watched, *others)

    def leader(self) -> LeaderView | None:
        """Return the coordinator as this head hears it; None where nobody is to lead it."""
        heard_s = self._lease.heard_s
        if heard_s is None and self._operations is None:
            return None
        term = max(0, self._router.edition.term)
        if heard_s is None:
            return LeaderView(term, time.monotonic() - self._started_s, ever_heard=False)
        return LeaderView(term, heard_s)

    def loaded(self) -> list[VersionName]:
        """Return every version that is here."""
        return [each.key for each in self._catalog.loaded()]

    async def stop(self, timeout_s: float) -> None:
        """Take no new calls, answer those in flight within `timeout_s`, and close everything."""
        logger.info("head stops", extra={"within_s": timeout_s})
        for task in (self._keeping, self._rereading, self._watching, self._degrading, self._checking):
            if task is not None:
                task.cancel()
        self._scripts.stop()
        # gRPC first: whatever else stopped before it would refuse calls that another head could have answered.
        if self._ways_in is not None:
            await self._ways_in.stop(timeout_s)
        await asyncio.gather(*(served.close(0) for served in self._catalog.loaded()))
        if self._ways_in is not None:
            await self._ways_in.http.stop()
        if self._metrics is not None:
            await self._metrics.stop()
        await self._router.close()
        self._local.close()
        self._dense.close()
        self._asking.shutdown(wait=False)
        self._operators.close()
        self._counts.close()
        self._mirror.close()
        # Last: what is carried out yet, or published by a look that has begun, is told of.
        await self._audit.written()
        self._audit.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    async def _load(self, folder: str, placed: PlacedVersion | None) -> None:
        began_s = time.monotonic()
        identity = "" if placed is None else placed.identity
        if placed is not None and await self._has(placed):
            return
        # Newer versions appear where it was found, not where links have led to.
        source = f"{placed.found_in}/{placed.version}" if placed is not None and placed.found_in else folder
        files = await asyncio.to_thread(self._mirror.local, folder, identity)
        options = {**self.config.dense_program, "parts": self._dense.parts}
        options["like"] = [each.loaded for each in self._catalog.loaded()]
        if self._address is not None:  # else nobody waits, and it is there sooner without another process
            options["maker"] = self._scripts
        loaded = await asyncio.to_thread(LoadedVersion.load, files, source=source, identity=identity, **options)
        key = (loaded.manifest.model, loaded.manifest.version)
        if self._catalog.find(key) is not None:
            return
        served = await asyncio.to_thread(
            ServedVersion,
            loaded,
            self._router,
            self._dense.executor,
            max_batch_rows=self.config.max_batch_rows,
            max_pulls=self.config.max_pulls,
            batch_rows=None if self._metrics is None else self._metrics.calls.serves(key[0]).batch_rows,
            thresholds=self.config.degrade_thresholds,
            live=() if placed is None else placed.live_tables,
        )
        self._router.register(*key, loaded.specs(), identity=loaded.manifest.identity)
        try:
            await self._local.learn(*key, loaded.manifest.identity)
            if loaded.samples is not None:
                await self._check(served, loaded.samples)
        except BaseException:
            self._local.forget(*key)
            self._router.retire(*key)
            raise
        self._catalog.add(served)
        self._tally.loaded(*key)
        self._refused.pop(key, None)
        took_s = time.monotonic() - began_s
        logger.info("version loaded", extra={"model": key[0], "version": key[1], "took_s": round(took_s, 3)})

    async def _has(self, placed: PlacedVersion) -> bool:
        """Return whether a version is here. One of its number that has another content makes room for it: that was let
        go of, which this head has not heard, and shards have it no more."""
        there = self._catalog.find((placed.model, placed.version))
        if there is None:
            return False
        if not differ(number_of(there.loaded.manifest.identity), number_of(placed.identity)):
            return True
        self._catalog.remove(there, "it is being exchanged for another content")
        await self._let_go(there)
        return False

    async def _check(self, served: ServedVersion, samples: Samples) -> None:
        """Hold a version against its samples.

        A head that has just been started may find rows lost for good, of a version that is live: after some tries it
        serves what is left, as the other heads do, says so, and tries again. A version that is published is not live
        before all can be asked, and neither is the first one of a deployment.
        """
        try:
            await self_check(served, samples, self._router.uncounted(), CHECK_TIMEOUT_S)
        except Unavailable as exc:
            self._unasked[served.key] += 1
            if self._address is not None or self._unasked[served.key] < CHECK_TRIES or await self._is_brought_up():
                raise NotChecked(str(exc)) from exc
            logger.warning("%s is served without its self-check: %s", served.loaded.name, exc)
            self._unchecked[served.key] = str(exc)
            if self._checking is None or self._checking.done():
                self._checking = asyncio.create_task(self._check_again())
        self._unasked.pop(served.key, None)

    async def _is_brought_up(self) -> bool:
        """Whether this deployment serves nothing yet, as far as the coordinator can be asked."""
        if self._operations is None:
            return False
        ask = partial(self._operations.call, GetChange(), within_s=ASK_TIMEOUT_S)
        try:
            change = await asyncio.get_running_loop().run_in_executor(self._asking, ask)
        except RingpullError:
            return False
        return change.under_way and change.kind is Kind.BRING_UP

    async def _check_again(self) -> None:
        """Make up for the self-checks that could not be made, again and again until all are."""
        while self._unchecked:
            await asyncio.sleep(CHECK_AGAIN_S)
            for key in list(self._unchecked):
                served = self._catalog.find(key)
                try:
                    if served is not None and served.loaded.samples is not None:
                        await self_check(served, served.loaded.samples, self._router.uncounted(), CHECK_TIMEOUT_S)
                except CorruptData as exc:
                    assert served is not None
                    await self._refuse(served, str(exc))
                except RingpullError as exc:
                    self._unchecked[key] = str(exc)
                    continue
                self._unchecked.pop(key, None)

    async def _refuse(self, served: ServedVersion, reason: str) -> None:
        """Let go of a version that answers wrongly, as if it had never been loaded."""
        logger.error("%s is served no more: %s", served.loaded.name, reason)
        async with self._leading:
            if self._catalog.find(served.key) is served:
                self._refused[served.key] = reason
                self._catalog.remove(served, reason)
                await self._let_go(served)

    async def _let_go(self, version: ServedVersion) -> None:
        await version.close(self.config.max_timeout_s)
        self._router.retire(*version.key)
        self._local.forget(*version.key)
        if self._catalog.find(version.key) is None:
            self._tally.let_go(*version.key)

    async def _listen(self) -> HeadAddress:
        status = partial(cluster_status, self._view, self._router, self._catalog, self._counts)
        alone = partial(head_status, self._view)
        counts = self._counts.of_models
        parts = Parts(self._predictor, self._catalog, status, alone, self._operators, self._tls, counts)
        opened = await WaysIn.open(
            parts,
            self.config,
            self._tokens,
            self._door_folders,
            head=self._asker.head,
            metrics=self._metrics,
            leader=self.leader,
        )
        self._ways_in = opened
        self._degrading = asyncio.create_task(following_pressure(self._degraders, self._predictor.admission.pressure))
        return HeadAddress(self.config.host, opened.grpc_port, opened.http_port, opened.door.address)

    def _begin_watching(self) -> None:
        """Watch the folders of models, served ones and those to come, if that is wanted and has not begun."""
        if self._operations is None or not self.config.watch_s or self._watching is not None:
            return
        operations = Audited(self._operations, self._audit)
        watch = self._watch = Watch(self._models_folders, operations, loaded=self.loaded)
        roots = self._root_watch = RootWatch(self.config.all_of, self._models_folders, operations)

        def look() -> bool:
            watch.look()
            return roots.look()

        self._watching = asyncio.create_task(watching(look, self.config.watch_s))

    def _models_folders(self) -> dict[str, str]:
        return {each.key[0]: parent_of(each.loaded.source) for each in self._catalog.live()}

    def _degraders(self) -> list[Degrader]:
        return [each.degrader for each in self._catalog.loaded() if each.degrader.steps]

    async def _newest_map(self) -> ShardMap:
        if self._operations is None:
            raise Unavailable("this head has no coordinator to ask for a newer map")
        ask = partial(self._operations.map, self._asker)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._asking, ask)
        except Replaced as exc:
            # Only upon that: a coordinator that does not answer, or has no map, is no reason not to serve.
            self._replaced(str(exc))
            raise

    async def _connect(self, address: ShardAddress) -> Connection:
        return await connect(address, self._router.deployment, self._tls)

    def _view(self) -> HeadView:
        return HeadView(
            address="" if self._address is None else f"{self._address.host}:{self._address.grpc_port}",
            uptime_s=time.monotonic() - self._started_s,
            shard_map=self._router.shard_map,
            head=self._asker.head,
            http="" if self._address is None else f"{self._address.host}:{self._address.http_port}",
            counts=self._predictor.counts,
            admin="" if self._address is None else self._address.admin,
            deployment=name_of(self._router.deployment),
            leader=self.leader(),
            warnings=self._warnings(),
            straight_closed=self._predictor.push_routes.closed,
            heads_because=self.config.heads_because,
        )
