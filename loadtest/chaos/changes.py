"""Changes as operators make them: by the commands of `ringpull`, each in a process of its own.

A change may be given up when a fault comes in the middle of it; then the deployment is as it was. What is true
afterwards is asked of the deployment, never assumed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ringpull.inference.client.operations import GetChange, GetStatus, OperationsClient
from ringpull.inference.errors import RingpullError
from ringpull.loadtest.chaos.checked_model import MODEL
from ringpull.loadtest.chaos.health import LOOK_S, PATIENCE_S, Broken
from ringpull.loadtest.chaos.oracle import Live
from ringpull.loadtest.chaos.schedule import Command, Fault, Kind
from ringpull.loadtest.chaos.serving import CommandFailed, RunCommand

SHARDS: Final = (3, 4, 5)
"""Numbers of shards between which a rebalance goes."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """State of a deployment that a change starts from."""

    live: int
    """Version of `checked` that is live."""
    open: tuple[int, ...]
    """Versions of `checked` that are open, ascending."""
    shards: int


def command(fault: Fault, now: Deployed, versions: int, shards: Sequence[int] = SHARDS) -> Command:
    """Return how a change is asked for.

    Args:
        versions: Number of versions of `checked` that are on disk, from 1 on.
        shards: Numbers of shards between which a rebalance goes.
    """
    match fault.kind:
        case Kind.REBALANCE:
            others = [count for count in shards if count != now.shards]
            return Command(("rebalance", "--shards", str(_picked(others, fault.pick)), "--yes"), now.live)
        case Kind.RESTART:
            return Command(("restart", "--rolling", "--yes"), now.live)
        case Kind.ROLLBACK if kept := [version for version in now.open if version != now.live]:
            version = _picked(kept, fault.pick)
            return Command(("rollback", MODEL, str(version)), version)
        case Kind.PUBLISH | Kind.ROLLBACK:
            left_out = {*now.open, fault.without}
            closed = [version for version in range(1, versions + 1) if version not in left_out]
            version = _picked(closed, fault.pick)
            return Command(("publish", f"{MODEL}/{version}"), version)
        case _:
            raise ValueError(f"{fault.kind} is no change")


def _picked(values: Sequence[int], pick: float) -> int:
    return values[int(pick * len(values))]


class Operator:
    """Carries changes out one after the other, and tells the oracle which versions may answer."""

    def __init__(self, run_command: RunCommand, operations: OperationsClient, live: Live, versions: int) -> None:
        self._run_command = run_command
        self._operations = operations
        self._live = live
        self._versions = versions

    async def execute(self, fault: Fault) -> str:
        """Carry a change out and wait until it is over.

        Returns:
            Why it was not carried through; empty when it was.

        Raises:
            Broken: It is still under way after two minutes, or nobody says so.
        """
        try:
            await self.run(command(fault, await self.deployed(), self._versions))
        except CommandFailed as exc:
            return str(exc)
        return ""

    async def run(self, asked: Command) -> dict[str, Any]:
        """Run a command, wait until the change is over, and return the command's JSON.

        Raises:
            CommandFailed: It failed.
            Broken: The change is still under way after two minutes, or nobody says so.
        """
        self._live.may_become(MODEL, asked.live)
        try:
            return await self._run_command(*asked.words)
        finally:
            self._live.is_now(MODEL, (await self.deployed()).live)

    async def deployed(self) -> Deployed:
        """Return what is true when no change is under way, which is waited for."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                change = await asyncio.to_thread(self._operations.call, GetChange())
                if not change.under_way:
                    return await asyncio.to_thread(self._ask)
                trouble = f"{change.kind.value} {change.subject} is still under way: {change.trouble}"
            except RingpullError as exc:
                trouble = str(exc)
            if time.monotonic() > until_s:
                raise Broken(f"{PATIENCE_S:.0f} s after a change: {trouble}")
            await asyncio.sleep(LOOK_S)

    def _ask(self) -> Deployed:
        spec = self._operations.call(GetStatus()).spec
        versions = sorted(each.version for each in spec.versions if each.model == MODEL)
        return Deployed(spec.live[MODEL], tuple(versions), len(spec.shards))
