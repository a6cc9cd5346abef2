"""`remove-version`: the folder of a version that is kept open behind the live one is deleted, and then, in a quarter of
the cases each, another version is published, shards come or go, a shard is killed, or a head is. (Where rows are
pushed, no shards come or go.)

Promised: every answer, and that what comes then is carried through, or comes back: a version that nothing needs is told
and let go. Undone by putting the folder back, so that the version can be published again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import psutil

from ringpull.loadtest.chaos.kinds.scene import Injected, Scene
from ringpull.loadtest.chaos.kinds.undoing import away
from ringpull.loadtest.chaos.schedule import Fault, Kind

THEN: Final = (Kind.PUBLISH, Kind.REBALANCE, Kind.KILL_SHARD, Kind.KILL_HEAD)


async def remove_version(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Remove the folder of a kept version, and change the deployment, or kill one of its processes."""
    possible = [kind for kind in THEN if scene.moves or kind is not Kind.REBALANCE]
    number, within = divmod(fault.pick * len(possible), 1)
    version, then = await scene.kept_version(within), possible[int(number)]
    if version is None:
        return
    victim = scene.pick(then.role, within) if then.role else None
    injected()
    with away(scene.folders.version(version)):
        if victim is not None:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        elif not then.role and (said := await scene.operator.execute(Fault(then, within, without=version))):
            scene.broke(f"{then} was not carried through without the folder of version {version}: {said}")
        await scene.health.wait(*filter(None, [victim]))
    await scene.health.wait()
