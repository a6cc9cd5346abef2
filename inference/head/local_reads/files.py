"""Local files: answers pulls from files of this machine, in look-up threads of the head's own process.

To the router they are layers with a connection each (`ringpull.router.here`). A version's files are swapped as a whole:
a pull that has begun ends with those it began with, and they are unmapped with the last one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.metrics.call_tally import LET_GO_KEPT, KeysHere
from ringpull.ps.errors import DeadlineExceeded, RingpullError, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.identity import differ
from ringpull.ps.local.flat_pull import ANY_BYTES, FlatSubLookups, FlatTables
from ringpull.ps.local.open_files import OpenFiles
from ringpull.ps.pull_messages import PullReply, PullRequest
from ringpull.ps.slot_mask import SlotMask
from ringpull.ps.store.pull import SlotNotOwned
from ringpull.ps.store.pull import pull as pull_tables
from ringpull.ps.wire.messages import Reply, Request, ShardStatistics, StatisticsRequest
from ringpull.ps.wire.threads import LookupThreads
from ringpull.router.here import Here, layer_id

LAYOUTS_KEPT: Final = 64
"""Lists of tables whose masks, and of each layer whose descriptors, are kept ready, of each version: as many as there
are kinds of requests, mostly. One more takes the place of that which was not asked for the longest."""

MAX_WAITING: Final = 64
"""Pulls that wait for a thread at most; what comes then is asked of shards. So many wait only where files are read
slowly, or not at all: each keeps its keys in memory, and one that nobody waits for any more is dropped when its turn
comes."""

Int64Array = NDArray[np.int64]

K = TypeVar("K")
V = TypeVar("V")

VersionName = tuple[str, int]
"""Model and version."""


class LocalFiles:
    """Files of all versions that are read here. Owned by one event loop."""

    def __init__(self, threads: int = 2) -> None:
        """Have nothing open yet.

        Args:
            threads: Look-ups that run at a time.
        """
        self._threads = LookupThreads(threads, name="local")
        self._open: Mapping[VersionName, OpenFiles] = {}
        self._counting = threading.Lock()
        self._counts: dict[VersionName, dict[str, tuple[int, int]]] = {}
        self._let_go: dict[VersionName, dict[str, tuple[int, int]]] = {}
        """Counts of versions that are not read any more, in the order in which they were let go of: one that comes
        back counts on, as its calls do."""
        self._flat_counts: dict[tuple[VersionName, tuple[str, ...]], Int64Array] = {}
        """Keys and missing ones (2, T) of the tables of a layout that are not in `_counts` yet."""
        self._layouts: dict[VersionName, dict[tuple[str, ...], Here | None]] = {}
        """Layouts of each version, by tables, the last one that was asked for last; so are `_flat_tables`, by layer.
        Both are of the files that are open."""
        self._flat_tables: dict[VersionName, dict[tuple[int, tuple[str, ...]], FlatTables]] = {}

    def __repr__(self) -> str:
        return f"<LocalFiles of {len(self._open)} versions>"

    def install(self, model: str, version: int, files: OpenFiles) -> None:
        """Read a version from these files from now on, and from no others."""
        self._open = {**self._open, (model, version): files}
        self._forget_layouts((model, version))
        with self._counting:
            self._counts.setdefault((model, version), self._let_go.pop((model, version), {}))

    def retire(self, model: str, version: int) -> None:
        """Read a version no more; its files are unmapped when the last pull that reads them is done."""
        self._open = {key: files for key, files in self._open.items() if key != (model, version)}
        self._forget_layouts((model, version))
        with self._counting:
            self._count_flat()
            counted = self._counts.pop((model, version), None)
            if counted is not None:
                self._let_go[model, version] = counted
            while len(self._let_go) > LET_GO_KEPT:
                del self._let_go[next(iter(self._let_go))]

    def _forget_layouts(self, name: VersionName) -> None:
        # At once: each keeps the files mapped that it was made of, and the disk keeps what is mapped.
        self._layouts.pop(name, None)
        self._flat_tables.pop(name, None)

    def opened(self) -> Mapping[VersionName, OpenFiles]:
        """Return the files of each version."""
        return self._open

    def keys(self) -> KeysHere:
        """Return how many keys of each table were answered, and how many of these were missing, by version."""
        with self._counting:
            self._count_flat()
            return {key: dict(tables) for key, tables in self._counts.items()}

    def here(self, model: str, version: int, identity: int, tables: Sequence[str]) -> Here | None:
        """See `ringpull.router.here.FilesHere.here`."""
        key = (model, version)
        files = self._open.get(key)
        if files is None or differ(files.identity, identity) or not files.layers:
            return None
        return _kept(self._layouts.setdefault(key, {}), tuple(tables), lambda: _here(files, tables))

    def connection(self, layer: int) -> LocalConnection:
        """See `ringpull.router.here.FilesHere.connection`."""
        return LocalConnection(self, layer)

    def close(self) -> None:
        """End the threads, when what they do is done, and let go of all files.

        Does not wait for them: on the event loop, and one that reads a file that hangs ends with the process.
        """
        self._threads.close(wait=False)
        self._open = {}
        self._layouts = {}
        self._flat_tables = {}

    def submit(self, request: PullRequest, layer: int, answer: asyncio.Future[Reply]) -> None:
        """Have a thread pull from a layer.

        Raises:
            Unavailable: The layer does not have all that is asked for, or no longer; or too many wait.
        """
        files = self._open.get((request.model, request.version))
        if files is None or differ(files.identity, request.identity) or layer >= len(files.layers):
            raise Unavailable(f"{request.model}/{request.version} is not read here any more")
        if self._threads.waiting >= MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} pulls wait to be read here")
        flat = None
        if isinstance(request.lookups, FlatSubLookups):
            flat = self._flat(files, layer, (request.model, request.version), request.lookups.tables)
        self._threads.submit(self._pull, files, layer, request, answer, flat)

    def _flat(self, files: OpenFiles, layer: int, name: VersionName, tables: tuple[str, ...]) -> FlatTables:
        kept = self._flat_tables.setdefault(name, {})
        return _kept(kept, (layer, tables), lambda: FlatTables(tables, files.layers[layer]))

    def submit_ping(self, layer: int, answer: asyncio.Future[Reply]) -> None:
        """Have a thread answer that it is alive: one that hangs in a read of a file does not."""
        self._threads.submit(_hand_over, answer, ShardStatistics(layer_id(layer), 0, 0, 0, 0, ()))

    # -- in one of the threads -----------------------------------------------------------------------------------------

    def _pull(
        self,
        files: OpenFiles,
        layer: int,
        request: PullRequest,
        answer: asyncio.Future[Reply],
        flat: FlatTables | None,
    ) -> None:
        if answer.done():  # Nobody waits for it any more.
            return
        outcome: PullReply | RingpullError
        try:
            outcome = _pulled(files, layer, request, flat)
            self._count(request, outcome)
        except RingpullError as exc:
            outcome = exc
        except Exception as exc:  # Whatever it is, shards may do better.
            outcome = Unavailable(f"local files: {type(exc).__name__}: {exc}")
        _hand_over(answer, outcome)

    def _count(self, request: PullRequest, reply: PullReply) -> None:
        with self._counting:
            counts = self._counts.get((request.model, request.version))
            if counts is None:  # let go of meanwhile
                return
            if isinstance(request.lookups, FlatSubLookups):
                self._count_together((request.model, request.version), request.lookups, reply)
                return
            for lookup, missing in zip(request.lookups, reply.missing.tolist(), strict=True):
                keys, absent = counts.get(lookup.table, (0, 0))
                counts[lookup.table] = keys + lookup.keys, absent + missing

    def _count_together(self, name: VersionName, lookups: FlatSubLookups, reply: PullReply) -> None:
        key = name, lookups.tables
        if key not in self._flat_counts:
            if len(self._flat_counts) >= LAYOUTS_KEPT:
                self._count_flat()
            self._flat_counts[key] = np.zeros((2, len(lookups.tables)), np.int64)
        counted = self._flat_counts[key]
        counted[0, lookups.places] += lookups.numbers[:, 1]
        counted[1, lookups.places] += reply.missing

    def _count_flat(self) -> None:
        """Count by table what look-ups of a layout were counted for together; under the lock."""
        for (name, tables), counted in self._flat_counts.items():
            counts = self._counts[name]
            for table, (keys, missing) in zip(tables, counted.T.tolist(), strict=True):
                if keys:
                    before = counts.get(table, (0, 0))
                    counts[table] = before[0] + keys, before[1] + missing
        self._flat_counts.clear()


class LocalConnection:
    """Connection to a layer, as a router needs one (`ringpull.router.connections.ShardConnection`)."""

    def __init__(self, files: LocalFiles, layer: int) -> None:
        self._files = files
        self._layer = layer
        self.closed = False

    def __repr__(self) -> str:
        return f"<LocalConnection to layer {self._layer} of {self._files!r}>"

    async def request(self, message: Request, *, deadline_s: float) -> Reply:
        """Answer a pull, or a ping, in one of the threads.

        Raises:
            DeadlineExceeded: It takes too long.
            Unavailable: What is asked for cannot be read here: shards are to be asked.
            NotAnswered: The same, of some slots.
            LimitExceeded: The reply would be larger than was asked for.
        """
        if self.closed or not isinstance(message, PullRequest | StatisticsRequest):
            raise Unavailable(f"{type(message).__name__} is not answered here")
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("no time was left to read local files")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()
        if isinstance(message, PullRequest):
            self._files.submit(message, self._layer, answer)
        else:
            self._files.submit_ping(self._layer, answer)
        timer = loop.call_later(left_s, _fail, answer, DeadlineExceeded("local files were not read in time"))
        try:
            return await answer
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Refuse what is asked from now on; what was asked is answered."""
        self.closed = True


def _here(files: OpenFiles, tables: Sequence[str]) -> Here | None:
    whole = np.array([files.whole.get(table, -1) for table in tables], np.int64)
    rows = np.full(len(tables), -1, np.int64)
    found: dict[int, int] = {}
    masks: list[SlotMask] = []
    for place, table in enumerate(tables):
        mask = files.masks.get(table)
        if mask is not None:
            if id(mask) not in found:
                found[id(mask)] = len(masks)
                masks.append(mask)
            rows[place] = found[id(mask)]
    if not masks and (whole < 0).all():
        return None
    return Here(whole, rows, np.array(masks, np.uint8).reshape(-1, SLOTS), len(files.layers))


def _kept(kept: dict[K, V], key: K, make: Callable[[], V]) -> V:
    """Return what is kept under a key, made if it is not; it is the last one to go from now on."""
    if key in kept:
        found = kept.pop(key)
    else:
        if len(kept) >= LAYOUTS_KEPT:
            del kept[next(iter(kept))]
        found = make()
    kept[key] = found
    return found


def _pulled(files: OpenFiles, layer: int, request: PullRequest, flat: FlatTables | None) -> PullReply:
    if flat is not None and isinstance(request.lookups, FlatSubLookups):
        found = flat.pull(request, request.lookups)
        if found is not None:
            return found
    return _one_by_one(files, layer, request)


def _one_by_one(files: OpenFiles, layer: int, request: PullRequest) -> PullReply:
    has = files.layers[layer]
    tables = [has.get(lookup.table) for lookup in request.lookups]
    found = [each for each in tables if each is not None]
    if len(found) < len(tables):
        raise Unavailable(f"{request.model}/{request.version}: some tables are not read here any more")
    try:
        views, masks = [each.table for each in found], [each.mask for each in found]
        return pull_tables(views, masks, request, max_reply_bytes=ANY_BYTES)
    except SlotNotOwned as exc:
        raise Unavailable(f"{exc} any more: it was when this was planned") from exc


def _hand_over(answer: asyncio.Future[Reply], outcome: Reply | RingpullError) -> None:
    """Give an answer to the loop that waits for it, from another thread."""
    with suppress(RuntimeError):  # The loop has ended.
        answer.get_loop().call_soon_threadsafe(_give, answer, outcome)


def _give(answer: asyncio.Future[Reply], outcome: Reply | RingpullError) -> None:
    if answer.done():
        return
    if isinstance(outcome, RingpullError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _fail(answer: asyncio.Future[Reply], error: RingpullError) -> None:
    _give(answer, error)
