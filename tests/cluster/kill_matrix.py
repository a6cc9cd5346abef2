"""The kill matrix: who dies in which phase of a change, under load from a client that knows every answer.

    python -m tests.cluster.kill_matrix --rows opened        every cell; shards open the model's files
    python -m tests.cluster.kill_matrix --rows streamed      every cell; each shard keeps a copy of its ranges
    python -m tests.cluster.kill_matrix --phase routing --victim source

Moves go 2 -> 3 -> 2 shards; the phase in which heads load is that of a version being published. All tables have two
copies or more, so whatever dies, a replica lives: no prediction may fail, but for those of the head's own death. The
last line is JSON.

A phase is caught by watching the coordinator's saved state, which is written before the phase's commands go out; the
victim is killed at once. Only while shards prepare is there a knob: rows are streamed slowly.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
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
"""In which something is done: CATCHING_UP passes at once until tables can be written to."""

VICTIMS: Final = ("source", "target", "coordinator", "head", "stopped head")

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
        headless = "head" in self.victim
        return self.wrong == 0 and (headless or self.failed == self.filled == 0) and self.right > 0


class Matrix:
    """One deployment in which things are killed."""

    def __init__(self, cluster: Cluster, operations: Operations, state_dir: Path, *, streamed: bool) -> None:
        self._target = cluster.target
        self._operations = operations
        self._state_dir = state_dir
        self._streamed = streamed
        self._self = psutil.Process()

    def cell(self, victim: str, phase: Phase) -> Cell:
        """Kill `victim` in `phase` of a change, and see it through.

        Raises:
            AssertionError: The phase was always over before it was seen, or the change never ended.
        """
        for _ in range(TRIES):
            request = self._request(victim, phase)
            process = self._process(victim, request)
            with Watch(self._target, ROWS, retries=0) as watch:
                watch.goes_on()
                before = self._incarnations()
                self._operations.call(request)
                if not self._caught(phase, process, signal.SIGSTOP if victim == "stopped head" else signal.SIGKILL):
                    self._over()
                    continue
                begin_s = time.monotonic()
                if victim == "stopped head" and phase is Phase.LOADING:
                    # A version that no head has open cannot go live, and this is the only head.
                    time.sleep(LEASE_S)
                    process.send_signal(signal.SIGCONT)
                status = self._over()
                seconds = time.monotonic() - begin_s
                if victim == "stopped head":
                    process.send_signal(signal.SIGCONT)
                watch.goes_on()
                self._whole(set() if victim == "stopped head" else {before.get(_member(victim, request), "")})
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

    def _process(self, victim: str, request: ChangeRequest) -> psutil.Process:
        from ringpull.deploy.cluster.calls import RemoteProcess

        return psutil.Process(RemoteProcess(f"ringpull/{_member(victim, request)}").pid())

    def _caught(self, phase: Phase, process: psutil.Process, signum: int) -> bool:
        """Send the signal when the phase has begun; return whether it was still that phase then."""
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s:
            change = newest_state(self._state_dir)["state"]["change"]
            if change is not None and change["phase"] == phase.value:
                process.send_signal(signum)
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


@contextmanager
def deployment(folder: Path, *, streamed: bool) -> Iterator[Matrix]:
    """Serve the model from this process, on a private Ray."""
    model = folder / "ranker"
    for version, rows in ROWS.items():
        if not (model / str(version)).exists():
            write_model(model, version, rows=rows, user_replicas=2)
    state_dir = folder / f"state-{streamed}"
    [newest] = choose_versions([model], ["user=2", "genre=all"])
    config = ServeConfig(
        versions=(newest,),
        shards=2,
        head=HeadConfig(device="cpu"),
        state_dir=str(state_dir),
        data_dir=folder / "data" if streamed else None,
        keep=0,
    )
    with Cluster.bring_up(config, Progress(Console(stderr=True))) as cluster:
        # Ray must not be loaded before its session has set the environment.
        from ringpull.deploy.cluster.actors import operations_of

        yield Matrix(cluster, operations_of(config.name), state_dir, streamed=streamed)


def main() -> None:
    """Run the matrix from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", action="append", choices=[phase.value for phase in PHASES])
    parser.add_argument("--victim", action="append", choices=VICTIMS)
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
                "failed_while_a_head_lived": sum(cell.failed for cell in cells if "head" not in cell.victim),
            }
        )
    )
    sys.exit(0 if all(cell.good for cell in cells) else 1)


if __name__ == "__main__":
    main()
