"""Requests that ask for damaged rows fail; those that happen to ride in their batch do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ringpull.inference.head.batcher import Batcher
from ringpull.inference.head.halvings import HALVINGS_PER_S, MAX_HALVINGS
from ringpull.ps.errors import NotAnswered, Unavailable
from tests.clock import Clock
from tests.inference.batcher_stages import FAR_S, Stages, turns


class Damaged(Stages):
    """Stages whose pull fails for batches that have any of some items."""

    def __init__(self, *items: int) -> None:
        super().__init__()
        self.items = set(items)

    async def pull(self, items: dict[int, int], deadline_s: float) -> dict[int, int]:
        await super().pull(items, deadline_s)
        if self.items & set(items.values()):
            raise NotAnswered("keys of users are quarantined")
        return items


async def answers(stages: Stages, count: int) -> list[int | str]:
    """Return what requests 0, 1, ... of one batch get: their answers, or the names of their errors."""
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(stages.prepare, stages.pull, stages.compute, executor, max_rows=count)
        asked = [asyncio.ensure_future(batcher.submit(item, 1, FAR_S)) for item in range(count)]
        got = await asyncio.gather(*asked, return_exceptions=True)
        await batcher.close(timeout_s=0)
    return [type(each).__name__ if isinstance(each, BaseException) else each[0] for each in got]


@pytest.mark.parametrize("damaged", [[0], [5], [15], [0, 15], [3, 4]])
async def test_only_those_who_ask_for_damaged_rows_fail(damaged: list[int]) -> None:
    stages = Damaged(*damaged)
    got = await answers(stages, 16)
    assert got == ["NotAnswered" if item in damaged else 10 * item for item in range(16)]
    assert stages.pulled[0] == list(range(16))


async def test_what_everybody_asks_for_costs_few_pulls() -> None:
    stages = Damaged(*range(64))
    assert await answers(stages, 64) == ["NotAnswered"] * 64
    assert len(stages.pulled) <= 2 * MAX_HALVINGS + 1


async def test_a_shard_that_is_gone_fails_the_batch_at_once() -> None:
    stages = Stages()
    stages.pull_error = Unavailable("no live shard could answer")
    assert await answers(stages, 16) == ["Unavailable"] * 16
    assert len(stages.pulled) == 1


class Clocked(Damaged):
    """Stages whose every pull takes so long on a fake clock."""

    def __init__(self, clock: Clock, took_s: float, *items: int) -> None:
        super().__init__(*items)
        self.clock, self.took_s = clock, took_s

    async def pull(self, items: dict[int, int], deadline_s: float) -> dict[int, int]:
        self.clock.now_s += self.took_s
        return await super().pull(items, deadline_s)


async def test_a_batch_is_not_halved_beyond_its_deadline() -> None:
    """Nobody would have the answer any more, and others wait behind it."""
    clock = Clock(0.0)
    stages = Clocked(clock, 1.0, *range(16))
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(stages.prepare, stages.pull, stages.compute, executor, max_rows=16, clock=clock)
        asked = [asyncio.ensure_future(batcher.submit(item, 1, 3.5)) for item in range(16)]
        got = await asyncio.gather(*asked, return_exceptions=True)
        await batcher.close(timeout_s=0)
    assert {type(each) for each in got} == {NotAnswered}
    assert len(stages.pulled) <= 4


@pytest.mark.medium
async def test_damage_that_is_asked_for_all_the_time_costs_few_pulls_a_second() -> None:
    clock = Clock(0.0)
    stages = Clocked(clock, 0.001, 0)
    batches = 0
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(stages.prepare, stages.pull, stages.compute, executor, max_rows=64, clock=clock)
        while clock.now_s < 2.0:
            asked = [asyncio.ensure_future(batcher.submit(item, 1, FAR_S)) for item in range(64)]
            await asyncio.gather(*asked, return_exceptions=True)
            batches += 1
            clock.now_s += 0.005
        await batcher.close(timeout_s=0)
    assert len(stages.pulled) - batches <= 2 * (2 * MAX_HALVINGS + 2.1 * HALVINGS_PER_S)


async def test_a_slow_batch_that_is_halved_takes_nothing_from_who_passed_it() -> None:
    """A pump that has been passed is not timed again: else two would take turns, and one waits for ever."""
    stages = Damaged(0)
    stages.stuck = {item: asyncio.Event() for item in (0, 1)}
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(
            stages.prepare, stages.pull, stages.compute, executor, max_rows=2, max_pulls=2, patience_s=0.001
        )
        slow = [asyncio.ensure_future(batcher.submit(item, 1, FAR_S)) for item in (0, 1)]
        await until(lambda: batcher._taker is None and stages.pulled == [[0, 1]])
        stages.compute_gate.clear()
        ahead = [asyncio.ensure_future(batcher.submit(item, 1, FAR_S)) for item in (2, 3)]
        await until(lambda: batcher._held is not None)
        second, held = batcher._taker, batcher._held
        assert second is not None
        stages.stuck[0].set()
        await turns(3)
        stages.stuck[1].set()
        stages.stuck[1].clear()  # for its half
        await until(lambda: [1] in stages.pulled)
        for _ in range(20):  # many times its patience
            await asyncio.sleep(0.002)
        assert (batcher._taker, batcher._held) == (second, held)
        stages.compute_gate.set()
        stages.stuck[1].set()
        got = await asyncio.gather(*slow, *ahead, return_exceptions=True)
        assert [each if isinstance(each, NotAnswered) else each[0] for each in got[1:]] == [10, 20, 30]
        await until(lambda: not batcher._pumps)
        await batcher.close(timeout_s=0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)
