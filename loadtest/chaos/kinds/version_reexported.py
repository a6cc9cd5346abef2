"""`reexport-version`: a version's folder is deleted, and other content is exported under the same number.

In a third of the cases each: to the version that is live, and a shard is killed; the same, and the shard's own copies
are lost, too; to a version that is kept open behind the live one, and that is published again.

Promised: every answer, and every one of the content that the deployment has opened. While the folder has other content
the shard comes back, by its own copies or by those of other shards, and the publish is refused in words that name the
version. Undone by putting the first content back: the same files, so that the version is what it was.
"""

from __future__ import annotations

import shutil
from contextlib import suppress

import psutil

from ringpull.loadtest.chaos.checked_model import MODEL
from ringpull.loadtest.chaos.kinds.scene import Injected, Scene, publish
from ringpull.loadtest.chaos.kinds.undoing import replaced
from ringpull.loadtest.chaos.schedule import Fault
from ringpull.loadtest.chaos.serving import CommandFailed


async def reexport_version(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Put other content under a version's number, and do what makes somebody look at it."""
    case, within = divmod(fault.pick * 3, 1)
    if case == 2:
        await _kept(scene, within, injected)
    else:
        await _live(scene, within, injected, copies_lost=case == 1)


async def _live(scene: Scene, pick: float, injected: Injected, *, copies_lost: bool) -> None:
    live = (await scene.operator.deployed()).live
    shards = [shard for shard in (await scene.status()).shards if shard.alive]
    shard = shards[int(pick * len(shards))]
    injected()
    with replaced(scene.folders.version(live), scene.folders.other(live)):
        gone = []
        with suppress(psutil.NoSuchProcess):
            gone = [psutil.Process(shard.pid)]
            gone[0].kill()
        if copies_lost:
            # It does not start again so soon, and what it makes then is its own.
            shutil.rmtree(scene.folders.data / f"shard-{shard.shard}", ignore_errors=True)
        await scene.health.wait(*gone)
    await scene.health.wait()


async def _kept(scene: Scene, pick: float, injected: Injected) -> None:
    version = await scene.kept_version(pick)
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
