"""Shard process: one shard with its data plane, its copies on disk and its metrics.

It is a plain class that knows nothing of Ray; `ringpull.deploy.cluster.actors.ShardActor` is what Ray runs. Control
calls run in their caller's threads; the data plane has a thread with its own event loop, and look-ups have threads of
their own.

A table is stored in one of two ways: without a data folder the version's own files are opened in place; with one the
shard keeps copies of just its ranges there (`ringpull.ps.transfer`). Copies that are no longer served are deleted in
the background after a delay, because a restarted coordinator may ask for them again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.damage import Damage
from ringpull.ps.errors import NotFound, RingpullError, Unavailable
from ringpull.ps.garbage import freeze_loaded
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.ps.live.live_shard import LiveShard
from ringpull.ps.live.metrics import PushCollector
from ringpull.ps.live.record import LiveName
from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.memory import give_freed_memory_back, process_memory, resident_bytes, reuse_freed_memory
from ringpull.ps.metric_families import registry_of
from ringpull.ps.metrics import ScrubCollector, ShardCollector
from ringpull.ps.metrics_server import Check, MetricsServer
from ringpull.ps.placement import NONE_LIVE, ServedRanges, VersionPlacement
from ringpull.ps.refusals import Refusals, refused
from ringpull.ps.scrub import Scrubber
from ringpull.ps.shard import Shard
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import Base
from ringpull.ps.store.file_errors import is_there
from ringpull.ps.switch_interval import frequent_switches
from ringpull.ps.tls import NO_TLS, LiveTls, TlsFiles, warnings_of
from ringpull.ps.transfer.copies import LocalCopies
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.pace import Pace
from ringpull.ps.transfer.peer import Peers
from ringpull.ps.transfer.row_check import RowCheck
from ringpull.ps.transfer.throttle import Throttle
from ringpull.ps.wire.admission import AdmissionLimits
from ringpull.ps.wire.messages import Hello, ShardStatistics
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.tally import ServerTally
from ringpull.ps.wire.threads import LookupThreads

Result = TypeVar("Result")

SCAN_NICE: Final = 10
"""How much scans of whole tables give way to pulls: they take what processor time these leave, and little else."""

TIDY_AFTER_S: Final = 30.0
"""Time for which copies that are no longer served stay on disk."""

_LOG: Final = logging.getLogger(__name__)


class ShardProcess:
    """Shard that listens from construction until `stop`."""

    def __init__(
        self,
        shard: int,
        host: str = "127.0.0.1",
        threads: int = 1,
        *,
        node: str = "",
        data_dir: Path | None = None,
        data_limit_bytes: int | None = None,
        prefault: bool = False,
        verify: bool = False,
        checked: Path | None = None,
        scrub_bytes_per_s: float | None = None,
        tidy_after_s: float = TIDY_AFTER_S,
        metrics: bool = True,
        admission: AdmissionLimits | None = None,
        deployment: str = "",
        tls: TlsFiles = NO_TLS,
        scrape_check: Check | None = None,
        live: LiveSettings | None = None,
    ) -> None:
        """Start the data plane on any free port of `host`.

        Args:
            threads: Number of look-ups that run at a time.
            node: Name of the node, reported in the heartbeat.
            data_dir: Folder in which `shard-N` has this shard's own copies; None: it keeps none.
            data_limit_bytes: Upper bound on the size of these copies, including those in progress.
            prefault: Bring every page of a table into memory before it is served.
            verify: Check all rows of opened files against their checksums.
            checked: File in which the shards of this machine remember which rows were checked; None: in memory only.
            scrub_bytes_per_s: Rate at which what is served is looked through for damage; None or 0: it is not.
            tidy_after_s: Time for which copies that are no longer served stay.
            metrics: Count requests, and serve metrics on a free port of `host`.
            admission: Limits on connections and bytes; None: the defaults.
            deployment: Id of the deployment, which callers and peers must mean; empty: any.
            tls: Certificate that it shows to those, as they do to it, and to whoever scrapes its metrics.
            scrape_check: Raises for a scraper that may not have the metrics, given its header `authorization`.
            live: What it does with pushes; None: the defaults.

        Raises:
            StartupError: `host` cannot be listened on, or the data folder cannot be used.
            InvalidInput: A file of `tls` cannot be used.
        """
        self._tls = LiveTls.of(tls)
        reuse_freed_memory()
        memory = CheckedRows(checked)
        self._damage = Damage(memory, copied=data_dir is not None)
        self._shard, self._node = Shard(shard, self._damage.known), node
        self._hello = Hello(deployment, shard, secrets.token_hex(8))
        self._prefault, self._verify, self._tidy_after_s = prefault, verify, tidy_after_s
        self._throttle = Throttle()
        self._row_check = RowCheck(memory, self._throttle, self._is_pulling)
        self._opening = threading.Lock()  # one prepare at a time opens files in place
        self._control = threading.Condition()  # guards the six below; notified when a prepare ends
        self._stopping, self._prepares = False, set[Job]()
        self._last_prepare, self._tidy_job = Job(), Job()
        self._tidying: threading.Thread | None = None
        self._versions: frozenset[tuple[str, int]] | None = None
        self._copies = None if data_dir is None else self._open_copies(data_dir, data_limit_bytes)
        self._live = LiveShard(self._shard, _live_folder(data_dir, shard), deployment, live, memory)
        self._lookups, self._streams = LookupThreads(threads), LookupThreads(1, name="stream")
        self._scans = LookupThreads(1, name="scan", nice=SCAN_NICE)
        self._loop, self._thread = _running_loop(f"shard-{shard}")
        self._server = self._new_server(admission, tally := ServerTally() if metrics else None)
        self._scrubber = self._new_scrubber(memory, scrub_bytes_per_s)
        self._metrics: MetricsServer | None = None
        self._address = self._listen(host, tally, scrape_check)
        if scrub_bytes_per_s:
            self._scrubber.start()

    def _new_scrubber(self, memory: CheckedRows, bytes_per_s: float | None) -> Scrubber:
        look = self._live.files.look
        return Scrubber(self._shard, self._damage, memory, bytes_per_s, busy=self._is_pulling, look_beside=look)

    def _new_server(self, admission: AdmissionLimits | None, tally: ServerTally | None) -> ShardServer:
        return ShardServer(
            self._shard,
            self._lookups,
            hello=self._hello,
            streams=self._streams,
            scans=self._scans,
            pushes=self._live.pushes,
            admission_limits=admission,
            tally=tally,
            tls=self._tls,
        )

    def _listen(self, host: str, tally: ServerTally | None, check: Check | None) -> tuple[str, int]:
        try:
            if tally is not None:
                collectors = [
                    ShardCollector(self._shard, self._server, tally),
                    ScrubCollector(self._scrubber),
                    PushCollector(self._live),
                ]
                self._metrics = MetricsServer(registry_of(collectors), host, check, tls=self._tls)
            address = self._on_loop(self._server.start(host))
        except BaseException:
            self._live.close()
            self._stop_threads()
            if self._copies is not None:
                self._copies.close()
            raise
        where = {"host": address[0], "port": address[1], "metrics_port": self._metrics_port}
        _LOG.info("shard listens", extra=where)
        return address

    def __repr__(self) -> str:
        return f"<ShardProcess {self._shard!r} {self._server!r}>"

    def address(self) -> tuple[str, int]:
        """Return host and port of the data plane."""
        return self._address

    def heartbeat(self) -> ShardHeartbeat:
        """Return identity, address and progress, at once."""
        job, live = self._last_prepare, self._live
        return ShardHeartbeat(
            incarnation=self._hello.incarnation,
            shard=self._shard.shard,
            host=self._address[0],
            port=self._address[1],
            node=self._node,
            epoch=self._shard.epoch,
            copied_bytes=job.copied_bytes,
            bytes_to_copy=job.bytes_to_copy,
            resident_bytes=resident_bytes(),
            metrics_port=self._metrics_port,
            checked_bytes=job.checked_bytes,
            bytes_to_check=job.bytes_to_check,
            damaged=self._damage.wants_repair(self._shard),
            warnings=(
                *self._refusals(),
                *self._damage.warnings(self._shard),
                *warnings_of(self._tls),
                *live.warnings(),
            ),
            wants_to_push=tuple(sorted(live.wanted)),
            pushed=tuple(sorted(live.pushed)),
            newer_rows=live.tables.rows,
            newer_bytes=live.tables.memory_bytes,
            log_bytes=live.log_bytes,
        )

    def prepare(self, placements: Sequence[VersionPlacement]) -> None:
        """Store these ranges in addition to those that are stored already; return when it is done.

        The ranges that are served do not change. The call is idempotent, and what a failed attempt has copied is not
        copied again if the next attempt comes before it is tidied away. A second call waits for the first to end.
        What is open already, with the content that is asked for, needs no file. A version that cannot be opened holds
        up no other one.

        Raises:
            NotFound: A table's folder cannot be read here, and there is no data folder to copy it to.
            OtherContent: What is found under a version's number is not what the placement says.
            NotOpened: Some of several versions could not be stored; the others are.
            CorruptData: Files are damaged, or are not the tables they should be; or rows are, which were to be checked.
            LimitExceeded: The data folder would grow over its limit; nothing was copied.
            ExportError: The disk is full.
            Unavailable: Some rows could not be copied, or the call was cancelled; try again.
        """
        job = Job()
        with self._control:
            self._prepares.add(job)
            self._tidy_job.cancel()
            self._last_prepare = job
        try:
            with frequent_switches():
                # First: others that cannot be opened are no matter to those that are open already.
                for placement in filter(self._shard.holds, placements):
                    self._shard.bring(placement)
                if self._copies is None:
                    self._open_all(placements, job)
                else:
                    self._copy(self._copies, placements, job)
                    give_freed_memory_back()  # the buffers that rows were copied through
                freeze_loaded()
        except BaseException as exc:
            if isinstance(exc, RingpullError) and not isinstance(exc, Cancelled):
                self._note_refused(placements, exc)
            # A prepare that succeeds is followed by an assignment, which tidies. After a failure none may come, so the
            # tidying that this prepare cancelled is scheduled again.
            with self._control:
                if self._versions is not None and self._prepares == {job}:
                    self._tidy_later(drop_pieces=True)
            raise
        finally:
            self._damage.repair_tried()
            with self._control:
                self._prepares.discard(job)
                self._control.notify_all()
            self._let_go()
        of = [(placement.model, placement.version) for placement in placements]
        _LOG.info("shard prepared", extra={"versions": _named(of), "copied_bytes": job.copied_bytes})

    def assign(
        self,
        epoch: int,
        served_ranges: Sequence[ServedRanges],
        versions: Collection[tuple[str, int]],
        pushed: Collection[tuple[str, int, str]] = (),
        live: Mapping[str, int] = NONE_LIVE,
    ) -> None:
        """See `Shard.assign`. Copies that are no longer needed are deleted later, in the background.

        Args:
            pushed: Tables, by model, lineage and name, that have pushed rows here, or may have from now on: that is
                saved.
        """
        if epoch >= self._shard.epoch:
            self._live.confirm([LiveName(*name) for name in pushed])
        first = self._shard.epoch == 0
        with frequent_switches():
            news = self._shard.assign(epoch, served_ranges, versions, live)
        if news and first:  # Whoever brings the deployment up asks for warnings soon.
            with suppress(Unavailable):
                self._live.pushes.run(self._live.look_for_strays)
        if news:
            _LOG.info("shard assigned", extra={"epoch": epoch, "versions": _named(versions)})
            with self._control:
                self._versions = frozenset(versions)
            self._let_go()
            self._tidy_later()

    def throttle(self, bytes_per_s: float | None) -> None:
        """Change the limit on copying, at once. None: no limit; 0: pause."""
        self._throttle.set(bytes_per_s)

    def cancel(self) -> None:
        """Abort every prepare under way, which raises `Unavailable`, and drop what it copied; does not wait for it."""
        with self._control:
            given_up = list(self._prepares)
        for job in given_up:
            job.cancel()
        if given_up:
            self._tidy_later(drop_pieces=True)

    def statistics(self) -> ShardStatistics:
        """See `Shard.statistics`."""
        return self._shard.statistics()

    def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    def memory(self) -> dict[str, int]:
        """Return this process's memory in bytes: see `ringpull.ps.memory.process_memory`."""
        return process_memory()

    def touch(self) -> None:
        """Bring every page of every open table into memory."""
        self._shard.prefault()

    def end_pushes(self) -> None:
        """Take no pushes any more, and delete what is kept for the next fold; pulls are answered. Idempotent."""
        self._live.close()

    def stop(self, *, grace_s: float = 5.0) -> None:
        """Stop listening, answer requests in flight for up to `grace_s`, end the threads. Idempotent."""
        if self._thread.is_alive():
            with self._control:
                self._stopping = True
                jobs, tidying = [*self._prepares, self._tidy_job], self._tidying
            for job in jobs:
                job.cancel()
            self._scrubber.cancel()
            self._live.close()
            self._on_loop(self._server.close(grace_s=grace_s))
            self._scrubber.stop(grace_s)
            if tidying is not None:
                tidying.join()
            with self._control:
                self._control.wait_for(lambda: not self._prepares)
            self._stop_threads()
            if self._copies is not None:
                self._copies.close()

    @property
    def _metrics_port(self) -> int:
        return 0 if self._metrics is None else self._metrics.port

    def _open_copies(self, data_dir: Path, limit_bytes: int | None) -> LocalCopies:
        folder = data_dir / f"shard-{self._shard.shard}"
        return LocalCopies(
            folder,
            self._throttle,
            limit_bytes=limit_bytes,
            prefault=self._prefault,
            verify=self._verify,
            row_check=self._row_check,
            damage=self._damage,
            pace=Pace(lambda: self._server.pulled_s),
        )

    def _is_pulling(self) -> bool:
        return self._server.pulls_in_flight

    def _let_go(self) -> None:
        """Close copies of versions that are not served any more."""
        if self._copies is not None and self._versions is not None:
            self._copies.let_go(self._versions, self._shard)

    def _refusals(self) -> list[str]:
        return [
            f"{model}/{version} is not served: {reason}"
            for (model, version), reason in sorted(self._shard.refusals.items())
        ]

    def _open_all(self, placements: Sequence[VersionPlacement], job: Job) -> None:
        refusals = Refusals()
        with self._opening:
            for placement in placements:
                job.check()
                with refusals.of(placement.model, placement.version):
                    if self._shard.holds(placement):
                        self._check_rows(placement, self._shard.bases(placement.model, placement.version), job)
                    else:
                        self._open(placement, job)
        refusals.check(len(placements))

    def _note_refused(self, placements: Sequence[VersionPlacement], error: RingpullError) -> None:
        """Note which versions are not open as they should be. One that is open so serves on with what it has."""
        errors = refused(error, [(placement.model, placement.version) for placement in placements])
        for placement in placements:
            reason = errors.get((placement.model, placement.version))
            if reason is not None and not self._shard.holds(placement):
                self._shard.refuse(placement.model, placement.version, str(reason))

    def _check_rows(self, placement: VersionPlacement, bases: Mapping[str, Base], job: Job) -> None:
        """Check the rows of the ranges that are placed here, if that is asked for."""
        if not placement.check_rows:
            return
        slots = {name: table.slots for name, table in placement.tables.items()}
        blocks = {name: self._row_check.unchecked(base, slots[name], job) for name, base in bases.items()}
        for name, base in bases.items():
            self._row_check.check(base, blocks[name], job)

    def _open(self, placement: VersionPlacement, job: Job) -> None:
        folders = {name: Path(table.folder) for name, table in placement.tables.items()}
        for name, folder in folders.items():
            part = placement.tables[name]
            if part.origin and self._shard.base_of(placement.model, part.identity) is not None:
                continue  # of a version that is open: its files may be gone by now
            if not is_there(folder / fmt.HEADER):
                raise NotFound(
                    f"{placement.model}/{placement.version}: the folder of table {name},"
                    f" {placement.tables[name].folder}, cannot be opened on this machine,"
                    " and the shard has no data folder to copy its rows to (`serve --data-dir`)"
                )
        self._shard.open(
            placement.model,
            placement.version,
            folders,
            identity=placement.identity,
            tables={name: table.identity for name, table in placement.tables.items()},
            within=Path(placement.folder) if placement.folder else None,
            placed=placement,
            prefault=self._prefault,
            verify=self._verify,
            check=lambda bases: self._check_rows(placement, bases, job),
        )

    def _copy(self, copies: LocalCopies, placements: Sequence[VersionPlacement], job: Job) -> None:
        peers = Peers(self._loop, self._hello.deployment, self._tls)
        try:
            copies.prepare(placements, self._shard, peers, job)
        finally:
            peers.close()

    def _tidy_later(self, *, drop_pieces: bool = False) -> None:
        if self._copies is None:
            return
        job = Job()
        work = threading.Thread(target=self._tidy, args=(self._copies, job, drop_pieces), name="tidy", daemon=True)
        with self._control:
            if self._stopping:
                return
            self._tidy_job.cancel()
            self._tidy_job, self._tidying = job, work
            work.start()

    def _tidy(self, copies: LocalCopies, job: Job, drop_pieces: bool) -> None:
        try:
            job.pause(self._tidy_after_s)
            copies.tidy(self._versions, self._shard, job, drop_pieces=drop_pieces)
            self._let_go()  # Of what was let go meanwhile, when it could not be done.
        except Cancelled:
            return  # A prepare cancelled it: an assignment will follow, or another tidying if the prepare fails.
        except RingpullError as exc:
            _LOG.warning("shard %s keeps copies that it does not need: %s", self._shard.shard, exc)

    def _on_loop(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_threads(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        # Look-ups end first, because their answers go through the loop.
        self._lookups.close()
        self._streams.close()
        self._scans.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _live_folder(data_dir: Path | None, shard: int) -> Path | None:
    """Return the folder of a shard's log: beside its copies, which are tidied."""
    return None if data_dir is None else data_dir / f"shard-{shard}.live"


def _named(versions: Collection[tuple[str, int]]) -> str:
    """Return versions as text for the log."""
    return ",".join(sorted(f"{model}/{version}" for model, version in versions))


def _running_loop(name: str) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    """Return an event loop and the thread of this name that it runs in."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
    thread.start()
    return loop, thread
