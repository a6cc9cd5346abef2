"""The scene of a fault: all that one may touch and ask, and whom it tells when a promise was broken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import psutil

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.loadtest.chaos.changes import Deployed
from ringpull.loadtest.chaos.checked_model import MODEL
from ringpull.loadtest.chaos.schedule import Command, Fault, Kind
from ringpull.loadtest.deployment import Deployment

OTHER_CONTENT: Final = 1_000
"""Added to a version's number, it is the seed of what stands under that number after a re-export."""


Injected = Callable[[], None]
"""Is called when a fault begins."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of the deployment under test, as this program reaches them."""

    model: Path
    """Folder of the model `checked`, with one folder per version in it."""
    others: Path
    """Folder with the same versions of other content, as a second export of them would be."""
    state: Path
    """Its `--state-dir`."""
    logs: Path
    """Its `--log-dir`."""
    data: Path | None
    """Its `--data-dir`; None: shards open the models' files in place."""
    records: Path
    """Its `RINGPULL_STATE_DIR`, where it is recorded as served."""
    no_small_disk: str = ""
    """Reason why `state` is not on a small disk of its own; empty: it is."""

    def version(self, version: int) -> Path:
        """Return the folder of a version of `checked`."""
        return self.model / str(version)

    def other(self, version: int) -> Path:
        """Return the folder of a version's other content."""
        return self.others / str(version)


class Healing(Protocol):
    """The deployment's health: see `health.Health`."""

    async def wait(self, *gone: psutil.Process) -> None:
        """Return when nothing is missing; raises `Broken` when something stays away."""
        ...


class Operating(Protocol):
    """An operator: see `changes.Operator`."""

    async def execute(self, fault: Fault) -> str:
        """Carry a change out; return why it was not carried through."""
        ...

    async def run(self, asked: Command) -> dict[str, Any]:
        """Run a command; raises `CommandFailed`."""
        ...

    async def deployed(self) -> Deployed:
        """Return what is true when no change is under way."""
        ...


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a fault may touch."""

    ours: Deployment
    folders: Folders
    health: Healing
    operator: Operating
    look: Callable[..., Awaitable[dict[str, Any]]]
    """Runs a command that only looks, given word by word, and returns its JSON; raises `CommandFailed`."""
    status: Callable[[], Awaitable[pb.ClusterStatus]]
    """Asks a head for its status."""
    broke: Callable[[str], None]
    """Takes, in words, a promise that was broken, other than an answer's: it counts as a failure."""
    reexported: Callable[[int], None]
    """Takes a version of `checked`, which is not live, whose two contents have changed places."""
    hurried: Callable[[], AbstractContextManager[None]]
    """Gives a share of the requests a deadline of 100 ms, as long as its context lasts."""
    moves: bool = True
    """Whether rows may be moved between shards: not where there are pushed ones."""

    def pick(self, role: str, pick: float) -> psutil.Process | None:
        """Return one of the processes of a role, by a number in [0, 1); None: there is none at this moment."""
        living = self.ours.running(role)
        return living[int(pick * len(living))] if living else None

    async def kept_version(self, pick: float) -> int | None:
        """Return a version of `checked` that is open behind the live one, after a publish where there is none.

        None: That was not carried through, which breaks a promise.
        """
        kept = _kept(await self.operator.deployed())
        if not kept:
            if said := await self.operator.execute(Fault(Kind.PUBLISH, pick)):
                self.broke(f"publish was not carried through: {said}")
                return None
            kept = _kept(await self.operator.deployed())
        return kept[int(pick * len(kept))] if kept else None


def swapped(version: int, content: int) -> int:
    """Return the content that a version has after its two contents have changed places."""
    return version if content != version else version + OTHER_CONTENT


def publish(version: int) -> Command:
    """Return the command that publishes a version of `checked`."""
    return Command(("publish", f"{MODEL}/{version}"), version)


def _kept(now: Deployed) -> list[int]:
    return [version for version in now.open if version != now.live]
