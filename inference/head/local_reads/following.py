"""Following: which files the shards of this machine serve, asked of them, and read here from then on.

Shards are asked once a second whether that has changed, and for the files of a version when it is loaded, before
requests see it. What a shard told last stays true while it is dead, restarts, or says nothing: rows of a version never
change, and a file that is mapped stays. It is forgotten when the shard leaves the map, or the version is let go of.

Files of each version are opened in a thread of their own: those that hang, of a file server that is away, hold up no
other version, and whoever loads one waits for them only so long.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from ringpull.inference.head.local_reads.files import LocalFiles, VersionName
from ringpull.ps.errors import NotFound, Retryable, RingpullError
from ringpull.ps.identity import differ
from ringpull.ps.local.machine import machine_id
from ringpull.ps.local.open_files import OpenFiles, open_files
from ringpull.ps.wire.files_messages import FilesReply, FilesRequest, TableFiles
from ringpull.ps.wire.messages import Reply, Request
from ringpull.router.here import MAX_LAYERS
from ringpull.router.shard_map import ShardAddress

ASK_EVERY_S: Final = 1.0
"""Pause between two questions whether a shard's files have changed: for so long damage that it has found is not known
here."""
ELSEWHERE_S: Final = 60.0
"""Time for which a shard that does not share this machine is not asked again."""
TRY_AGAIN_S: Final = 60.0
"""Pause after a file that is on this machine could not be opened."""
ANSWER_WITHIN_S: Final = 2.0
"""Time for a shard to tell its files."""
OPEN_WITHIN_S: Final = 5.0
"""Time for which whoever loads a version waits for its files; they are read here once they are open. What takes longer
gives its turn to others."""
OPENED_AT_ONCE: Final = 2
"""Versions whose files are opened at a time, beside requests."""

_LOG: Final = logging.getLogger(__name__)


class Shards(Protocol):
    """Shards of the map, as `ringpull.router.client.Router` has them."""

    def addresses(self) -> Collection[ShardAddress]:
        """Return the shards of the map; none before there is one."""
        ...

    async def ask(self, address: ShardAddress, request: Request, *, deadline_s: float) -> Reply:
        """Ask one of them; errors are raised as `RingpullError`s."""
        ...


@dataclass(slots=True)
class _Heard:
    """What one shard has told."""

    address: ShardAddress
    """Process that has told it."""
    change: int = -1
    ask_at_s: float = 0.0
    """Time before which it is not asked again."""
    unanswered: set[VersionName] = field(default_factory=set)
    """Versions whose files it was asked for and did not tell: they are asked for again, whether they change or not."""
    files: dict[VersionName, tuple[TableFiles, ...]] = field(default_factory=dict)


class Following:
    """What the shards of this machine serve, and from which files. On the head's loop."""

    def __init__(
        self,
        files: LocalFiles,
        shards: Shards,
        *,
        machine: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Know of none yet.

        Args:
            machine: Identity of this machine; None: as it is; empty: not known, so no shard shares it.
        """
        self._files = files
        self._shards = shards
        self._machine = machine_id() if machine is None else machine
        self._clock = clock
        self._sleep = sleep
        self._heard: dict[int, _Heard] = {}
        self._versions: dict[VersionName, int] = {}
        self._due: set[VersionName] = set()
        """Versions whose files have changed and are to be opened. Kept, as who asked may be cancelled meanwhile."""
        self._opening: dict[tuple[VersionName, int], asyncio.Task[None]] = {}
        """Versions, and their identities, whose files are being opened: once at a time, and that may hang."""
        self._retry_at_s: dict[VersionName, float] = {}
        """Time at which the files of a version are tried again, some of which could not be opened."""
        self._working = asyncio.Lock()
        self._turns = asyncio.Semaphore(OPENED_AT_ONCE)
        self._closed = False

    async def learn(self, model: str, version: int, identity: int) -> None:
        """Read a version here from now on, as far as its files are on this machine.

        Returns when they are open, or `OPEN_WITHIN_S` later.
        """
        self._versions[model, version] = identity
        if self._machine:
            await self._look([(model, version)])

    def forget(self, model: str, version: int) -> None:
        """Read a version here no more."""
        self._versions.pop((model, version), None)
        self._due.discard((model, version))
        self._retry_at_s.pop((model, version), None)
        for heard in self._heard.values():
            heard.files.pop((model, version), None)
            heard.unanswered.discard((model, version))
        self._files.retire(model, version)

    async def follow(self) -> None:
        """Look for changes, again and again. Returns never, unless nothing can ever be local."""
        while self._machine:
            await self._sleep(ASK_EVERY_S)
            await self._look(())

    def close(self) -> None:
        """Open no more files. Threads that hang in one end with the process."""
        self._closed = True
        for task in self._opening.values():
            task.cancel()

    async def _look(self, new: Sequence[VersionName]) -> None:
        """Ask all shards, begin to open what has changed, and wait for the files of `new` for a while."""
        try:
            async with self._working:
                await self._ask_all(new)
            self._open_due()
            waited = {task for (name, _), task in self._opening.items() if name in new}
            if waited:
                await asyncio.wait(waited, timeout=OPEN_WITHIN_S)
        except (
            Exception
        ):  # Whoever stopped here would never hear of damage again; and shards have all that is not here.
            _LOG.exception("local files could not be followed")

    async def _ask_all(self, new: Sequence[VersionName]) -> None:
        addresses = {address.shard: address for address in self._shards.addresses()}
        self._due |= set(new)
        for shard in self._heard.keys() - addresses.keys():
            self._due |= self._heard.pop(shard).files.keys()
        await asyncio.gather(*[self._ask(address, new) for address in addresses.values()])
        self._due |= {name for name, at_s in self._retry_at_s.items() if self._clock() >= at_s}
        self._due &= self._versions.keys()

    def _open_due(self) -> list[asyncio.Task[None]]:
        """Begin to open the files of versions that are due, but of those of which some are being opened."""
        begun: list[asyncio.Task[None]] = []
        for name in () if self._closed else tuple(self._due & self._versions.keys()):
            key = name, self._versions[name]
            if key not in self._opening:
                self._due.discard(name)
                # Now, and not when it has its turn: it would be due again until then, and be opened twice.
                self._retry_at_s.pop(name, None)
                self._opening[key] = asyncio.create_task(self._open(*key))
                begun.append(self._opening[key])
        return begun

    async def _ask(self, address: ShardAddress, new: Sequence[VersionName]) -> None:
        """Ask one shard what has changed; versions whose files have are due."""
        heard = self._heard.setdefault(address.shard, _Heard(address))
        if heard.address != address:
            heard.address, heard.change, heard.ask_at_s = address, -1, 0.0
        if self._clock() < heard.ask_at_s:
            return
        try:
            heard.unanswered |= set(new)
            reply = await self._answer(address, FilesRequest())
            names = self._versions.keys() & set(reply.versions)
            if reply.change == heard.change:
                names &= heard.unanswered
            heard.unanswered |= names
            for name in names:
                told = await self._answer(address, FilesRequest(*name))
                identity = self._versions.get(name)
                if (
                    identity is None
                ):  # let go of meanwhile: what was told may be of another content than what comes next
                    continue
                # Of a version that is not open any more nothing is told; what was told of it is as true as before. One
                # of another content under the same number is another version.
                tables = () if differ(told.identity, identity) else told.tables
                if name in told.versions and heard.files.get(name, ()) != tables:
                    heard.files[name] = tables
                    self._due.add(name)
                heard.unanswered.discard(name)
            heard.change = reply.change
            heard.unanswered.clear()  # of what is left it has nothing open, and tells a change when it has
        except Retryable:
            pass  # It is away, or has no time: it is asked again.
        except RingpullError:
            # On another machine by now, or of an earlier build: it has no files for us.
            heard.change, heard.ask_at_s = -1, self._clock() + ELSEWHERE_S
            self._due |= heard.files.keys()
            heard.files.clear()

    async def _answer(self, address: ShardAddress, request: FilesRequest) -> FilesReply:
        reply = await self._shards.ask(address, request, deadline_s=self._clock() + ANSWER_WITHIN_S)
        if not isinstance(reply, FilesReply) or reply.machine != self._machine:
            raise NotFound(f"shard {address.shard} has no files on this machine")
        return reply

    async def _open(self, name: VersionName, identity: int) -> None:
        """Open the files of a version and have it read from them; those that could not be opened are tried again."""
        try:
            async with self._turns:
                told = [heard.files[name] for heard in self._heard.values() if name in heard.files]
                before = self._files.opened().get(name)
                if before is not None and before.identity != identity:
                    before = None
                opening = _in_thread(partial(open_files, identity, told, before, MAX_LAYERS))
                await asyncio.wait([opening], timeout=OPEN_WITHIN_S)
            opened = await opening
            if self._versions.get(name) == identity:  # it may have been let go of meanwhile
                self._install(name, opened, before)
        except Exception:
            _LOG.exception("local files of %s/%d could not be opened", *name)
            if self._versions.get(name) == identity:
                self._retry_at_s[name] = self._clock() + TRY_AGAIN_S
        finally:
            del self._opening[name, identity]

    def _install(self, name: VersionName, opened: OpenFiles, before: OpenFiles | None) -> None:
        self._files.install(*name, opened)
        if opened.refused:
            self._retry_at_s[name] = self._clock() + TRY_AGAIN_S
        extra = {"model": name[0], "version": name[1]}
        _LOG.info("files are read here", extra={**extra, "tables": len(opened.whole) + len(opened.masks)})
        if opened.refused and (before is None or before.refused != opened.refused):
            why = opened.refused[0]
            _LOG.warning("%d tables are asked of shards, for one: %s", len(opened.refused), why, extra=extra)


def _in_thread(work: Callable[[], OpenFiles]) -> asyncio.Future[OpenFiles]:
    """Return the future of what `work` returns or raises, called in a thread of its own.

    Not in one of the loop's: files that hang would take these away from all else, and the process could not end.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[OpenFiles] = loop.create_future()

    def settle(opened: OpenFiles | None, error: BaseException | None) -> None:
        if outcome.done():  # nobody waits any more
            return
        if error is not None:
            outcome.set_exception(error)
        elif opened is not None:
            outcome.set_result(opened)

    def run() -> None:
        opened, error = None, None
        try:
            opened = work()
        except BaseException as exc:
            error = exc
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, opened, error)

    threading.Thread(target=run, name="open files", daemon=True).start()
    return outcome
