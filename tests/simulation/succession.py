"""The end of a history: another deployment takes the folder over, and whoever led before finds out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from ringpull.ps.errors import StartupError
from ringpull.router.control.reign import Reign
from ringpull.router.control.state_store import Owner, StateStore
from tests.simulation.folder import SimFiles
from tests.simulation.kernel import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

FAULTS_END_S: Final = 25.0
"""Longest time until what ends a fault has come due, which would let go on what is stopped here."""

TAKES_S: Final = 300.0
"""Longest time until the folder is another deployment's."""

FINDS_OUT_S: Final = 15.0
"""Longest time until a coordinator of the one before knows, once it runs."""


def another_deployment(world: World) -> None:
    """Have another deployment refused while this one lives, and take the folder once nothing of it is seen any more."""
    kernel = world.kernel
    kernel.run(kernel.now_s + FAULTS_END_S)
    seat = world.seat
    assert seat is not None
    taken: list[Reign] = []
    refused: list[str] = []
    other = Process("serve")
    kernel.spawn(other, partial(_take_over, world, other, taken, refused))
    kernel.run(kernel.now_s + TAKES_S, lambda: bool(taken or refused))
    if not refused:
        world.checks.violated("another deployment has taken the folder of one that lives")
    world.told(f"STOP {seat}, for good as it seems")
    kernel.stop(seat.process)
    kernel.spawn(other, partial(_take_over, world, other, taken, refused))
    kernel.run(kernel.now_s + TAKES_S, lambda: bool(taken))
    if not taken:
        world.checks.violated(f"another deployment could not take the folder: {refused}")
    (reign,) = taken
    epoch = reign.first_state((0,)).epoch
    world.told(f"another deployment leads for term {reign.term} from epoch {epoch}")
    if reign.term <= world.newest_term or epoch < world.checks.highest_epoch:
        world.checks.violated("terms or epochs do not go on")
    kernel.go_on(seat.process)
    kernel.run(kernel.now_s + FINDS_OUT_S)
    if seat.process.alive or (world.seat is not None and world.seat.leader is not None and world.seat.process.alive):
        world.checks.violated("a deployment goes on whose folder is another one's")
    kernel.spawn(other, reign.check)
    kernel.run(kernel.now_s + 1.0)


def _take_over(world: World, other: Process, taken: list[Reign], refused: list[str]) -> None:
    store = StateStore(SimFiles(world.folder, other))
    try:
        taken.append(store.take_over(Owner("d2"), wait=world.kernel.sleep))
    except StartupError as exc:
        refused.append(str(exc))
