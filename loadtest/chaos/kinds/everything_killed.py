"""`kill-all`: kill -9 of the coordinator, of every head and of every shard, side by side, as the killer of a machine
without memory does.

Promised: no wrong answer, ever, and that all of it comes back healthy by itself. No request is promised to succeed
until then. There is nothing to undo: Ray starts the processes again.
"""

from __future__ import annotations

from contextlib import suppress

import psutil

from ringpull.loadtest.chaos.kinds.scene import Injected, Scene
from ringpull.loadtest.chaos.schedule import Fault


async def kill_all(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Kill everything that Ray runs for the deployment."""
    victims = scene.ours.running("coordinator", "head", "shard")
    injected()
    for victim in victims:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    await scene.health.wait(*victims)
