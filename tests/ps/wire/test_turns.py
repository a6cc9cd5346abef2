"""Turns: who waits for whom, and how much of a loop steps take."""

from __future__ import annotations

import asyncio
import time

import pytest

from ringpull.ps.wire.turns import BURST_S, Turns


class Steps:
    """Steps that say when they are done."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.done: list[str] = []

    def ask(self, who: str, takes_s: float = 0.0) -> None:
        def step() -> None:
            if takes_s:
                time.sleep(takes_s)
            self.done.append(who)

        self.turns.ask(who, who[0], step)

    async def all(self) -> list[str]:
        while self.turns:
            await asyncio.sleep(0)
        return self.done


def still() -> float:
    return 0.0


async def test_addresses_take_turns() -> None:
    steps = Steps(Turns(0.25, still))
    for who in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        steps.ask(who)
    assert await steps.all() == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


async def test_who_waits_waits_once_and_may_go() -> None:
    steps = Steps(Turns(0.25, still))
    for who in ("a1", "a1", "b1", "a2"):
        steps.ask(who)
    assert len(steps.turns) == 3
    steps.turns.forget("a1")
    steps.turns.forget("b1")
    steps.turns.forget("nobody")
    assert await steps.all() == ["a2"]
    steps.ask("a1")
    assert await steps.all() == ["a2", "a1"]


async def test_the_loop_goes_on_between_two_steps() -> None:
    steps = Steps(Turns(0.25, still))
    for number in range(20):
        steps.ask(f"a{number}")
    seen = 0
    while steps.turns:
        await asyncio.sleep(0)
        assert len(steps.done) - seen <= 1
        seen = len(steps.done)


async def test_a_step_that_fails_holds_up_no_other() -> None:
    steps = Steps(Turns(0.25, still))
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context["exception"]))

    def fail() -> None:
        raise OSError

    steps.turns.ask("a0", "a", fail)
    steps.ask("a1")
    assert await steps.all() == ["a1"]
    assert len(failures) == 1


@pytest.mark.medium
async def test_steps_take_no_more_than_their_share() -> None:
    steps = Steps(Turns(0.5))
    began_s = time.perf_counter()
    for number in range(60):
        steps.ask(f"a{number}", takes_s=0.002)
    await steps.all()
    assert time.perf_counter() - began_s >= (59 * 0.002 - BURST_S) / 0.5
