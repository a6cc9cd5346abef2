"""Blows: a process is killed, stopped for a while, or made slow, by signals alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psutil

from ringpull.loadtest.chaos.pieces import Pieces
from ringpull.loadtest.chaos.schedule import Fault

SLICE_S: Final = 0.04
"""A slow process runs so long, stands still as long, and so on."""


def victim(pieces: Pieces, fault: Fault) -> psutil.Process | None:
    """Return the process that a blow hits; None when there is none at this moment."""
    living = pieces.of(fault.kind.piece)
    return living[int(fault.pick * len(living))] if living else None


async def strike(process: psutil.Process, fault: Fault) -> None:
    """Carry a blow out, and return when it is over: a stopped process goes on, a killed one is not waited for."""
    match fault.kind.verb:
        case "kill":
            with suppress(psutil.NoSuchProcess):
                process.kill()
        case "stop":
            with _stopped(process):
                await asyncio.sleep(fault.seconds)
        case "slow":
            until_s = time.monotonic() + fault.seconds
            while time.monotonic() < until_s:
                with _stopped(process):
                    await asyncio.sleep(SLICE_S)
                await asyncio.sleep(SLICE_S)


@contextmanager
def _stopped(process: psutil.Process) -> Iterator[None]:
    """Never leave it stopped, whatever ends this program's wait."""
    with suppress(psutil.NoSuchProcess):
        process.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()
