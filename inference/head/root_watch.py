"""Watching folders of models: a model that appears is loaded, one that has been removed is unloaded.

A model appears when a complete version lies in a folder directly below a root that no served model is from. It is new
while its version is above all of its name that were ever live: so what an operator has unloaded stays so, whichever
head looks and however often it was restarted, until a higher version lies there.

A model has been removed when its folder is gone, by name, from a root that can be listed and has another model in it:
what is at a mount point while nothing is mounted there has none. It takes several looks in a row. A folder that is
there and empty, or a link that leads nowhere now, is no reason; what is open needs no file. A model that was removed
is forgotten, so that it is new when it comes back.

Newer versions of what is served are the business of `ringpull.inference.head.watch`. Every head watches, as there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ringpull.inference.head.offers import Found, Offers, Step, is_change
from ringpull.inference.head.watch import READ_AGAIN_S
from ringpull.inference.model.manifest import FILE_NAME, MAX_BYTES, parse_manifest
from ringpull.inference.model.model_dir import manifest_mark, newest_complete
from ringpull.ps.errors import RingpullError
from ringpull.ps.transfer.remote import RemoteFolder
from ringpull.router.control.change import Kind
from ringpull.router.control.operations import DeploymentStatus, GetStatus, LoadModel, OperatorVerbs, UnloadModel

logger: Final = logging.getLogger(__name__)

LOOKS: Final = 3
"""Looks in a row that must find a folder gone."""


class RootWatch:
    """Looks for models that come and go below roots.

    Args:
        roots: Folders of models' folders, or their URLs.
        served: Returns, for each model that this head serves, its folder or URL.
        operations: The way to the coordinator; called from whatever thread `look` is.
        clock: Returns seconds since any origin.
    """

    def __init__(
        self,
        roots: Sequence[str],
        served: Callable[[], Mapping[str, str]],
        operations: OperatorVerbs,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._roots = [root.rstrip("/") for root in roots]
        self._served = served
        self._operations = operations
        self._clock = clock
        self._offers = Offers(operations, clock)
        self._read: dict[str, tuple[Found, str, float]] = {}
        """Folder -> the version that was read there last, its model, and when."""
        self._looks: dict[str, int] = {}
        """Served model whose folder is gone -> looks in a row that have found it gone."""
        self._settled: dict[str, Found] = {}
        """Folder -> version that was offered there and needed nothing."""
        self.warnings: tuple[str, ...] = ()
        """What was refused, or could not be looked at, and why: a sentence each, as of the last look."""

    def __repr__(self) -> str:
        return f"<RootWatch {self._roots} {self._offers!r}>"

    def look(self) -> bool:
        """Load what is new, unload what is gone; return whether anything is under way or waits for its turn.

        Blocks while folders are read and the coordinator is told.
        """
        troubles: list[str] = []
        waits = False
        there: set[str] = set()
        for root in self._roots:
            try:
                waits |= self._look(root, there, troubles)
            except (RingpullError, OSError) as exc:
                logger.warning("%s: no models can be looked for: %s", root, exc)
                troubles.append(f"models in {root} cannot be looked for: {exc}")
        for folder in (self._read.keys() | self._settled.keys() | self._offers.keys()) - there:
            self._read.pop(folder, None)
            self._settled.pop(folder, None)
            self._offers.settle(folder)
        refused = [f"{what}: {each.reason}" for what, each in sorted(self._offers.refused.items())]
        self.warnings = (*(f"what was found in {each}" for each in refused), *troubles)
        return waits

    def _look(self, root: str, there: set[str], troubles: list[str]) -> bool:
        served = {folder.rstrip("/"): model for model, folder in self._served().items()}
        names = [name for name in RemoteFolder(root).names() if not name.startswith(".")]
        status: list[DeploymentStatus] = []
        waits = False
        for name in names:
            folder = f"{root}/{name}"
            there.add(folder)
            if folder in served:
                self._looks.pop(served[folder], None)
                self._offers.settle(folder)
                continue
            try:
                waits |= self._look_at(folder, status, troubles)
            except (RingpullError, OSError) as exc:
                logger.warning("%s: cannot be looked at: %s", folder, exc)
                troubles.append(f"the model in {folder} cannot be looked at: {exc}")
        gone = {
            folder: model
            for folder, model in served.items()
            if folder.rpartition("/")[0] == root and folder not in there
        }
        for folder, model in gone.items():
            there.add(folder)  # What was offered about it is not over yet.
            waits |= self._gone(model, folder, names, root, troubles)
        return waits

    # -- what appears --------------------------------------------------------------------------------------------------

    def _look_at(self, folder: str, status: list[DeploymentStatus], troubles: list[str]) -> bool:
        """Load the model in a folder if it is new; return whether that waits.

        Args:
            status: State of the deployment, where it was asked for at this look.
            troubles: Where it is told that the model is served from another folder.
        """
        read = self._newest(folder)
        if read is None:
            return False
        found, model = read
        if self._settled.get(folder) == found:
            return False
        if not status:
            status.append(self._operations.call(GetStatus()))
        now = status[0]
        is_served = any(each.models_folder.rstrip("/") == folder for each in now.spec.versions)
        if is_served or found.number <= now.highest_live.get(model, 0):
            self._offers.settle(folder)
            live = now.spec.version(model, now.spec.live.get(model, 0))
            if live is not None and not is_served:
                troubles.append(
                    f"{folder} holds {model}/{found.number}, and {model} is served from {live.models_folder}"
                )
            return False
        step = self._offers.step(folder, found, is_change(Kind.LOAD, f"{model}/{found.number}"))
        if step is Step.OFFER:
            request = LoadModel(folder=folder, version=found.number)
            step = self._offers.offer(folder, found, request, f"load {model}/{found.number} in {folder}")
        if step is Step.DONE:
            self._settled[folder] = found
        return step is Step.WAIT and folder not in self._offers.refused

    def _newest(self, folder: str) -> tuple[Found, str] | None:
        """Return the newest complete version of a folder, and its model; None: there is none."""
        number, where = newest_complete(folder)
        self._offers.drop_others(folder, number)
        if not number:
            return None
        known = self._read.get(folder)
        fresh = known is not None and known[0].number == number and self._clock() - known[2] < READ_AGAIN_S
        if known is not None and fresh and not self._offers.is_open(folder):
            return known[0], known[1]
        content = RemoteFolder(where).read(FILE_NAME, max_bytes=MAX_BYTES)
        found = Found(number, manifest_mark(where))
        model = parse_manifest(content, Path(where) / FILE_NAME).model
        self._read[folder] = (found, model, self._clock())
        return found, model

    # -- what is gone --------------------------------------------------------------------------------------------------

    def _gone(self, model: str, folder: str, names: Sequence[str], root: str, troubles: list[str]) -> bool:
        """Unload a model whose folder is gone, if it has been removed; return whether that waits."""
        if not any(newest_complete(f"{root}/{name}")[0] for name in names):
            self._looks.pop(model, None)
            troubles.append(f"{model} serves on with what is open; {root} has no model in it now (not mounted?)")
            return False
        self._looks[model] = self._looks.get(model, 0) + 1
        if self._looks[model] < LOOKS:
            return False
        found = Found(0, None)
        step = self._offers.step(folder, found, is_change(Kind.UNLOAD, model))
        if step is Step.OFFER:
            request = UnloadModel(model=model, gone_from=folder)
            step = self._offers.offer(folder, found, request, f"unload {model}: {folder} is gone")
        return step is Step.WAIT and folder not in self._offers.refused
