"""`stop-raylet`: the raylet of the node is stopped for up to 5 seconds, and goes on.

That is shorter than the time after which Ray takes a node for dead (`RAY_health_check_*`: half a minute by default).
Longer, on a Ray of one node, ends that Ray; on a Ray of several it makes a second coordinator beside the first, which
`tests/cluster/test_two_coordinators.py` does.

Promised: every answer. Undone by SIGCONT.
"""

from __future__ import annotations

import asyncio

from ringpull.loadtest.chaos.kinds.scene import Injected, Scene
from ringpull.loadtest.chaos.kinds.undoing import stopped
from ringpull.loadtest.chaos.schedule import Fault


async def stop_raylet(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Stop the raylet for some seconds."""
    victims = scene.ours.running("raylet")
    injected()
    with stopped(*victims):
        await asyncio.sleep(fault.seconds)
    await scene.health.wait()
