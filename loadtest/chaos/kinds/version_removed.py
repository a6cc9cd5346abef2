"""`remove-version`: the folder of a version that is kept open behind the live one is deleted, and then another version
is published, or shards come or go, or one of them dies.

Promised: every answer, and that what comes then is carried through: a version that nothing needs is told and let go.
Undone by putting the folder back, so that the version can be published again.
"""

from __future__ import annotations

from contextlib import suppress

import psutil

from ringpull.loadtest.chaos.kinds.scene import Injected, Scene
from ringpull.loadtest.chaos.kinds.undoing import away
from ringpull.loadtest.chaos.schedule import Fault, Kind


async def remove_version(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Remove the folder of a kept version, and change the deployment, or kill a shard."""
    version = await scene.kept_version(fault.pick)
    if version is None:
        return
    then = (Kind.PUBLISH, Kind.REBALANCE, None)[int(fault.pick * 3)]
    victim = scene.pick("shard", fault.pick) if then is None else None
    injected()
    with away(scene.folders.version(version)):
        if then is not None:
            # Of versions that are not open: one that is there.
            if said := await scene.operator.carry_out(Fault(then, fault.pick * 3 % 1)):
                scene.broke(f"{then} was not carried through without the folder of version {version}: {said}")
        elif victim is not None:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        await scene.health.wait(*filter(None, [victim]))
    await scene.health.wait()
