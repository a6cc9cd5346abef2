"""`reexport-version`: a version's folder is deleted, and other content is exported under the same number.

In a quarter of the cases each: to the version that is live, and a shard is killed; the same, and the shard's own copies
are lost, too; to a version that is kept open behind the live one, and that is published again; to a version that is not
open, of which shards may have copies from an earlier time, and that is published.

Promised: every answer, and every one of the content that the deployment has opened. While the folder of an open version
has other content the shard comes back, by its own copies or by those of other shards (where shards open files in place,
once the first content is back). Undone by putting the first content back: the same files, so that the version is what
it was. A kept version whose folder has other content is let go, which `status` says; then, as of a version that was not
open, the publish is carried through, and every answer is of its new content, which stays. Before that it is refused in
words that name the version.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from typing import Final

import psutil

from ringpull.loadtest.chaos.checked_model import MODEL
from ringpull.loadtest.chaos.kinds.scene import Injected, Scene, publish
from ringpull.loadtest.chaos.kinds.undoing import exchange, replaced
from ringpull.loadtest.chaos.schedule import Fault
from ringpull.loadtest.chaos.serving import CommandFailed

OPENED_S: Final = 8.0
"""Time for which files that shards open in place are others: a killed shard has looked at them by then."""


async def reexport_version(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Put other content under a version's number, and do what makes somebody look at it."""
    case, within = divmod(fault.pick * 4, 1)
    match int(case):
        case 2:
            await _kept(scene, within, injected)
        case 3:
            await _closed(scene, within, injected)
        case number:
            await _live(scene, within, injected, copies_lost=number == 1)


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
        if scene.folders.data is None:
            await asyncio.sleep(OPENED_S)
        else:
            if copies_lost:
                # It does not start again so soon, and what it makes then is its own.
                shutil.rmtree(scene.folders.data / f"shard-{shard.shard}", ignore_errors=True)
            await scene.health.wait(*gone)
    await scene.health.wait(*gone)


async def _kept(scene: Scene, pick: float, injected: Injected) -> None:
    version = await scene.kept_version(pick)
    if version is None:
        return
    injected()
    _exchange(scene, version)
    try:
        await scene.operator.run(publish(version))
    except CommandFailed as exc:
        _exchange(scene, version)
        if f"{MODEL}/{version}" not in str(exc).partition("error:")[2]:
            scene.broke(f"the refusal does not name {MODEL}/{version}: {exc}")
    else:
        if not any(f"{MODEL}/{version} was let go" in said for said in (await scene.status()).warnings):
            scene.broke(f"{MODEL}/{version} was published with other content than it was open with")
    await scene.health.wait()


async def _closed(scene: Scene, pick: float, injected: Injected) -> None:
    now = await scene.operator.deployed()
    folders = sorted(scene.folders.others.iterdir())
    closed = [int(folder.name) for folder in folders if folder.name.isdigit() and int(folder.name) not in now.open]
    version = closed[int(pick * len(closed))]
    injected()
    _exchange(scene, version)
    try:
        await scene.operator.run(publish(version))
    except CommandFailed as exc:
        scene.broke(f"what is not open may have any content: {exc}")
    await scene.health.wait()


def _exchange(scene: Scene, version: int) -> None:
    exchange(scene.folders.version(version), scene.folders.other(version))
    scene.reexported(version)
