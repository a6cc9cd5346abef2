"""`fill-disk`: the disk below the coordinator's `--state-dir` has no byte left, for as long as it takes to look.

The deployment is started in a mount namespace of its own, in which a small tmpfs lies there: no other disk is filled.
Meanwhile an operator asks for another number of shards, and a shard is killed.

Promised: every answer; the operator is refused in words; the shard comes back while the disk is full; what was refused
is not carried out when there is space again. Undone by removing the file that fills the disk. Where a namespace may not
be made, this is not done, and the run says so.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import psutil

from ringpull.loadtest.chaos.changes import command
from ringpull.loadtest.chaos.kinds.scene import Injected, Scene
from ringpull.loadtest.chaos.kinds.undoing import filled
from ringpull.loadtest.chaos.schedule import Command, Fault, Kind
from ringpull.loadtest.chaos.serving import CommandFailed

LATER_S: Final = 3.0
"""Time for which what was refused is looked for, after there is space again."""


async def fill_disk(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Fill the disk, ask for a change, kill a shard, and see it come back; then see that the change never comes."""
    before = await scene.operator.deployed()
    asked = command(Fault(Kind.REBALANCE, fault.pick), before, 0)
    injected()
    with filled(scene.folders.state.parent):
        said = await _refused(scene, asked)
        if not said:
            scene.broke(f"ringpull {' '.join(asked.words)} was carried out although nothing of it could be saved")
        victim = scene.pick("shard", fault.pick)
        if victim is not None:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        await scene.health.wait(*filter(None, [victim]))
    if said:
        await asyncio.sleep(LATER_S)
        after = await scene.operator.deployed()
        if after.shards != before.shards:
            scene.broke(f"what was refused was carried out later: {before.shards} shards became {after.shards}; {said}")
    await scene.health.wait()


async def _refused(scene: Scene, asked: Command) -> str:
    try:
        await scene.operator.run(asked)
    except CommandFailed as exc:
        return str(exc)
    return ""
