"""The kill matrix: who dies in which phase of a change, under load from a client that knows every answer.

    python -m tests.cluster.kill_matrix --rows opened        every cell; shards open the model's files
    python -m tests.cluster.kill_matrix --rows streamed      every cell; each shard keeps a copy of its ranges
    python -m tests.cluster.kill_matrix --phase routing --victim source
    python -m tests.cluster.kill_matrix --victim everything --victim 'state folder'

Moves go 2 -> 3 -> 2 shards; the phase in which heads load is that of a version being published. All tables have two
copies or more, so whatever dies, a replica lives: no prediction may fail, but for those of the head's own death. The
last line is JSON.

Besides who dies there is what else may happen in a phase, which is done when it is named: the coordinator is stopped
for longer than its lease, Ray's raylet for some seconds, everything is killed at once, the folder of the state goes
away with the coordinator and comes back, and so does the version's own folder, with other content in its place
meanwhile and a shard killed that would read it. The coordinator is stopped for 12 s, which is longer than a lease:
whether that is 12 or 30 makes no difference to a phase. A full disk, a stepped clock, a version that is removed and a
stranger on a shard's port are no rows here: `make chaos` (`ringpull.loadtest.chaos.kinds`) does them at any time, with
the coordinator stopped for 30 s too.

A phase is caught by watching the coordinator's saved state, which is written before the phase's commands go out; the
victim is killed at once. Only while shards prepare is there a knob: rows are streamed slowly.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from rich.console import Console
from rich.table import Table

from ringpull.deploy.cluster.cluster import Cluster
from ringpull.deploy.config import ServeConfig
from ringpull.deploy.model_folders import choose_versions
from ringpull.deploy.view.progress import Progress
from ringpull.inference.head.config import HeadConfig
from ringpull.loadtest.chaos.kinds.undoing import away, replaced, stopped
from ringpull.ps.errors import RingpullError
from ringpull.router.control.change import Phase
from ringpull.router.control.controls import LEASE_S
from ringpull.router.control.operations import (
    ChangeRequest,
    ChangeStatus,
    GetChange,
    GetStatus,
    ListMembers,
    MemberState,
    Operations,
    Publish,
    Rebalance,
)
from tests.cluster.models import write_model
from tests.cluster.watching import Watch, actors, until
from tests.patience import PATIENCE_S
from tests.saved_state import newest_state

ROWS: Final = {1: 20_000, 2: 500}
"""Version -> rows of its user table: every answer tells which version it is from."""

STREAMED_BYTES_PER_S: Final = 100_000.0
"""So that a shard streams for some seconds."""

PHASES: Final = (
    Phase.PREPARING,
    Phase.DUAL_OWNERSHIP,
    Phase.LOADING,
    Phase.ROUTING,
    Phase.DRAINING,
    Phase.CLEANUP,
)
"""In which something is done: CATCHING_UP passes at once, as a move of tables with pushed rows is refused."""

VICTIMS: Final = ("source", "target", "coordinator", "head", "stopped head")

HELD_S: Final = {"stopped coordinator": 1.2 * LEASE_S, "stopped raylet": 3.0, "state folder": 3.0, "other content": 3.0}
"""What else may happen, and how long it lasts."""

SURROUNDINGS: Final = ("everything", *HELD_S)

HEADLESS: Final = ("head", "stopped head", "everything")
"""Requests may fail while no head answers."""

TRIES: Final = 8
"""Of a phase that lasts a millisecond: it may be over before it is seen."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of one death."""

    victim: str
    phase: Phase
    streamed: bool
    outcome: str
    """`carried through`, or why it was given up."""
    right: int
    wrong: int
    failed: int
    filled: int
    seconds: float
    """From the kill until the change was over."""
    first_failure: str = ""

    @property
    def good(self) -> bool:
        """Whether it is as it has to be."""
        whole = self.victim in HEADLESS or self.failed == self.filled == 0
        return self.wrong == 0 and whole and self.right > 0


class Matrix:
    """One deployment in which things are killed."""

    def __init__(self, cluster: Cluster, operations: Operations, folder: Path, *, streamed: bool) -> None:
        self._target = cluster.target
        self._operations = operations
        self._folder = folder
        self._state = _state_dir(folder, streamed=streamed)
        self._streamed = streamed
        self._self = psutil.Process()

    def cell(self, victim: str, phase: Phase) -> Cell:
        """Kill `victim` in `phase` of a change, or have what it names happen, and see it through.

        Raises:
            AssertionError: The phase was always over before it was seen, or the change never ended.
        """
        for _ in range(TRIES):
            request = self._request(victim, phase)
            with Watch(self._target, ROWS, retries=0) as watch, ExitStack() as undo:
                watch.goes_on()
                before = self._incarnations()
                strike, killed = self._strike(victim, request, undo)
                self._operations.call(request)
                if not self._caught(phase, strike):
                    self._over()
                    continue
                begin_s = time.monotonic()
                if victim in HELD_S:
                    time.sleep(HELD_S[victim])
                    undo.close()
                elif victim == "stopped head" and phase is Phase.LOADING:
                    # A version that no head has open cannot go live, and this is the only head.
                    time.sleep(LEASE_S)
                    undo.close()
                status = self._over()
                seconds = time.monotonic() - begin_s
                undo.close()
                watch.goes_on()
                self._whole({before.get(member, "") for member in killed})
                watch.goes_on()
            return Cell(
                victim,
                phase,
                self._streamed,
                status.error or "carried through",
                watch.right,
                len(watch.wrong),
                len(watch.failed),
                watch.filled,
                seconds,
                "" if not watch.failed else f"{type(watch.failed[0]).__name__}: {watch.failed[0]}",
            )
        raise AssertionError(f"{phase.value} was always over before it was seen")

    def _request(self, victim: str, phase: Phase) -> ChangeRequest:
        """The next change that has this phase; `source` gives ranges away in it, `target` takes them."""
        spec = self._operations.call(GetStatus()).spec
        if phase is Phase.LOADING:
            return Publish(model="ranker", version=3 - spec.live["ranker"], keep=0)
        grows = len(spec.shards) == 2
        if grows != (victim != "target"):
            # Shard 0 gives when there come to be three, and takes when there come to be two.
            self._operations.call(Rebalance(shards=3 if grows else 2))
            self._over()
            grows = not grows
        slow = STREAMED_BYTES_PER_S if self._streamed and phase is Phase.PREPARING else None
        return Rebalance(shards=3 if grows else 2, bytes_per_s=slow)

    def _strike(
        self, victim: str, request: ChangeRequest, undo: ExitStack
    ) -> tuple[Callable[[], object], tuple[str, ...]]:
        """Return what does it at once, once it is called, and the members that are killed by that.

        Args:
            undo: Takes what undoes it.
        """
        match victim:
            case "everything":
                members = ("coordinator", *self._incarnations())
                processes = [self._process(member) for member in members]
                return lambda: [process.kill() for process in processes], members
            case "stopped raylet":
                raylets = [each for each in self._self.children(recursive=True) if each.name().startswith("raylet")]
                return lambda: undo.enter_context(stopped(*raylets)), ()
            case "state folder":
                coordinator = self._process("coordinator")
                return lambda: (undo.enter_context(away(self._state)), coordinator.kill()), ("coordinator",)
            case "other content":
                version = request.version if isinstance(request, Publish) else self._live()
                own, other = (folder / "ranker" / str(version) for folder in (self._folder, self._folder / "other"))
                shard = self._process("shard-0")
                return lambda: (undo.enter_context(replaced(own, other)), shard.kill()), ("shard-0",)
        member = _member(victim.removeprefix("stopped "), request)
        process = self._process(member)
        if victim.startswith("stopped "):
            return lambda: undo.enter_context(stopped(process)), ()
        return process.kill, (member,)

    def _process(self, member: str) -> psutil.Process:
        from ringpull.deploy.cluster.calls import RemoteProcess

        return psutil.Process(RemoteProcess(f"ringpull/{member}").pid())

    def _live(self) -> int:
        return self._operations.call(GetStatus()).spec.live["ranker"]

    def _caught(self, phase: Phase, strike: Callable[[], object]) -> bool:
        """Strike when the phase has begun; return whether it was still that phase then."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            change = newest_state(self._state)["state"]["change"]
            if change is not None and change["phase"] == phase.value:
                strike()
                return True
            if change is None:
                return False
        raise AssertionError(f"{phase.value} never came")

    def _over(self) -> ChangeStatus:
        statuses: list[ChangeStatus] = []

        def ended() -> bool:
            try:
                statuses.append(self._operations.call(GetChange()))
            except RingpullError:
                return False  # The coordinator is being restarted.
            return not statuses[-1].under_way

        until("the change is over", ended)
        return statuses[-1]

    def _whole(self, gone: AbstractSet[str]) -> None:
        """Wait until all are there, hold what they should, and are asked where they are: one may be lost again then.

        Args:
            gone: Incarnations that were killed, whatever the coordinator still believes.
        """
        shards = len(self._operations.call(GetStatus()).spec.shards)
        until("all shards", lambda: len(actors(self._self, "Shard")) == shards)
        until("head and coordinator", lambda: actors(self._self, "Head") and actors(self._self, "Coordinator"))

        def whole() -> bool:
            states = self._members()
            return bool(states) and all(each.incarnation not in gone and not each.missing for each in states)

        until("whole members", whole)

    def _incarnations(self) -> dict[str, str]:
        return {f"{each.member.role}-{each.member.id}": each.incarnation for each in self._members()}

    def _members(self) -> tuple[MemberState, ...]:
        try:
            return self._operations.call(ListMembers())
        except RingpullError:
            return ()  # the coordinator is being restarted


def _member(victim: str, request: ChangeRequest) -> str:
    if victim == "target" and isinstance(request, Publish):
        return "shard-1"
    return {"source": "shard-0", "target": "shard-0", "coordinator": "coordinator"}.get(victim, "head-0")


def _state_dir(folder: Path, *, streamed: bool) -> Path:
    return folder / f"state-{streamed}"


@contextmanager
def deployment(folder: Path, *, streamed: bool) -> Iterator[Matrix]:
    """Serve the model from this process, on a private Ray."""
    model = folder / "ranker"
    for version, rows in ROWS.items():
        if not (model / str(version)).exists():
            write_model(model, version, rows=rows, user_replicas=2)
            write_model(folder / "other" / "ranker", version, rows=rows, user_replicas=2, factor=2.0)
    [newest] = choose_versions([model], ["user=2", "genre=all"])
    config = ServeConfig(
        versions=(newest,),
        shards=2,
        head=HeadConfig(device="cpu"),
        state_dir=str(_state_dir(folder, streamed=streamed)),
        data_dir=folder / "data" if streamed else None,
        keep=0,
    )
    with Cluster.bring_up(config, Progress(Console(stderr=True))) as cluster:
        # Ray must not be loaded before its session has set the environment.
        from ringpull.deploy.cluster.actors import operations_of

        yield Matrix(cluster, operations_of(config.name), folder, streamed=streamed)


def main() -> None:
    """Run the matrix from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", action="append", choices=[phase.value for phase in PHASES])
    parser.add_argument("--victim", action="append", choices=[*VICTIMS, *SURROUNDINGS])
    parser.add_argument("--rows", choices=["opened", "streamed"], default="opened", help="how they come to a shard")
    asked = parser.parse_args()
    table = Table("dies", "while", "rows are", "the change", "after s", "right", "wrong", "failed", "filled")
    cells: list[Cell] = []

    with (
        tempfile.TemporaryDirectory(prefix="ringpull-matrix-") as folder,
        deployment(Path(folder), streamed=asked.rows == "streamed") as matrix,
    ):
        for phase in asked.phase or [phase.value for phase in PHASES]:
            for victim in asked.victim or VICTIMS:
                cell = matrix.cell(victim, Phase(phase))
                cells.append(cell)
                numbers = [f"{cell.seconds:.1f}", *map(str, (cell.right, cell.wrong, cell.failed, cell.filled))]
                table.add_row(victim, phase, asked.rows, cell.outcome, *numbers, style="" if cell.good else "red")
                print(cell, file=sys.stderr, flush=True)
    Console(width=140).print(table)
    print(
        json.dumps(
            {
                "cells": len(cells),
                "good": sum(cell.good for cell in cells),
                "predicts": sum(cell.right + cell.wrong + cell.failed + cell.filled for cell in cells),
                "wrong": sum(cell.wrong for cell in cells),
                "failed_while_a_head_lived": sum(cell.failed for cell in cells if cell.victim not in HEADLESS),
            }
        )
    )
    sys.exit(0 if all(cell.good for cell in cells) else 1)


if __name__ == "__main__":
    main()
