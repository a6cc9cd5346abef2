"""The version of a model that `serve` takes where its `--state-dir` knows which one was live.

A version that was rolled back from must not come back because a machine was started anew: what was live is served
again, unless the folder has one that is newer than all that ever were. What has gone from its folder, or has other
content there by now, cannot be served again: then it is the highest complete version, as where nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ringpull.deploy.model_folders import absolute, newest_version, version_below
from ringpull.inference.model.model_dir import newest_complete
from ringpull.ps.errors import CorruptData, InvalidInput, NotFound, OtherContent
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.live_before import live_version


class LiveBefore:
    """Choice of versions after a deployment on the same state.

    Args:
        left: What that left behind.
        say: Called with which version is served, where that is not the highest, and why.
        warn: Called with why what was live is not served.
    """

    def __init__(self, left: CoordinatorState, *, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self._left = left
        self._say = say
        self._warn = warn

    def __repr__(self) -> str:
        return f"<LiveBefore {dict(self._left.before.live) if self._left.before is not None else {}}>"

    def choose(self, model_dir: str | Path) -> PlacedVersion:
        """Return the version of a model to serve, given its folder or URL.

        Raises:
            InvalidInput, CorruptData, Unavailable: As for `newest_version`.
        """
        where = absolute(model_dir)
        # By the folder first: the highest version may be one that cannot be read, and was rolled back from for that.
        was = self._live_in(where)
        if was is None:
            newest = newest_version(where)
            was = live_version(self._left.before, newest.model)
            if was is None or was.version == newest.version:
                return newest
        try:
            found = version_below(where, was.version)
            was.check_same(found)
        except (NotFound, OtherContent, InvalidInput, CorruptData) as exc:
            newest = newest_version(where)
            if newest.version != was.version:  # Exported anew under its number it is what the operator wants served.
                reason = "its files are others by now" if isinstance(exc, OtherContent) else str(exc)
                self._warn(f"{was.name} was live, and cannot be served again: {reason}; {newest.name} is served")
            return newest
        return self._newer(where, found)

    def _newer(self, where: str, was: PlacedVersion) -> PlacedVersion:
        """Return the highest version of a folder if it is newer than all that were live of its model, else this one."""
        highest = newest_complete(where)[0]
        if highest <= was.version:
            return was
        ever = self._left.highest_live.get(was.model, 0)
        if highest <= ever:
            why = "it was live before" if highest == ever else f"not newer than {ever}, which was live before"
        elif self._left.before is not None and was.model in self._left.before.pinned:
            why = "the model stays with the version that it was loaded by"
        else:
            try:
                return newest_version(where)
            except (InvalidInput, CorruptData) as exc:
                self._warn(f"{was.name} was live, and is served again: {exc}")
                return was
        then = f"`ringpull publish {was.model}/{highest}` makes it live"
        self._say(f"{was.name} was live, and is served again; {highest} is in its folder, too, but {why}: {then}")
        return was

    def _live_in(self, where: str) -> PlacedVersion | None:
        """Return the version that was live of the model in a folder, if it was served from there."""
        before = self._left.before
        if before is None:
            return None
        of_folder = {each.model for each in before.versions if each.models_folder.rstrip("/") == where.rstrip("/")}
        return live_version(before, of_folder.pop()) if len(of_folder) == 1 else None
