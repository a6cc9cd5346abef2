"""Requests that ask for damaged rows fail; those that happen to ride in their batch do not."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from ringpull.inference.head.batcher import MAX_HALVINGS, Batcher
from ringpull.ps.errors import NotAnswered, Unavailable
from tests.inference.batcher_stages import FAR_S, Stages


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
