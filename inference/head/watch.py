"""Watching model folders: a version that appears, complete and higher than all before, is published.

A version is offered once; when it is refused or fails its self-check, again only after its manifest has changed. What
cannot be read at one look may be readable at the next, so nothing here is ever fatal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from ringpull.inference.model.model_dir import complete_versions, manifest_mark
from ringpull.ps.errors import RingpullError, Unavailable
from ringpull.router.control.operations import GetChange, OperatorVerbs, Publish

logger: Final = logging.getLogger(__name__)


class Watch:
    """Looks for new versions of served models."""

    def __init__(self, folders: Mapping[str, Path | str], operations: OperatorVerbs) -> None:
        """Take what is there now for known; of a folder that cannot be read, what the first look finds. Blocks.

        Args:
            folders: Model -> its folder, with `VERSION/` in it, or that folder's URL.
            operations: To publish by; called from whatever thread `look` is.
        """
        self._folders = {model: str(folder) for model, folder in folders.items()}
        self._operations = operations
        self._known: dict[str, int] = {}
        for model, folder in self._folders.items():
            with suppress(RingpullError, OSError):
                self._known[model] = _newest(folder)
        self._offered: dict[str, tuple[int, int]] = {}
        """Version offered last of each model, and a mark that tells its manifest from a later one."""

    def __repr__(self) -> str:
        return f"<Watch {self._known}>"

    def look(self) -> None:
        """Publish what is new. Blocks while folders are read and the coordinator is told."""
        for model, folder in self._folders.items():
            try:
                self._look(model, folder)
            except Unavailable as exc:
                logger.warning("a new version of %s waits for the coordinator: %s", model, exc)
            except (RingpullError, OSError) as exc:
                logger.error("%s: a new version could not be published: %s", folder, exc)

    def _look(self, model: str, folder: str) -> None:
        newest = _newest(folder)
        if newest <= self._known.setdefault(model, newest):
            return
        manifest = manifest_mark(folder, newest)
        if self._offered.get(model) == (newest, manifest):
            return
        if self._operations.call(GetChange()).under_way:
            return  # At the next look.
        try:
            self._operations.call(Publish(model=model, version=newest, folder=folder))
        except Unavailable:
            raise
        except RingpullError:
            self._offered[model] = (newest, manifest)
            raise
        self._offered[model] = (newest, manifest)
        logger.info("publishing %s/%d, new in %s", model, newest, folder)


def _newest(folder: str) -> int:
    return next(complete_versions(folder), 0)


async def watching(watch: Callable[[], None], every_s: float) -> None:
    """Look again and again, off the event loop, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(watch)
