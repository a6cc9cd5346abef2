"""The head's shell for Ray: a plain class with blocking control calls around a `Head` on its own uvloop thread.

Ray's thread and the head's never share state: each control call is carried to the loop and waited for. `ray.remote` is
applied in `deploy`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import uvloop

from inference.config import HeadConfig
from inference.head import Head, HeadAddress
from ps.errors import StartupError
from ps.memory import process_memory, reuse_freed_memory
from router.shard_map import ShardMap

T = TypeVar("T")


class HeadActor:
    """One head in this process: made, started once, drained once."""

    def __init__(self, config: HeadConfig) -> None:
        self._config = config
        self._head: Head | None = None
        reuse_freed_memory()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="head", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"HeadActor(pid {os.getpid()}, {self._head!r})"

    def start(self, shard_map: ShardMap, version_dirs: Sequence[str]) -> HeadAddress:
        """Load the versions and serve; return where.

        Raises:
            InvalidInput: A folder is not there, or a version is given twice.
            CorruptData: A version is half-written or damaged.
            StartupError: A port cannot be used, or the head was started before.
        """
        if self._head is not None:
            raise StartupError("this head was started before")
        self._head = self._call(_new_head(self._config, shard_map))
        return self._call(self._head.start(version_dirs))

    def update_map(self, shard_map: ShardMap) -> None:
        """Route by a newer shard map."""
        if self._head is not None:
            self._loop.call_soon_threadsafe(self._head.update_map, shard_map)

    def drain(self, timeout_s: float) -> None:
        """Take no more calls, answer those in flight within `timeout_s`, and stop for good. Again, it does nothing."""
        if self._thread.is_alive():
            if self._head is not None:
                self._call(self._head.stop(timeout_s))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def pid(self) -> int:
        """Return the process's id."""
        return os.getpid()

    def memory(self) -> dict[str, int]:
        """Return this process's memory in bytes: see `ps.memory.process_memory`."""
        return process_memory()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


async def _new_head(config: HeadConfig, shard_map: ShardMap) -> Head:
    """Make the head on its loop: everything in it belongs to that loop."""
    return Head(config, shard_map)
