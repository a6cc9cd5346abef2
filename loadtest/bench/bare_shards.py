"""Shards without Ray: the plain actor class in processes of its own, serving one table that several look-ups share.

As a program it is one shard: `python -m loadtest.bench.bare_shards SHARD SHARDS FOLDER` prints `ready PORT`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import typer

from loadtest.bench.process import server, wait_until_ended
from ps.actor import ShardActor
from ps.ring import Ring
from router.shard_map import ShardAddress, ShardMap

MODEL = "bench"
VERSION = 1
TABLE = "bench"
EPOCH = 1


@dataclass(frozen=True, slots=True)
class BareShards:
    """Shards that are up."""

    shard_map: ShardMap
    processes: list[psutil.Process]


@contextmanager
def bare_shards(folder: Path, count: int) -> Iterator[BareShards]:
    """Start `count` shards over the table in `folder`, wait until they listen, and end them at the end."""
    with ExitStack() as stack:
        started = [
            stack.enter_context(server("loadtest.bench.bare_shards", str(shard), str(count), str(folder)))
            for shard in range(count)
        ]
        addresses = tuple(ShardAddress(shard, "127.0.0.1", int(port)) for shard, (port, _) in enumerate(started))
        shard_map = ShardMap(EPOCH, addresses, Ring.even(range(count)), {(MODEL, TABLE): 1})
        yield BareShards(shard_map, [process for _, process in started])


def main(shard: int, shards: int, folder: Path) -> None:
    actor = ShardActor(shard)
    actor.open(MODEL, VERSION, {TABLE: folder})
    actor.assign(EPOCH, Ring.even(range(shards)), {(MODEL, TABLE): 1})
    print(f"ready {actor.address()[1]}", flush=True)
    wait_until_ended()
    actor.stop()


if __name__ == "__main__":
    typer.run(main)
