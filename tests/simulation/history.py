"""One history: a deployment comes up, is asked for this and that while things go wrong, and comes to rest."""

from __future__ import annotations

import gc
import logging
from functools import partial
from random import Random
from typing import Final

from ringpull.router.control.change import Kind
from ringpull.router.control.deployment_spec import initial_spec
from ringpull.router.control.events import Begin
from ringpull.router.control.leader import Leader
from ringpull.router.control.operations import ChangeStatus, Control
from tests.simulation import faults, succession
from tests.simulation.checks import Violation
from tests.simulation.remembered import remembered
from tests.simulation.world import World

LASTS_S: Final = 20.0
"""Time in which things go wrong."""

REST_S: Final = 120.0
"""Longest time until everything is at rest after that."""


def run(seed: int) -> World:
    """Run the history of a seed; return the world as it ended.

    Raises:
        Violation: Something happened that must not; the message is the story.
    """
    logging.disable(logging.CRITICAL)
    gc.disable()  # A fifth of the time otherwise.
    try:
        with remembered():
            world = World(seed)
            try:
                _live(world)
            except Violation:
                raise
            except Exception as exc:
                raise Violation(f"{type(exc).__name__}: {exc}\n{world.story()}") from exc
            finally:
                world.kernel.end()
            return world
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


def _live(world: World) -> None:
    random, kernel = world.random, world.kernel
    kernel.spawn(world.operators.process, partial(_bring_up, world), delay_s=0.2)
    if not kernel.run(REST_S, lambda: _at_rest(world)):
        world.checks.violated("it does not come up")
    world.told("IT IS UP")
    begin_s = kernel.now_s
    for at_s in _moments(random, random.randint(4, 9)):
        kernel.later(at_s, lambda: world.operators.ask(world.operators.anything()))
    kinds = faults.theme(random)
    for at_s in _moments(random, random.randint(1, 7)):
        kernel.later(at_s, partial(faults.some, world, kinds))
    kernel.run(begin_s + LASTS_S)
    world.calm()
    kernel.run(kernel.now_s + 1.0)
    if not kernel.run(kernel.now_s + REST_S, lambda: _at_rest(world)):
        world.checks.violated(f"it has not come to rest within {REST_S:g} s")
    world.told("IT RESTS")
    kernel.run(kernel.now_s + 6.0)
    if not _at_rest(world):
        world.checks.violated("it does not stay at rest")
    world.checks.at_rest()
    world.ledger.ended()
    if random.random() < 0.1:
        succession.another_deployment(world)


def _moments(random: Random, count: int) -> list[float]:
    return [random.random() * LASTS_S * 0.8 for _ in range(count)]


def _bring_up(world: World) -> None:
    shards = range(world.random.randint(1, 3))
    begin = Begin(Kind.BRING_UP, "m/1", initial_spec(shards, [world.place(1)]))

    def tell(leader: Leader) -> ChangeStatus:
        return leader.tell(begin)

    world.coordinator().ask(tell)


def _at_rest(world: World) -> bool:
    """Whether nothing is left to do, as far as the newest coordinator knows."""
    seat = world.seat
    if seat is None or seat.leader is None or not seat.process.alive or world.operators.busy:
        return False
    if sum(leader.process.alive for leader in world.leaders) > 1:
        return False
    machine = seat.leader.machine
    state = machine.state
    if state.change is not None and state.change.paused:
        world.operators.ask(Control.RESUME)
    return (
        state.change is None
        and state.spec is not None
        and not state.leaving
        and state is seat.leader.saved
        and all(head.routed >= state.epoch and not head.expired for head in machine.heads.values())
        and all(
            shard in machine.shards and machine.shards[shard].served == machine.shards[shard].stored == {state.spec_id}
            for shard in state.spec.shards
        )
    )
