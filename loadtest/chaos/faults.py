"""Faults: a process is killed, stopped for a while, or made slow, by signals alone."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

import psutil

from ringpull.loadtest.chaos.kinds.undoing import stopped
from ringpull.loadtest.chaos.schedule import Fault
from ringpull.loadtest.deployment import Deployment

SLICE_S: Final = 0.04
"""Time that a slow process runs, and then stands still, and so on."""


def victim(ours: Deployment, fault: Fault) -> psutil.Process | None:
    """Return the process that a fault hits; None when there is none at this moment."""
    living = ours.running(fault.kind.role)
    return living[int(fault.pick * len(living))] if living else None


async def inject(process: psutil.Process, fault: Fault) -> None:
    """Inject a fault, and return when it is over: a stopped process goes on, a killed one is not waited for.

    psutil signals no process id that has come into other hands.
    """
    match fault.kind.verb:
        case "kill":
            with suppress(psutil.NoSuchProcess):
                process.kill()
        case "stop":
            with stopped(process):
                await asyncio.sleep(fault.seconds)
        case "slow":
            until_s = time.monotonic() + fault.seconds
            while time.monotonic() < until_s:
                with stopped(process):
                    await asyncio.sleep(SLICE_S)
                await asyncio.sleep(SLICE_S)
