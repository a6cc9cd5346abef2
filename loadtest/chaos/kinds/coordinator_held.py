"""`hold-coordinator`: the coordinator is stopped for 30 s, which is longer than a head's lease, and goes on.

Promised: every answer, and, of requests with a deadline of 100 ms, of which there is a share meanwhile, 99 of 100 in
time: a lease is refreshed beside requests. `ringpull status` works, and says that nobody leads. Undone by SIGCONT.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ringpull.loadtest.chaos.kinds.scene import Injected, Scene
from ringpull.loadtest.chaos.kinds.undoing import stopped
from ringpull.loadtest.chaos.schedule import Fault
from ringpull.loadtest.chaos.serving import CommandFailed

TOLD_S: Final = 5.0
"""Time after which `status` has to say that nobody leads."""


async def hold_coordinator(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Stop the coordinator for three leases, while some requests are in a hurry, and see that somebody says so."""
    victims = scene.ours.running("coordinator")
    injected()
    with stopped(*victims), scene.hurried():
        ends = asyncio.create_task(asyncio.sleep(fault.seconds))
        await asyncio.sleep(min(TOLD_S, fault.seconds))
        await _look(scene)
        await ends
    await scene.health.wait()


async def _look(scene: Scene) -> None:
    try:
        told = await scene.look("status")
    except CommandFailed as exc:
        scene.broke(f"while the coordinator is stopped: {exc}")
        return
    leader = told.get("leader") or {}
    if leader.get("leads", True) or not told.get("warnings"):
        scene.broke(f"{TOLD_S:g} s after the coordinator was stopped, status warns of nothing: its leader is {leader}")
