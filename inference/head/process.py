"""Head's process: a plain class, unknown to Ray, with blocking control calls around a `Head` on its own uvloop thread.

Ray's thread and the head's never share state: each control call is carried to the loop and waited for. `ray.remote` is
applied in `deploy`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from ringpull.inference.head.catalog import NO_LABELS, Labels, highest
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.head import Head, HeadAddress
from ringpull.inference.head.leadership import LeaderView
from ringpull.ps.garbage import forget_frames, freeze_loaded
from ringpull.ps.memory import give_freed_memory_back, process_memory, reuse_freed_memory
from ringpull.ps.switch_interval import frequent_switches
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.control.operations import Operations
from ringpull.router.shard_map import ShardMap

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")


class HeadProcess:
    """One head in this process: led by `load` and `route`, drained once."""

    def __init__(
        self,
        config: HeadConfig,
        operations: Operations | None = None,
        *,
        cache_dir: Path | None = None,
        deployment: str = "",
        head: int = 0,
        replaced: Callable[[str], None] | None = None,
        state: Callable[[], Path] | None = None,
    ) -> None:
        """Start the head's loop.

        Args:
            operations: The way to the coordinator; None: whoever made the head leads it.
            cache_dir: This head's own folder for what it reads of versions at URLs; None: a temporary one.
            deployment: Id of the deployment, whose maps it takes and whose shards it means; empty: any.
            head: Its number.
            replaced: Called, with the reason, when another process is this head by now; None: it drains then.
            state: Returns the state folder, for the socket of operators; None: it is below the temporary one.
        """
        self._config = config
        self._tell_replaced = replaced or self._drain_beside
        self._was_replaced = False
        reuse_freed_memory()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="head", daemon=True)
        self._thread.start()
        try:
            self._head = self._call(self._new_head(operations, cache_dir, deployment, head, state))
        except BaseException:  # such as a folder that cannot be made: nothing stays behind of a head that is not there
            self._end_loop()
            raise

    def __repr__(self) -> str:
        return f"HeadProcess(pid {os.getpid()}, {self._head!r})"

    def load(self, versions: Sequence[PlacedVersion], shard_map: ShardMap) -> None:
        """See `Head.load`."""
        with frequent_switches():
            self._load(versions, shard_map)

    def route(
        self,
        shard_map: ShardMap,
        live: Mapping[str, int],
        versions: Collection[tuple[str, int]],
        labels: Labels = NO_LABELS,
    ) -> HeadAddress:
        """See `Head.route`."""
        before = len(self._head.loaded())
        address = self._call(self._head.route(shard_map, live, versions, labels))
        if len(self._head.loaded()) < before:
            give_freed_memory_back()
        return address

    def heartbeat(self, lease_s: float | None = None) -> HeadHeartbeat:
        """See `Head.heartbeat`."""

        async def heartbeat() -> HeadHeartbeat:
            return self._head.heartbeat(lease_s)

        return self._call(heartbeat())

    def leader(self) -> LeaderView | None:
        """See `Head.leader`."""

        async def leader() -> LeaderView | None:
            return self._head.leader()

        return self._call(leader())

    def start(self, shard_map: ShardMap, version_dirs: Sequence[str | Path]) -> HeadAddress:
        """Load the versions in these folders and serve them by this map, the highest of each model live.

        For a head that no coordinator leads. Raises what `load` and `route` do.
        """
        self._load(version_dirs, shard_map)
        names = self._head.loaded()
        return self.route(shard_map, highest(names), names)

    def drain(self, timeout_s: float) -> None:
        """Take no more calls, answer those in flight within `timeout_s`, and stop for good; then it does nothing."""
        if self._thread.is_alive():
            self._call(self._head.stop(timeout_s))
            self._end_loop()

    def pid(self) -> int:
        """Return the process's id."""
        return os.getpid()

    def memory(self) -> dict[str, int]:
        """Return this process's memory in bytes: see `ringpull.ps.memory.process_memory`."""
        return process_memory()

    def _load(self, versions: Sequence[PlacedVersion | str | Path], shard_map: ShardMap) -> None:
        """Load, and leave nothing behind but what was loaded: of a version that is refused, nothing at all."""
        try:
            self._call(self._head.load(versions, shard_map))
        except BaseException as exc:
            forget_frames(exc)
            raise
        finally:
            freeze_loaded()
            # A file that was read, and what torch made of it on the way, are several times what stays.
            give_freed_memory_back()

    async def _new_head(
        self,
        operations: Operations | None,
        cache_dir: Path | None,
        deployment: str,
        head: int,
        state: Callable[[], Path] | None,
    ) -> Head:
        """Make the head on its loop: everything in it belongs to that loop."""
        return Head(
            self._config,
            operations,
            cache_dir=cache_dir,
            deployment=deployment,
            head=head,
            replaced=self._replaced,
            state=state,
        )

    def _replaced(self, reason: str) -> None:
        """Have the head stop, once, however often it asks; on its loop."""
        if not self._was_replaced:
            self._was_replaced = True
            logger.warning("this head stops: %s", reason)
            self._tell_replaced(reason)

    def _drain_beside(self, reason: str) -> None:
        threading.Thread(target=self.drain, args=(self._config.max_timeout_s,), name="replaced", daemon=True).start()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
