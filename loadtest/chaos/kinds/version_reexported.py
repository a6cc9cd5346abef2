"""`reexport-version`: a version's folder is deleted, and other content is exported under the same number.

Either to the version that is live, and then a shard is killed; or to one that is kept open behind it, and then that is
published again.

Promised: every answer, and every one of the content that the deployment has opened: the shard comes back by its own
copy while the folder has other content, and the publish is refused in words that name the version. Undone by putting
the first content back: the same files, so that the version is what it was.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import psutil

from ringpull.loadtest.chaos.checked_model import MODEL
from ringpull.loadtest.chaos.kinds.scene import Injected, Scene, publish
from ringpull.loadtest.chaos.kinds.undoing import replaced
from ringpull.loadtest.chaos.schedule import Fault
from ringpull.loadtest.chaos.serving import CommandFailed

LIVE_SHARE: Final = 0.5
"""Share of the cases in which it is the live version."""


async def reexport_version(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Put other content under a version's number, and do what makes somebody look at it."""
    if fault.pick < LIVE_SHARE:
        await _live(scene, fault, injected)
    else:
        await _kept(scene, fault, injected)


async def _live(scene: Scene, fault: Fault, injected: Injected) -> None:
    live = (await scene.operator.deployed()).live
    victim = scene.pick("shard", fault.pick / LIVE_SHARE)
    injected()
    with replaced(scene.folders.version(live), scene.folders.other(live)):
        if victim is not None:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        await scene.health.wait(*filter(None, [victim]))
    await scene.health.wait()


async def _kept(scene: Scene, fault: Fault, injected: Injected) -> None:
    version = await scene.kept_version(fault.pick)
    if version is None:
        return
    injected()
    with replaced(scene.folders.version(version), scene.folders.other(version)):
        try:
            await scene.operator.run(publish(version))
        except CommandFailed as exc:
            if f"{MODEL}/{version}" not in str(exc).partition("error:")[2]:
                scene.broke(f"the refusal does not name {MODEL}/{version}: {exc}")
        else:
            scene.broke(f"{MODEL}/{version} was published with other content than it was open with")
    await scene.health.wait()
