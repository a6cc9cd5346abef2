"""The shell around a shard that Ray starts, names and stops.

A plain class: `ray.remote` is applied where it is deployed. Control calls come through Ray and run in its thread; the
data plane has its own thread with its own event loop, and look-ups have theirs. No row passes through Ray.

Two ways to hold a table: without a data folder the version's own files are opened where they lie, whole; with one the
shard keeps copies of just its ranges there (`ps.transfer`). What is dropped from those is dropped in the background, a
while after nothing needs it any more: a coordinator that is restarted may ask for it again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from ringpull.ps.collector import spare_what_is_loaded
from ringpull.ps.errors import NotFound, RingpullError
from ringpull.ps.giving_way import giving_way
from ringpull.ps.holding import Ownership, VersionHolding
from ringpull.ps.memory import give_freed_memory_back, process_memory, resident_bytes, reuse_freed_memory
from ringpull.ps.metric_families import registry_of
from ringpull.ps.metrics import ShardCollector
from ringpull.ps.metrics_server import MetricsServer
from ringpull.ps.pulse import ShardPulse
from ringpull.ps.shard import Shard
from ringpull.ps.store import format as fmt
from ringpull.ps.transfer.copies import LocalCopies
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.peer import Peers
from ringpull.ps.transfer.throttle import Throttle
from ringpull.ps.wire.admission import AdmissionLimits
from ringpull.ps.wire.messages import ShardStatistics
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.tally import ServerTally
from ringpull.ps.wire.threads import LookupThreads

Result = TypeVar("Result")

TIDY_AFTER_S: Final = 30.0
"""How long copies that are not answered for any more stay on disk."""

_LOG: Final = logging.getLogger(__name__)


class ShardActor:
    """One shard, listening from construction until `stop`."""

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
        tidy_after_s: float = TIDY_AFTER_S,
        metrics: bool = True,
        admission: AdmissionLimits | None = None,
    ) -> None:
        """Start the data plane on any free port of `host`.

        Args:
            threads: How many look-ups run at a time.
            node: What the pulse says of where this is.
            data_dir: Its folder `shard-N` is for this shard's own copies. None: it has none.
            data_limit_bytes: The most that these may take, with what is being copied.
            prefault: Bring every page of a table into memory before it is served.
            verify: Hold all rows of files that are opened against their checksums.
            tidy_after_s: How long copies stay that are not answered for any more.
            metrics: Count what is asked, and tell it on a free port of `host`.
            admission: Connections and bytes that it holds at most; None: as many as any shard.

        Raises:
            StartupError: `host` cannot be listened on, or the data folder is not to be had.
        """
        reuse_freed_memory()
        self._shard = Shard(shard)
        self._node = node
        self._incarnation = secrets.token_hex(8)
        self._prefault, self._verify = prefault, verify
        self._tidy_after_s = tidy_after_s
        self._throttle = Throttle()
        self._control = threading.Condition()  # guards the six below; told when a prepare ends
        self._stopping = False
        self._prepares: set[Job] = set()
        self._last_prepare = Job()
        self._tidying: threading.Thread | None = None
        self._tidy_job = Job()
        self._versions: frozenset[tuple[str, int]] | None = None
        self._copies = (
            None
            if data_dir is None
            else LocalCopies(
                data_dir / f"shard-{shard}",
                self._throttle,
                limit_bytes=data_limit_bytes,
                prefault=prefault,
                verify=verify,
            )
        )
        self._lookups = LookupThreads(threads)
        self._streams = LookupThreads(1, name="stream")
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"shard-{shard}", daemon=True)
        self._thread.start()
        tally = ServerTally() if metrics else None
        self._server = ShardServer(
            self._shard, self._lookups, streams=self._streams, admission_limits=admission, tally=tally
        )
        self._metrics: MetricsServer | None = None
        try:
            if tally is not None:
                self._metrics = MetricsServer(registry_of([ShardCollector(self._shard, self._server, tally)]), host)
            self._address = self._on_loop(self._server.start(host))
        except BaseException:
            self._stop_threads()
            if self._copies is not None:
                self._copies.close()
            raise
        where = {"host": self._address[0], "port": self._address[1], "metrics_port": self._metrics_port}
        _LOG.info("shard listens", extra=where)

    def __repr__(self) -> str:
        return f"<ShardActor {self._shard!r} {self._server!r}>"

    def address(self) -> tuple[str, int]:
        """Return host and port of the data plane."""
        return self._address

    def pulse(self) -> ShardPulse:
        """Return who and where this is, and how far; takes no time."""
        job = self._last_prepare
        return ShardPulse(
            incarnation=self._incarnation,
            shard=self._shard.shard,
            host=self._address[0],
            port=self._address[1],
            node=self._node,
            epoch=self._shard.epoch,
            copied_bytes=job.copied_bytes,
            bytes_to_copy=job.bytes_to_copy,
            resident_bytes=resident_bytes(),
            metrics_port=self._metrics_port,
        )

    def prepare(self, holdings: Sequence[VersionHolding]) -> None:
        """Hold these parts of these versions, besides what is held already; return when that is so.

        Nothing that is answered for is taken away, and nothing new is answered for. Doing it again does nothing; what
        an attempt that failed has copied is not copied again, if the next one comes before it is tidied away. One at a
        time: a second one waits for the first.

        Raises:
            NotFound: A table's folder cannot be read here, and there is no data folder to copy it to.
            CorruptData: Files are damaged, or are not the tables they should be.
            LimitExceeded: The data folder would grow over its limit; nothing was copied.
            ExportError: The disk is full.
            Unavailable: Some rows could not be had: try again. Also when it was cancelled.
        """
        job = Job()
        with self._control:
            self._prepares.add(job)
            self._tidy_job.cancel()
        try:
            with giving_way():
                if self._copies is None:
                    for holding in holdings:
                        self._open(holding)
                else:
                    self._copy(self._copies, holdings, job)
                    give_freed_memory_back()  # the buffers that rows were copied through
                spare_what_is_loaded()
        except BaseException:
            # An assignment follows a prepare that is through. Here none may come, and what this one called off is due.
            with self._control:
                if self._versions is not None and self._prepares == {job}:
                    self._tidy_later(drop_pieces=True)
            raise
        finally:
            with self._control:
                self._prepares.discard(job)
                self._control.notify_all()
        of = [(holding.model, holding.version) for holding in holdings]
        _LOG.info("shard prepared", extra={"versions": _named(of), "copied_bytes": job.copied_bytes})

    def assign(self, epoch: int, ownerships: Sequence[Ownership], versions: Collection[tuple[str, int]]) -> None:
        """See `Shard.assign`. Copies that nothing needs any more are removed later, in the background."""
        with giving_way():
            news = self._shard.assign(epoch, ownerships, versions)
        if news:
            _LOG.info("shard assigned", extra={"epoch": epoch, "versions": _named(versions)})
            with self._control:
                self._versions = frozenset(versions)
            self._tidy_later()

    def throttle(self, bytes_per_s: float | None) -> None:
        """Copy no faster than this, at once. None: as fast as it goes; 0: hold still."""
        self._throttle.set(bytes_per_s)

    def cancel(self) -> None:
        """Give up every prepare under way, which raises `Unavailable`, and what it has copied; does not wait for it."""
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
        """Return this process's memory in bytes: see `ps.memory.process_memory`."""
        return process_memory()

    def touch(self) -> None:
        """Bring every page of every open table into memory."""
        self._shard.prefault()

    def stop(self, *, grace_s: float = 5.0) -> None:
        """Stop listening, answer what is in flight for up to `grace_s`, end the threads. Again, it does nothing."""
        if self._thread.is_alive():
            with self._control:
                self._stopping = True
                jobs, tidying = [*self._prepares, self._tidy_job], self._tidying
            for job in jobs:
                job.cancel()
            self._on_loop(self._server.close(grace_s=grace_s))
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

    def _open(self, holding: VersionHolding) -> None:
        folders = {name: Path(table.folder) for name, table in holding.tables.items()}
        for name, folder in folders.items():
            if not (folder / fmt.HEADER).exists():
                raise NotFound(
                    f"{holding.model}/{holding.version}: the folder of table {name}, {holding.tables[name].folder},"
                    " cannot be opened on this machine, and the shard has no data folder to copy its rows to"
                    " (`serve --data-dir`)"
                )
        self._shard.open(holding.model, holding.version, folders, prefault=self._prefault, verify=self._verify)

    def _copy(self, copies: LocalCopies, holdings: Sequence[VersionHolding], job: Job) -> None:
        peers = Peers(self._loop)
        self._last_prepare = job
        try:
            copies.prepare(holdings, self._shard, peers, job)
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
        except Cancelled:
            return  # By a prepare: an assignment follows it, or another tidying when it fails.
        except RingpullError as exc:
            _LOG.warning("shard %s keeps copies that it does not need: %s", self._shard.shard, exc)

    def _on_loop(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_threads(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        # Look-ups first: their answers go through the loop, which must still be there to drop them.
        self._lookups.close()
        self._streams.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _named(versions: Collection[tuple[str, int]]) -> str:
    """Return versions as a log tells them."""
    return ",".join(sorted(f"{model}/{version}" for model, version in versions))
