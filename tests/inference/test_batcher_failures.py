"""Requests that the dense program fails for fail alone: their batch is cut and computed again, and not pulled again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.head.batcher import Batcher
from ringpull.inference.head.halvings import HALVINGS_PER_S, MAX_HALVINGS
from ringpull.ps.errors import NotAnswered
from tests.clock import Clock
from tests.inference.batcher_stages import FAR_S, Stages


class Failing(Stages):
    """Stages whose compute fails for batches that have any of some items, or more than so many items."""

    def __init__(self, *items: int, largest: int = 10**9, clock: Clock | None = None, took_s: float = 0.0) -> None:
        super().__init__()
        self.items, self.largest = set(items), largest
        self.clock, self.took_s = clock or Clock(0.0), took_s

    def compute(self, work: dict[int, int]) -> dict[int, int]:
        self.clock.now_s += self.took_s
        answers = super().compute(work)
        if self.items & set(work.values()) or len(work) > self.largest:
            raise IndexError(f"out of range among {sorted(work.values())}")
        return answers

    @staticmethod
    def split(work: dict[int, int], places: Sequence[int]) -> dict[int, int]:
        return {new: work[place] for new, place in enumerate(places)}


def batcher_of(
    stages: Failing, executor: ThreadPoolExecutor, max_rows: int, *, halves: bool = True
) -> Batcher[int, dict[int, int], dict[int, int], int]:
    split = stages.split if halves else None
    return Batcher(
        stages.prepare, stages.pull, stages.compute, executor, max_rows=max_rows, split=split, clock=stages.clock
    )


async def answers(
    stages: Failing, count: int, *, deadline_s: float = FAR_S, halves: bool = True
) -> list[int | BaseException]:
    """Return what requests 0, 1, ... of one batch get: their answers, or their errors."""
    with ThreadPoolExecutor(1) as executor:
        batcher = batcher_of(stages, executor, count, halves=halves)
        asked = [asyncio.ensure_future(batcher.submit(item, 1, deadline_s)) for item in range(count)]
        got = await asyncio.gather(*asked, return_exceptions=True)
        await batcher.close(timeout_s=0)
    return [each if isinstance(each, BaseException) else each[0] for each in got]


def names(got: Sequence[int | BaseException]) -> list[int | str]:
    return [type(each).__name__ if isinstance(each, BaseException) else each for each in got]


def oracle(count: int, guilty: set[int], refused: set[int]) -> list[int | str]:
    """What each would have got alone."""
    return [
        "NotAnswered" if item in refused else "IndexError" if item in guilty else 10 * item for item in range(count)
    ]


@pytest.mark.medium
@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(1, 200),
    guilty=st.sets(st.integers(0, 199), max_size=MAX_HALVINGS + 1),
    refused=st.sets(st.integers(0, 199), max_size=5),
)
async def test_each_request_gets_what_it_would_have_got_alone(count: int, guilty: set[int], refused: set[int]) -> None:
    stages = Failing(*guilty)
    stages.refusals = {item: NotAnswered("refused") for item in refused}
    assert names(await answers(stages, count)) == oracle(count, guilty, refused)
    assert len(stages.pulled) <= 1, "the shards were asked again"


async def test_who_fails_alone_gets_the_error_of_its_own_run() -> None:
    got = await answers(Failing(3), 6)
    assert str(got[3]) == "out of range among [3]"


async def test_a_batch_too_large_to_be_computed_is_computed_in_parts() -> None:
    """As when a device is out of memory."""
    stages = Failing(largest=4)
    assert await answers(stages, 16) == [10 * item for item in range(16)]


async def test_a_program_that_fails_for_everybody_costs_few_runs() -> None:
    stages = Failing(*range(64))
    assert names(await answers(stages, 64)) == ["IndexError"] * 64
    assert len(stages.computed) <= 2 * MAX_HALVINGS + 1
    assert len(stages.pulled) == 1


async def test_without_a_way_to_split_a_batch_fails_as_a_whole() -> None:
    stages = Failing(3)
    assert names(await answers(stages, 6, halves=False)) == ["IndexError"] * 6
    assert len(stages.computed) == 1


async def test_a_batch_is_not_computed_again_beyond_its_deadline() -> None:
    stages = Failing(*range(16), took_s=1.0)
    assert names(await answers(stages, 16, deadline_s=3.5)) == ["IndexError"] * 16
    assert len(stages.computed) <= 4


async def test_who_went_away_is_not_computed_again() -> None:
    stages = Failing(0)
    stages.compute_gate.clear()
    with ThreadPoolExecutor(1) as executor:
        batcher = batcher_of(stages, executor, 4)
        asked = [asyncio.ensure_future(batcher.submit(item, 1, FAR_S)) for item in range(4)]
        await asyncio.to_thread(stages.compute_started.wait)
        asked[1].cancel()
        await asyncio.gather(asked[1], return_exceptions=True)
        stages.compute_gate.set()
        got = await asyncio.gather(*asked, return_exceptions=True)
        await batcher.close(timeout_s=60)
    assert [each[0] for each in got[2:] if not isinstance(each, BaseException)] == [20, 30]
    assert isinstance(got[0], IndexError)
    assert [items for items in stages.computed[1:] if 1 in items] == []


@pytest.mark.medium
async def test_a_program_that_fails_all_the_time_costs_few_runs_a_second() -> None:
    clock = Clock(0.0)
    stages = Failing(*range(64), clock=clock, took_s=0.001)
    batches = 0
    with ThreadPoolExecutor(1) as executor:
        batcher = batcher_of(stages, executor, 64)
        while clock.now_s < 2.0:
            asked = [asyncio.ensure_future(batcher.submit(item, 1, FAR_S)) for item in range(64)]
            await asyncio.gather(*asked, return_exceptions=True)
            batches += 1
            clock.now_s += 0.005
        await batcher.close(timeout_s=0)
    assert len(stages.computed) - batches <= 2 * (2 * MAX_HALVINGS + 2.1 * HALVINGS_PER_S)


@pytest.mark.medium
async def test_one_who_asks_for_what_fails_all_the_time_never_fails_the_others() -> None:
    """Five others for whom every batch is poisoned, on a clock that stands: nothing is earned by waiting."""
    stages = Failing(5)
    with ThreadPoolExecutor(1) as executor:
        batcher = batcher_of(stages, executor, 6)
        for _ in range(200):
            asked = [asyncio.ensure_future(batcher.submit(item, 1, FAR_S)) for item in range(6)]
            *others, guilty = await asyncio.gather(*asked, return_exceptions=True)
            assert [each if isinstance(each, BaseException) else each[0] for each in others] == [0, 10, 20, 30, 40]
            assert isinstance(guilty, IndexError)
        await batcher.close(timeout_s=0)


async def test_the_next_batch_waits_until_the_parts_of_the_one_before_are_computed() -> None:
    stages = Failing(0)
    with ThreadPoolExecutor(1) as executor:
        batcher = batcher_of(stages, executor, 4)
        asked = [asyncio.ensure_future(batcher.submit(item, 1, FAR_S)) for item in range(8)]
        got = await asyncio.gather(*asked, return_exceptions=True)
        await batcher.close(timeout_s=60)
    assert [each[0] for each in got[1:] if not isinstance(each, BaseException)] == [10 * item for item in range(1, 8)]
    assert stages.computed == [[0, 1, 2, 3], [0, 1], [2, 3], [0], [1], [4, 5, 6, 7]]
    assert len(stages.pulled) == 2


async def test_closing_waits_for_the_parts_of_a_batch() -> None:
    stages = Failing(2)
    stages.compute_gate.clear()
    with ThreadPoolExecutor(1) as executor:
        batcher = batcher_of(stages, executor, 4)
        asked = [asyncio.ensure_future(batcher.submit(item, 1, FAR_S)) for item in range(4)]
        await asyncio.to_thread(stages.compute_started.wait)
        closing = asyncio.ensure_future(batcher.close(timeout_s=60))
        await asyncio.sleep(0)
        stages.compute_gate.set()
        await closing
        got = [each.exception() or each.result()[0] for each in asked]
    assert names(got) == [0, 10, "IndexError", 30]


async def test_an_executor_that_is_gone_leaves_nobody_waiting() -> None:
    stages = Failing(0)
    stages.compute_gate.clear()
    executor = ThreadPoolExecutor(1)
    batcher = batcher_of(stages, executor, 4)
    asked = [asyncio.ensure_future(batcher.submit(item, 1, FAR_S)) for item in range(4)]
    await asyncio.to_thread(stages.compute_started.wait)
    executor.shutdown(wait=False)
    stages.compute_gate.set()
    got = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(each) for each in got} <= {RuntimeError, IndexError}
    await batcher.close(timeout_s=0)


async def test_a_run_that_ends_by_what_is_no_error_of_a_program_ends_its_requests() -> None:
    class Ended(BaseException):
        """No `Exception`, as what ends a thread is none."""

    class Ending(Failing):
        def compute(self, work: dict[int, int]) -> dict[int, int]:
            raise Ended

    assert names(await answers(Ending(), 2)) == ["Ended", "Ended"]
