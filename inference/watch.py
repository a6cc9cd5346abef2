"""Watching model folders: a version that appears, complete and higher than all before, is published.

A version is offered once; when it is refused or fails its self-check, again only after its manifest has changed. What
cannot be read at one look may be readable at the next, so nothing here is ever fatal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from inference.manifest import FILE_NAME, versions
from ps.errors import RingpullError, Unavailable
from router.operations import Operations, Publish

logger: Final = logging.getLogger(__name__)

_Manifest = tuple[int, int, int]
"""What tells one manifest from a later one: its inode, size and time of change."""


class Watch:
    """Looks for new versions of served models."""

    def __init__(self, folders: Mapping[str, Path], operations: Operations) -> None:
        """Take what is there now for known.

        Args:
            folders: Model -> its folder, with `VERSION/` in it.
            operations: To publish by; called from whatever thread `look` is.
        """
        self._folders = dict(folders)
        self._operations = operations
        self._known = {model: max(versions(folder), default=0) for model, folder in self._folders.items()}
        self._offered: dict[str, tuple[int, _Manifest]] = {}

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

    def _look(self, model: str, folder: Path) -> None:
        newest = max(versions(folder), default=0)
        if newest <= self._known[model]:
            return
        stat = (folder / str(newest) / FILE_NAME).stat()
        manifest = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if self._offered.get(model) == (newest, manifest):
            return
        if self._operations.change().under_way:
            return  # At the next look.
        try:
            self._operations.submit(Publish(model=model, version=newest, folder=str(folder)))
        except Unavailable:
            raise
        except RingpullError:
            self._offered[model] = (newest, manifest)
            raise
        self._offered[model] = (newest, manifest)
        logger.info("publishing %s/%d, new in %s", model, newest, folder)


async def watching(watch: Callable[[], None], every_s: float) -> None:
    """Look again and again, off the event loop, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(watch)
