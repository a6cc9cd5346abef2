"""What goes wrong in a history: each fault begins at some moment, and most end at a later one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulation.network import FINE, Weather

if TYPE_CHECKING:
    from tests.simulation.world import World

End = Callable[[], None]
"""Undoes a fault."""


def some(world: World) -> None:
    """Have one fault, of any kind, begin now, and end after a while if it does not end by itself."""
    fault = world.random.choice(FAULTS)
    world.disturbed()
    end = fault(world)
    if end is not None:
        lasts_s = world.random.choice([1.0, 4.0, 15.0]) * (0.5 + world.random.random())
        world.kernel.later(lasts_s, lambda: over(world, end))


def over(world: World, end: End) -> None:
    """Undo a fault."""
    end()
    world.disturbed()


# -- processes ---------------------------------------------------------------------------------------------------------


def kill_a_shard(world: World) -> None:
    if world.shards:
        world.kill_shard(world.random.choice(sorted(world.shards)))


def kill_a_head(world: World) -> None:
    world.kill_head(world.random.choice(sorted(world.heads)))


def kill_the_coordinator(world: World) -> None:
    world.kill_coordinator()


def kill_everything(world: World) -> None:
    world.kill_coordinator()
    for shard in sorted(world.shards):
        world.kill_shard(shard)
    for head in sorted(world.heads):
        world.kill_head(head)


def stop_something(world: World) -> End:
    """SIGSTOP a member or the coordinator; it goes on later."""
    running: list[Any] = [*world.shards.values(), *world.heads.values()]
    if world.seat is not None:
        running += [world.seat] * 2
    chosen = world.random.choice(running)
    world.told(f"STOP {chosen}")
    world.kernel.stop(chosen.process)

    def go_on() -> None:
        world.told(f"CONTINUE {chosen}")
        world.kernel.go_on(chosen.process)

    return go_on


def lose_the_coordinators_node(world: World) -> End:
    """Have Ray take the coordinator for dead and start another one; it is stopped, cut off, or just goes on."""
    lost = world.seat
    how = world.random.choice(["stopped", "cut off from some", "at large"])
    world.told(f"NODE LOST {lost}, which is {how}")
    world.restart_coordinator(lost)
    if lost is None or how == "at large":
        return lambda: None
    if how == "stopped":
        world.kernel.stop(lost.process)
        return lambda: world.kernel.go_on(lost.process)
    lost.process.name = f"coordinator {lost.number}"
    pairs = cut(world, lost.process.name)
    return lambda: world.network.cut.difference_update(pairs)


# -- the network -------------------------------------------------------------------------------------------------------


def cut_off(world: World) -> End:
    """Cut the coordinator off from some members."""
    pairs = cut(world, "coordinator")
    world.told(f"CUT {sorted(map(sorted, pairs))}")

    def mend() -> None:
        world.told("MENDED")
        world.network.cut -= pairs

    return mend


def cut(world: World, name: str) -> set[frozenset[str]]:
    """Cut a process off from some members; return the pairs."""
    members = [f"shard {shard}" for shard in world.shards] + [f"head {head}" for head in world.heads]
    pairs = {frozenset((name, member)) for member in members if world.random.random() < 0.5}
    world.network.cut |= pairs
    return pairs


def rough_weather(world: World) -> End:
    """Have calls lost, answers lost, some late, some made twice."""
    worst = world.random.choice([0.05, 0.2])
    world.told(f"ROUGH {worst}")
    world.network.weather = Weather(lost=worst, unanswered=worst, late=worst, twice=worst, delay_s=0.3)

    def fine() -> None:
        world.told("FINE")
        world.network.weather = FINE

    return fine


# -- the folder --------------------------------------------------------------------------------------------------------


def folder_away(world: World) -> End:
    world.told("FOLDER AWAY")
    world.folder.away = True
    return lambda: _mended(world)


def folder_full(world: World) -> End:
    world.told("FOLDER FULL")
    world.folder.full = True
    return lambda: _mended(world)


def folder_slow(world: World) -> End:
    world.told("FOLDER SLOW")
    world.folder.slow_s = 2.0
    return lambda: _mended(world)


def folder_hangs(world: World) -> End:
    world.told("FOLDER HANGS")
    world.folder.hanging = 0.4
    return lambda: _mended(world)


def folder_emptied(world: World) -> End:
    world.told("FOLDER EMPTIED")
    world.folder.empty()
    return lambda: _mended(world)


def _mended(world: World) -> None:
    world.told("FOLDER MENDED")
    world.folder.mend()


FAULTS: list[Callable[[World], End | None]] = [
    kill_a_shard,
    kill_a_shard,
    kill_a_head,
    kill_the_coordinator,
    kill_the_coordinator,
    kill_everything,
    stop_something,
    stop_something,
    lose_the_coordinators_node,
    lose_the_coordinators_node,
    cut_off,
    rough_weather,
    folder_away,
    folder_full,
    folder_slow,
    folder_hangs,
    folder_emptied,
]
"""All of them; what is there twice happens twice as often."""
