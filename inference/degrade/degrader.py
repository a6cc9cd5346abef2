"""The degrade steps of one served version at work: which are in force, and how many replies each has changed.

A version's level follows the pressure of its head (`ringpull.inference.degrade.control`), looked at every `LOOK_S`,
busy or idle. What a request meets is the level at the moment it is decoded; the level of one request never changes
under way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ringpull.inference.degrade.control import LevelControl, Thresholds
from ringpull.inference.degrade.levels import Degradation, levels
from ringpull.inference.degrade.steps import Step
from ringpull.inference.schema.schema import Schema

logger: Final = logging.getLogger(__name__)

LOOK_S: Final = 0.05
"""Pause between two looks at the pressure."""


class Degrader:
    """The level of one version's degrade steps. Owned by the event loop."""

    def __init__(
        self,
        model: str,
        version: int,
        steps: Sequence[Step],
        schema: Schema,
        thresholds: Thresholds | None = None,
    ) -> None:
        """Begin with no step in force.

        Args:
            model: Model whose version declares the steps.
            version: Number of that version.
            steps: Steps that `check_steps` has accepted.
            schema: Schema of the version.
            thresholds: Bounds by which steps are taken and given back.
        """
        self.model: Final = model
        self.version: Final = version
        self.steps: Final = tuple(steps)
        self.replies: Final = {step.phrase: 0 for step in self.steps}
        """Replies that each step has changed, by its phrase, in the order declared."""
        self._levels = levels(self.steps, schema)
        self._control = LevelControl(len(self.steps), thresholds)

    def __repr__(self) -> str:
        return f"<Degrader {self.model}/{self.version} level {self.level} of {len(self.steps)}>"

    @property
    def level(self) -> int:
        """Number of steps that are in force, from the first."""
        return self._control.level

    @property
    def in_force(self) -> Degradation | None:
        """Degradation of a request that comes now; None: there is none."""
        return self._levels[self.level]

    def observe(self, pressure: float, now_s: float) -> None:
        """Take a step more, or give one back, if the pressure up to now asks for it."""
        before = self.level
        after = self._control.observe(pressure, now_s)
        if after != before:
            logger.warning(
                "%s/%d: degrade level %d of %d, %s: %s",
                self.model,
                self.version,
                after,
                len(self.steps),
                "from now on" if after > before else "no more",
                self.steps[min(before, after)].phrase,
            )

    def count(self, phrases: Iterable[str]) -> None:
        """Count a reply that these steps have changed."""
        for phrase in phrases:
            self.replies[phrase] += 1


async def following_pressure(
    degraders: Callable[[], Iterable[Degrader]],
    pressure: Callable[[], float],
    *,
    every_s: float = LOOK_S,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Tell all degraders the pressure, again and again, until cancelled."""
    while True:
        for degrader in degraders():
            degrader.observe(pressure(), clock())
        await asyncio.sleep(every_s)
