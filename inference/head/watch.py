"""Watching model folders: a version that appears, complete and higher than all before, is published.

One that was refused is offered again (`ringpull.inference.head.offers`). Until it is published or gone, `warnings` says
what was refused and why. What cannot be read at one look may be readable at the next, so nothing here is ever fatal. A
folder is looked up by its name each time: where that is a link, it may lead to another release by then.

What is new is told by the deployment and not by what lay there when a head began to look: a version above all that this
head has and that ever went live. So a head that is restarted offers again what was refused, and publishes what appeared
meanwhile, while one that an operator went back from stays so. Of a model that was asked for by the numbers of its
versions nothing is new until an operator publishes the newest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from ringpull.inference.head.offers import Found, Offers, Step, is_change
from ringpull.inference.model.model_dir import manifest_mark, newest_complete
from ringpull.ps.errors import RingpullError
from ringpull.router.control.change import Kind
from ringpull.router.control.operations import GetStatus, OperatorVerbs, Publish

logger: Final = logging.getLogger(__name__)

SOON_S: Final = 1.0
"""Longest time until the next look while something that was found waits for its turn: there is one change at a time."""

READ_AGAIN_S: Final = 60.0
"""Time after which the manifest of a version that is known is read again: each may have 64 MiB, and every head looks.
"""


class Watch:
    """Looks for new versions of served models."""

    def __init__(
        self,
        folders: Callable[[], Mapping[str, Path | str]],
        operations: OperatorVerbs,
        *,
        loaded: Callable[[], Collection[tuple[str, int]]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to look; nothing is read yet.

        Args:
            folders: Returns, for each model that is served now, its folder with `VERSION/` in it, or that folder's URL.
            operations: To publish by; called from whatever thread `look` is.
            loaded: Returns the versions that this head has, which have all been published.
            clock: Seconds.
        """
        self._folders = folders
        self._operations = operations
        self._loaded = loaded
        self._clock = clock
        self._offers = Offers(operations, clock)
        self._known: dict[str, Found] = {}
        """Version of each model below which nothing is new, and which is not either; from the first look on at which
        the coordinator answers."""
        self._read_s: dict[str, float] = {}
        """Time at which the manifest of each model's newest version was last read."""
        self._pinned: Collection[str] | None = None
        """Models that stay with their versions, where this look has asked for them."""
        self.warnings: tuple[str, ...] = ()
        """What was refused, or could not be looked at, and why: a sentence each, as of the last look."""

    def __repr__(self) -> str:
        return f"<Watch { ({model: found.number for model, found in self._known.items()}) }>"

    def look(self) -> None:
        """Publish what is new. Blocks while folders are read and the coordinator is told."""
        troubles: dict[str, str] = {}
        self._pinned = None
        folders = {model: str(folder) for model, folder in self._folders().items()}
        for model in self._known.keys() - folders.keys():
            # It is served no more. If it comes back, what is new is told by the deployment.
            del self._known[model]
            self._offers.settle(model)
        for model, folder in folders.items():
            try:
                self._look(model, folder)
            except (RingpullError, OSError) as exc:
                logger.warning("%s: no new version can be looked for: %s", folder, exc)
                troubles[model] = f"new versions of {model} cannot be looked for: {exc}"
        refused = {
            model: f"{model}/{each.found.number} in {folders[model]} is not published: {each.reason}"
            for model, each in self._offers.refused.items()
        }
        self.warnings = tuple((refused | troubles).values())

    def _look(self, model: str, folder: str) -> None:
        newest, where = newest_complete(folder)
        self._offers.drop_others(model, newest)
        if model not in self._known:
            self._known[model] = Found(self._highest_known(model), None)
        known = self._known[model]
        if not newest or newest < known.number or (newest == known.number and self._has_just_read(model)):
            return
        if newest > known.number and (model, newest) not in self._loaded() and self._is_pinned(model):
            self._offers.settle(model)
            return
        found = Found(newest, manifest_mark(where))
        self._read_s[model] = self._clock()
        # What this head has was published, by whomever. Under a number that is known, only another manifest is new.
        there = known.mark is None if newest == known.number else (model, newest) in self._loaded()
        if found == known or there:
            self._settle(model, found)
            return
        step = self._offers.step(model, found, is_change(Kind.PUBLISH, f"{model}/{newest}"))
        if step is Step.OFFER:
            request = Publish(model=model, version=newest, folder=folder)
            step = self._offers.offer(model, found, request, f"publish {model}/{newest}, new in {folder}")
        if step is Step.DONE:
            self._settle(model, found)

    def _highest_known(self, model: str) -> int:
        own = [number for name, number in self._loaded() if name == model]
        return max([*own, self._operations.call(GetStatus()).highest_live.get(model, 0)])

    def _is_pinned(self, model: str) -> bool:
        if self._pinned is None:
            self._pinned = self._operations.call(GetStatus()).spec.pinned
        return model in self._pinned

    def _has_just_read(self, model: str) -> bool:
        """Whether the manifest of the newest version, which is known, need not be read at this look."""
        if self._offers.is_open(model):
            return False
        read_s = self._read_s.get(model)
        return read_s is not None and self._clock() - read_s < READ_AGAIN_S

    def _settle(self, model: str, found: Found) -> None:
        self._known[model] = found
        self._offers.settle(model)


async def watching(look: Callable[[], bool | None], every_s: float) -> None:
    """Look again and again, off the event loop, until cancelled; soon again where a look returns that something waits
    for its turn."""
    waits: bool | None = False
    while True:
        await asyncio.sleep(min(every_s, SOON_S) if waits else every_s)
        try:
            waits = await asyncio.to_thread(look)
        except Exception:  # a bug: but the next version may have better luck
            logger.exception("looking for new versions failed")
