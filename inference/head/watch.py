"""Watching model folders: a version that appears, complete and higher than all before, is published.

What is wrong with a version now may be right in a moment: its files are still being copied, a disk was full, a shard
was away. So one that was refused is offered again, after a delay that doubles, and at once when its manifest has
changed. Until it is published or gone, `warnings` says what was refused and why. What cannot be read at one look may be
readable at the next, so nothing here is ever fatal. A folder is looked up by its name each time: where that is a link,
it may lead to another release by then.

What is new is told by the deployment and not by what lay there when a head began to look: a version above all that this
head has and that ever went live. So a head that is restarted offers again what was refused, and publishes what appeared
meanwhile, while one that an operator went back from stays so.

Every head watches. Who offers a version first has it published; the others see that a change is under way, and then
that they have the version, or that it was refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ringpull.inference.model.model_dir import manifest_mark, newest_complete
from ringpull.ps.errors import RingpullError, Unavailable
from ringpull.router.control.change import Kind
from ringpull.router.control.operations import ChangeStatus, GetChange, GetStatus, OperatorVerbs, Publish

logger: Final = logging.getLogger(__name__)

FIRST_RETRY_S: Final = 1.0
"""Delay before a version that was refused is offered again; doubled with each further refusal."""
LONGEST_RETRY_S: Final = 120.0
"""Upper bound on that delay: opening a version everywhere, only to refuse it, costs something."""

READ_AGAIN_S: Final = 60.0
"""Time after which the manifest of a version that is known is read again: each may have 64 MiB, and every head looks.
"""


class _Found(NamedTuple):
    """A version as it lies there."""

    number: int
    mark: int | None
    """Mark that tells its manifest from a later one under the same number; None: whatever it is."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    found: _Found
    reason: str
    delay_s: float
    due_s: float
    """Time at which it is offered again."""


class Watch:
    """Looks for new versions of served models."""

    def __init__(
        self,
        folders: Mapping[str, Path | str],
        operations: OperatorVerbs,
        *,
        loaded: Callable[[], Collection[tuple[str, int]]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to look; nothing is read yet.

        Args:
            folders: Model -> its folder, with `VERSION/` in it, or that folder's URL.
            operations: To publish by; called from whatever thread `look` is.
            loaded: Returns the versions that this head has, which have all been published.
            clock: Seconds.
        """
        self._folders = {model: str(folder) for model, folder in folders.items()}
        self._operations = operations
        self._loaded = loaded
        self._clock = clock
        self._known: dict[str, _Found] = {}
        """Version of each model below which nothing is new, and which is not either; from the first look on at which
        the coordinator answers."""
        self._read_s: dict[str, float] = {}
        """Time at which the manifest of each model's newest version was last read."""
        self._begun: dict[str, tuple[_Found, int]] = {}
        """Version offered last and taken, and the change that publishes it."""
        self._ended: dict[str, int] = {}
        """Last change to have failed to publish a version, whoever asked for it."""
        self._refused: dict[str, _Refusal] = {}
        self.warnings: tuple[str, ...] = ()
        """What was refused, or could not be looked at, and why: a sentence each, as of the last look."""

    def __repr__(self) -> str:
        return f"<Watch { ({model: found.number for model, found in self._known.items()}) }>"

    def look(self) -> None:
        """Publish what is new. Blocks while folders are read and the coordinator is told."""
        troubles: dict[str, str] = {}
        for model, folder in self._folders.items():
            try:
                self._look(model, folder)
            except (RingpullError, OSError) as exc:
                logger.warning("%s: no new version can be looked for: %s", folder, exc)
                troubles[model] = f"new versions of {model} cannot be looked for: {exc}"
        refused = {
            model: f"{model}/{each.found.number} in {self._folders[model]} is not published: {each.reason}"
            for model, each in self._refused.items()
        }
        self.warnings = tuple((refused | troubles).values())

    def _look(self, model: str, folder: str) -> None:
        newest, where = newest_complete(folder)
        if (refused := self._refused.get(model)) is not None and refused.found.number != newest:
            del self._refused[model]
        if model not in self._known:
            self._known[model] = _Found(self._highest_known(model), None)
        known = self._known[model]
        if not newest or newest < known.number or (newest == known.number and self._has_just_read(model)):
            return
        found = _Found(newest, manifest_mark(where))
        self._read_s[model] = self._clock()
        # What this head has was published, by whomever. Under a number that is known, only another manifest is new.
        there = known.mark is None if newest == known.number else (model, newest) in self._loaded()
        if found == known or there:
            self._settle(model, found)
        elif not self._waits(model, found):
            self._offer(model, folder, found)

    def _highest_known(self, model: str) -> int:
        own = [number for name, number in self._loaded() if name == model]
        return max([*own, self._operations.call(GetStatus()).highest_live.get(model, 0)])

    def _has_just_read(self, model: str) -> bool:
        """Whether the manifest of the newest version, which is known, need not be read at this look."""
        if model in self._refused or model in self._begun:
            return False
        read_s = self._read_s.get(model)
        return read_s is not None and self._clock() - read_s < READ_AGAIN_S

    def _settle(self, model: str, found: _Found) -> None:
        self._known[model] = found
        self._refused.pop(model, None)
        self._begun.pop(model, None)

    def _waits(self, model: str, found: _Found) -> bool:
        """Return whether there is nothing to do at this look: it is being published, or has just been refused."""
        change = self._operations.call(GetChange())
        if change.under_way:
            return True  # At the next look.
        begun, change_id = self._begun.pop(model, (None, 0))
        if begun == found and change.id == change_id and not change.error:
            self._settle(model, found)
            return True
        if change.error and self._is_of(change, model, found) and self._ended.get(model) != change.id:
            self._ended[model] = change.id
            self._refuse(model, found, change.error)
        refused = self._refused.get(model)
        return refused is not None and refused.found == found and self._clock() < refused.due_s

    def _is_of(self, change: ChangeStatus, model: str, found: _Found) -> bool:
        """Whether a change was to publish a version, by this head or another, or an operator."""
        return change.kind is Kind.PUBLISH and change.subject == f"{model}/{found.number}"

    def _offer(self, model: str, folder: str, found: _Found) -> None:
        try:
            change = self._operations.call(Publish(model=model, version=found.number, folder=folder))
        except RingpullError as exc:
            # Another head may have been faster.
            if not self._operations.call(GetChange()).under_way:
                self._refuse(model, found, str(exc), again_s=0.0 if isinstance(exc, Unavailable) else None)
            return
        self._begun[model] = (found, change.id)
        logger.info("publishing %s/%d, new in %s", model, found.number, folder)

    def _refuse(self, model: str, found: _Found, reason: str, again_s: float | None = None) -> None:
        before = self._refused.get(model)
        delay_s = FIRST_RETRY_S
        if before is not None and before.found == found:
            delay_s = before.delay_s if again_s is not None else min(2 * before.delay_s, LONGEST_RETRY_S)
        due_s = self._clock() + (delay_s if again_s is None else again_s)
        self._refused[model] = _Refusal(found, reason, delay_s, due_s)
        logger.warning("%s/%d in %s is not published: %s", model, found.number, self._folders[model], reason)


async def watching(watch: Callable[[], None], every_s: float) -> None:
    """Look again and again, off the event loop, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await asyncio.to_thread(watch)
        except Exception:  # a bug: but the next version may have better luck
            logger.exception("looking for new versions failed")
