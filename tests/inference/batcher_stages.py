"""Stages for a micro-batcher under test: recorders of what they were given, which pass when they are let."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from ringpull.inference.head.batcher import QUIET_TURNS, Ready

FAR_S = 1e6
"""A deadline on the fake clock that never passes."""


class Stages:
    """The stages as recorders: `pull` and `compute` note their batches and pass when their gate is open.

    An item is refused when it is in `refusals`.
    """

    def __init__(self) -> None:
        self.pulled: list[list[int]] = []
        self.pull_deadlines: list[float] = []
        self.computed: list[list[int]] = []
        self.pull_gate = asyncio.Event()
        self.compute_gate = threading.Event()
        self.pull_started = asyncio.Event()
        self.compute_started = threading.Event()
        self.refusals: dict[int, Exception] = {}
        self.stuck: dict[int, asyncio.Event] = {}
        """Items whose batch is pulled only when their event is set."""
        self.pull_error: Exception | None = None
        self.compute_error: Exception | None = None
        self.pull_gate.set()
        self.compute_gate.set()

    def prepare(self, items: Sequence[int]) -> Ready[dict[int, int]]:
        refused = {place: self.refusals[item] for place, item in enumerate(items) if item in self.refusals}
        return Ready({place: item for place, item in enumerate(items) if place not in refused}, refused)

    async def pull(self, items: dict[int, int], deadline_s: float) -> dict[int, int]:
        self.pulled.append(list(items.values()))
        self.pull_deadlines.append(deadline_s)
        self.pull_started.set()
        await self.pull_gate.wait()
        for event in [self.stuck[item] for item in items.values() if item in self.stuck]:
            await event.wait()
        if self.pull_error is not None:
            raise self.pull_error
        return items

    def compute(self, work: dict[int, int]) -> dict[int, int]:
        self.computed.append(list(work.values()))
        self.compute_started.set()
        self.compute_gate.wait()
        if self.compute_error is not None:
            raise self.compute_error
        return {place: 10 * item for place, item in work.items()}


async def turns(count: int = QUIET_TURNS + 5) -> None:
    """Let every ready callback of the loop run; by default, so often that nobody seems to be on the way in."""
    for _ in range(count):
        await asyncio.sleep(0)
