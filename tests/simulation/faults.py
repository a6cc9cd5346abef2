"""What goes wrong in a history: each fault begins at some moment, and most end at a later one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from ringpull.router.control.operations import Control, Rebalance
from ringpull.router.control.saved_files import is_seal
from tests.simulation.network import FINE, Weather

if TYPE_CHECKING:
    from tests.simulation.world import World

End = Callable[[], None]
"""Undoes a fault."""

Fault = Callable[["World"], End | None]


def theme(random: Random) -> list[Fault]:
    """Return faults to draw from in one history: a few come again and again, so that they meet."""
    return [*random.sample(FAULTS, 2) * 4, *FAULTS]


def some(world: World, kinds: list[Fault]) -> None:
    """Have one fault begin now, and end after a while if it does not end by itself."""
    fault = world.random.choice(kinds)
    world.disturbed()
    end = fault(world)
    if end is not None:
        lasts_s = world.random.choice([1.0, 4.0, 15.0]) * (0.5 + world.random.random())
        world.kernel.later(lasts_s, lambda: over(world, end))


def ask_soon(world: World) -> None:
    """Have something asked while a fault lasts."""
    for _ in range(2):
        world.kernel.later(world.random.random() * 4, lambda: world.operators.ask(world.operators.anything()))


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


def ambush_the_coordinator(world: World) -> None:
    """Kill it or lose its node at the worst moment: as it gives a command, or before or after it saves."""
    moment = world.random.choice(["command", "saving", "saved"])
    how = world.random.choice([kill_the_coordinator, lose_the_coordinators_node])
    skipped = world.random.randrange(8)

    def spring() -> None:
        nonlocal skipped
        if skipped:
            skipped -= 1
            world.ambushes[moment] = spring
            return
        world.told(f"AMBUSH as it is {moment}")
        world.disturbed()
        end = how(world)
        if end is not None:
            world.kernel.later(world.random.random() * 15.0, lambda: over(world, end))

    world.ambushes[moment] = spring


def lose_the_coordinators_node(world: World) -> End:
    """Have Ray take the coordinator for dead and start another one; it is stopped, cut off, or just goes on."""
    lost = world.seat
    how = world.random.choice(["stopped", "cut off from some", "at large"])
    world.told(f"NODE LOST {lost}, which is {how}")
    world.restart_coordinator(lost)
    ask_soon(world)  # Whoever asks now may reach either.
    # What was on that node comes back elsewhere, and hears of either coordinator first.
    world.kernel.later(world.random.random() * 3, partial(world.random.choice([kill_a_shard, kill_a_head]), world))
    if lost is None or how == "at large":
        return lambda: None
    if how == "stopped":
        world.kernel.stop(lost.process)

        def go_on() -> None:
            world.told(f"CONTINUE {lost}")
            world.kernel.go_on(lost.process)

        return go_on
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
    world.was_rough = True
    begin_s = world.random.random()
    for request in (Rebalance(shards=world.random.randint(2, 4)), Control.PAUSE, Control.RESUME):
        begin_s += world.random.random() * 2
        world.kernel.later(begin_s, partial(world.operators.ask, request))
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
    ask_soon(world)
    return lambda: _mended(world)


def folder_emptied(world: World) -> End:
    world.told("FOLDER EMPTIED")
    world.folder.empty()
    return lambda: _mended(world)


def newest_state_damaged(world: World) -> None:
    """Flip a bit in the newest state, if there is another one to go on from; once, for that one must stay."""
    if world.checks.lost:
        return
    states = sorted(name for name in world.folder.files if name.startswith("state-"))
    whole = [name for name in states if not is_seal(world.folder.files[name])]
    if len(whole) > 1:
        world.told(f"DAMAGED {whole[-1]}")
        world.folder.damage(whole[-1])
        world.checks.state_lost()


def _mended(world: World) -> None:
    world.told("FOLDER MENDED")
    world.folder.mend()


FAULTS: list[Fault] = [
    kill_a_shard,
    kill_a_shard,
    kill_a_head,
    kill_the_coordinator,
    kill_the_coordinator,
    kill_everything,
    stop_something,
    stop_something,
    lose_the_coordinators_node,
    ambush_the_coordinator,
    ambush_the_coordinator,
    cut_off,
    rough_weather,
    folder_away,
    folder_full,
    folder_slow,
    folder_hangs,
    folder_emptied,
    newest_state_damaged,
]
"""All of them; what is there twice happens twice as often."""
