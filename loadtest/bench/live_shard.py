"""Shard that takes pushes, in a process of its own without Ray, and a router that pushes to it.

As a program it is that shard: `python -m ringpull.loadtest.bench.live_shard TABLE DATA_DIR` prints `ready PORT` when it
has read its log. What a coordinator does, it does for itself: it saves that it has pushed rows before the first one is
acknowledged, in a file beside its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import typer
from numpy.typing import NDArray

from ringpull.deploy.ended import has_ended
from ringpull.inference.head.head import connect
from ringpull.ps.hashing import SLOTS
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.spec import Pooling, TableSpec
from ringpull.router.client import Router
from ringpull.router.lookup import Lookup
from ringpull.router.pushed_rows import PushedRows, PushResult
from ringpull.router.shard_map import ShardAddress, ShardMap

MODEL: Final = "bench"
VERSION: Final = 1
TABLE: Final = "bench"
LINEAGE: Final = 0x11FE
EPOCH: Final = 1
LOOK_S: Final = 0.02
"""Time between two looks at whether the first push waits to be confirmed."""
TOLD: Final = "newer-bytes"
"""File in which the shard says what memory its newer rows take."""
PROGRAM: Final = "ringpull.loadtest.bench.live_shard"

FloatArray = NDArray[np.float32]
KeyArray = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Writer:
    """The way of pushes and pulls to the shard."""

    router: Router
    timeout_s: float = 60.0

    async def push(self, keys: KeyArray, rows: FloatArray, *, writer: int = 0, number: int = 0) -> PushResult:
        """Push rows, float32 (n, dim), and return when they are on disk."""
        pushed = PushedRows(
            model=MODEL,
            table=TABLE,
            lineage=LINEAGE,
            writer=writer,
            number=number,
            keys=keys,
            rows=np.ascontiguousarray(rows).view(np.uint8),
        )
        return await self.router.push(pushed, deadline_s=time.monotonic() + self.timeout_s)

    async def rows(self, keys: KeyArray) -> FloatArray:
        """Return the rows of keys, float32 (n, dim)."""
        lookup = Lookup(TABLE, Pooling.NONE, keys)
        (found,) = await self.router.pull(MODEL, VERSION, [lookup], deadline_s=time.monotonic() + self.timeout_s)
        values: FloatArray = found.values
        return values


@asynccontextmanager
async def writer_to(port: int, spec: TableSpec) -> AsyncIterator[Writer]:
    """Connect to the shard on a port, whose table has this spec."""
    router = Router(connect)
    router.update(ShardMap(EPOCH, (ShardAddress(0, "127.0.0.1", port),), Ring.even([0]), {}))
    router.register(MODEL, VERSION, {TABLE: spec})
    try:
        yield Writer(router)
    finally:
        await router.close()


def kill(process: psutil.Process) -> None:
    """End a shard with kill -9, and wait until it has ended; who started it has its exit status."""
    process.kill()
    while not has_ended(process):
        time.sleep(LOOK_S)


def newer_bytes(data_dir: Path) -> int:
    """Return the memory of newer rows, with what finds them, as the shard last counted it."""
    return int((data_dir / TOLD).read_text(encoding="utf-8"))


def _tell(data_dir: Path, heartbeat: ShardHeartbeat) -> None:
    beside = data_dir / f"{TOLD}.next"
    beside.write_text(str(heartbeat.newer_bytes), encoding="utf-8")
    beside.replace(data_dir / TOLD)


def main(table: Path, data_dir: Path, log_limit: int = 1 << 30, newer_memory: int = 1 << 30) -> None:
    saved = data_dir / "pushed.json"
    pushed = {tuple(name) for name in json.loads(saved.read_text(encoding="utf-8"))} if saved.exists() else set()
    owned = ServedRanges(Ring.even([0]), {})
    opened = VersionPlacement(
        MODEL,
        VERSION,
        {TABLE: TablePlacement(str(table), (SlotRange(0, SLOTS),), ())},
        lineage=LINEAGE,
        live=frozenset([TABLE]),
    )
    live = LiveSettings(log_limit_bytes=log_limit, newer_memory_bytes=newer_memory)
    actor = ShardProcess(0, data_dir=data_dir, live=live)
    actor.prepare([opened])
    actor.assign(EPOCH, [owned], [(MODEL, VERSION)], pushed)
    _tell(data_dir, actor.heartbeat())
    print(f"ready {actor.address()[1]}", flush=True)
    while True:
        time.sleep(LOOK_S)
        heartbeat = actor.heartbeat()
        _tell(data_dir, heartbeat)
        wanted = set(heartbeat.wants_to_push)
        if not wanted <= pushed:
            pushed |= wanted
            saved.write_text(json.dumps(sorted(pushed)), encoding="utf-8")
            actor.assign(EPOCH, [owned], [(MODEL, VERSION)], pushed)


if __name__ == "__main__":
    typer.run(main)
