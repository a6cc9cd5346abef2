"""`hold-coordinator`: the coordinator is stopped for 30 s, which is longer than a head's lease, and goes on.

Promised: every answer, and, of requests with a deadline of 100 ms, of which there is a share meanwhile, 99 of 100 in
time: a lease is refreshed beside requests. Undone by SIGCONT.
"""

from __future__ import annotations

import asyncio

from ringpull.loadtest.chaos.kinds.scene import Injected, Scene
from ringpull.loadtest.chaos.kinds.undoing import stopped
from ringpull.loadtest.chaos.schedule import Fault


async def hold_coordinator(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Stop the coordinator for three leases, while some requests are in a hurry."""
    victims = scene.ours.running("coordinator")
    injected()
    with stopped(*victims), scene.hurried():
        await asyncio.sleep(fault.seconds)
    await scene.health.wait()
