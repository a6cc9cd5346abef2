"""The shell around a shard that Ray starts, names and stops.

A plain class: `ray.remote` is applied where it is deployed. Control calls come through Ray and run in its thread; the
data plane has its own thread with its own event loop, and look-ups have theirs. No row passes through Ray.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from ps.memory import process_memory, reuse_freed_memory
from ps.ring import Ring
from ps.shard import Shard
from ps.spec import Replicas
from ps.wire.messages import ShardStatistics
from ps.wire.server import ShardServer
from ps.wire.threads import LookupThreads

Result = TypeVar("Result")


class ShardActor:
    """One shard, listening from construction until `stop`."""

    def __init__(self, shard: int, host: str = "127.0.0.1", threads: int = 1) -> None:
        """Start the data plane on any free port of `host`.

        Args:
            threads: How many look-ups run at a time.

        Raises:
            StartupError: `host` cannot be listened on.
        """
        reuse_freed_memory()
        self._shard = Shard(shard)
        self._lookups = LookupThreads(threads)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"shard-{shard}", daemon=True)
        self._thread.start()
        self._server = ShardServer(self._shard, self._lookups)
        try:
            self._address = self._on_loop(self._server.start(host))
        except BaseException:
            self._stop_threads()
            raise

    def __repr__(self) -> str:
        return f"<ShardActor {self._shard!r} {self._server!r}>"

    def address(self) -> tuple[str, int]:
        """Return host and port of the data plane."""
        return self._address

    def open(
        self, model: str, version: int, folders: Mapping[str, Path], *, prefault: bool = False, verify: bool = False
    ) -> None:
        """See `Shard.open`."""
        self._shard.open(model, version, folders, prefault=prefault, verify=verify)

    def retire(self, model: str, version: int) -> None:
        """See `Shard.retire`."""
        self._shard.retire(model, version)

    def assign(self, epoch: int, ring: Ring, replicas: Mapping[tuple[str, str], Replicas]) -> None:
        """See `Shard.assign`."""
        self._shard.assign(epoch, ring, replicas)

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
            self._on_loop(self._server.close(grace_s=grace_s))
            self._stop_threads()

    def _on_loop(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_threads(self) -> None:
        # Look-ups first: their answers go through the loop, which must still be there to drop them.
        self._lookups.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
