"""Shards without Ray: the plain actor class in processes of its own, serving one table that several look-ups share.

As a program it is one shard: `python -m ringpull.loadtest.bench.bare_shards SHARD SHARDS FOLDER` prints `ready PORT`.
With `--data-dir` it keeps copies of its own of just its ranges. `--touch` brings every page into memory; then
`--beside` opens a second version.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import typer

from ringpull.loadtest.process import server, wait_until_ended
from ringpull.ps.hashing import SLOTS
from ringpull.ps.memory import process_memory
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.slot_mask import runs
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.shard_map import ShardAddress, ShardMap

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
def bare_shards(
    folder: Path,
    count: int,
    *,
    replicas: Replicas = 1,
    data_dir: Path | None = None,
    touch: bool = False,
    beside: Path | None = None,
    touch_beside: bool = False,
) -> Iterator[BareShards]:
    """Start `count` shards over the table in `folder`, wait until they listen, and end them at the end.

    Args:
        data_dir: For copies of their own; None: they open the folder.
        touch: Bring every page of it into memory.
        beside: Another table, opened after that as a second version.
        touch_beside: Bring every page of that into memory too.
    """
    options = ["--replicas", str(replicas), *(["--touch"] if touch else [])]
    options += [] if data_dir is None else ["--data-dir", str(data_dir)]
    options += [] if beside is None else ["--beside", str(beside)]
    options += ["--touch-beside"] if touch_beside else []
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                server("ringpull.loadtest.bench.bare_shards", str(shard), str(count), str(folder), *options)
            )
            for shard in range(count)
        ]
        addresses = tuple(ShardAddress(shard, "127.0.0.1", int(port)) for shard, (port, _) in enumerate(started))
        owned = served_ranges(count, replicas)
        yield BareShards(ShardMap(EPOCH, addresses, owned.ring, owned.replicas), [process for _, process in started])


def served_ranges(shards: int, replicas: Replicas) -> ServedRanges:
    """Return who owns what."""
    return ServedRanges(Ring.even(range(shards), 1 if replicas == ALL else replicas), {(MODEL, TABLE): replicas})


def pss_bytes(process: psutil.Process) -> int:
    """Return the memory of a shard; pages that n processes share count 1/n in each."""
    found = process_memory(process.pid)
    assert found, "the kernel does not tell the shards' memory"
    return found["Pss"]


def main(
    shard: int,
    shards: int,
    folder: Path,
    replicas: str = "1",
    data_dir: Path | None = None,
    touch: bool = False,
    beside: Path | None = None,
    touch_beside: bool = False,
) -> None:
    copies: Replicas = ALL if replicas == ALL else int(replicas)
    owned = served_ranges(shards, copies)
    slots = [SlotRange(0, SLOTS)] if data_dir is None else runs(owned.ring.owned_mask(shard, copies).astype(bool))
    actor = ShardProcess(shard, data_dir=data_dir)
    opened = []
    for version, path in enumerate([folder] if beside is None else [folder, beside], VERSION):
        opened.append(VersionPlacement(MODEL, version, {TABLE: TablePlacement(str(path), tuple(slots), sources=())}))
        actor.prepare(opened)
        actor.assign(EPOCH, [owned], [(each.model, each.version) for each in opened])
        if touch if version == VERSION else touch_beside:
            actor.touch()
    print(f"ready {actor.address()[1]}", flush=True)
    wait_until_ended()
    actor.stop()


if __name__ == "__main__":
    typer.run(main)
