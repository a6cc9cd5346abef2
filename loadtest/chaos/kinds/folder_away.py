"""A folder goes away for some seconds and comes back, as one on a network does.

- `away-state`: the coordinator's `--state-dir`. In half of the cases the coordinator is killed at once, and has to be
  back, with what it knew, after the folder is.
- `away-logs`: `--log-dir`. A shard is killed meanwhile, so that all have something to log.
- `away-version`: the folder of a version that is open behind the live one. A shard is killed meanwhile.

Promised: every answer, and that all is healthy after the folder is back, a shard that died even before. Nobody begins a
state of its own in the place of one that is away. Undone by renaming the folder back; what somebody has made in its
place is put aside.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import psutil

from ringpull.loadtest.chaos.kinds.scene import Injected, Scene
from ringpull.loadtest.chaos.kinds.undoing import away
from ringpull.loadtest.chaos.schedule import Fault

KILLED_SHARE: Final = 0.5
"""Share of the cases in which the coordinator dies while its folder is away."""


async def state_away(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Take the coordinator's state away, and in half of the cases the coordinator with it."""
    gone = [] if fault.pick >= KILLED_SHARE else scene.ours.running("coordinator")
    injected()
    with away(scene.folders.state) as made:
        _kill(gone)
        await asyncio.sleep(fault.seconds)
    for folder in made:
        if found := sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()):
            scene.broke(f"a state of its own was begun while --state-dir was away: {', '.join(found)}")
    await scene.health.wait(*gone)


async def logs_away(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Take the folder of logs away, and kill a shard, of which others have something to log."""
    victim = scene.pick("shard", fault.pick)
    injected()
    with away(scene.folders.logs):
        _kill([victim])
        await asyncio.sleep(fault.seconds)
    await scene.health.wait(*filter(None, [victim]))


async def version_away(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Take the folder of a kept version away, and kill a shard, which must come back without it."""
    version = await scene.kept_version(fault.pick)
    if version is None:
        return
    victim = scene.pick("shard", fault.pick)
    injected()
    with away(scene.folders.version(version)):
        _kill([victim])
        await asyncio.sleep(fault.seconds)
        await scene.health.wait(*filter(None, [victim]))
    await scene.health.wait()


def _kill(processes: list[psutil.Process] | list[psutil.Process | None]) -> None:
    for process in processes:
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.kill()
