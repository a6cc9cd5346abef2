"""Who comes while a batcher is busy rides in the next batch, as long as that is small and the wait short."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from ringpull.inference.head.batcher import LET_IN_S, QUIET_TURNS, SMALL_ROWS, Batcher
from tests.inference.batcher_stages import FAR_S, turns


async def test_busy_batcher_lets_in_who_comes_before_it_takes_a_small_batch(stages, batcher):
    stages.pull_gate.clear()
    tasks = [asyncio.create_task(batcher.submit(1, 1, FAR_S))]
    await turns(3)
    assert stages.pulled == [[1]]  # an idle one waits for nobody
    tasks.append(asyncio.create_task(batcher.submit(2, 1, FAR_S)))
    stages.compute_gate.clear()
    stages.pull_gate.set()
    await turns(QUIET_TURNS // 2)
    tasks.append(asyncio.create_task(batcher.submit(3, 1, FAR_S)))
    await turns(QUIET_TURNS - 5)
    assert stages.pulled == [[1]]
    await turns()
    assert stages.pulled == [[1], [2, 3]]
    stages.compute_gate.set()
    assert [answer for answer, _ in await asyncio.gather(*tasks)] == [10, 20, 30]


async def test_who_comes_while_one_computes_is_let_in_too(stages, batcher):
    stages.compute_gate.clear()
    tasks = [asyncio.create_task(batcher.submit(1, 1, FAR_S))]
    await asyncio.to_thread(stages.compute_started.wait)
    await turns()
    tasks.append(asyncio.create_task(batcher.submit(2, 1, FAR_S)))
    await turns(QUIET_TURNS // 2)
    assert stages.pulled == [[1]]
    await turns()
    assert stages.pulled == [[1], [2]]
    stages.compute_gate.set()
    await asyncio.gather(*tasks)


async def test_letting_in_takes_only_so_long(stages, batcher, clock):
    stages.compute_gate.clear()
    tasks = [asyncio.create_task(batcher.submit(1, 1, FAR_S))]
    await asyncio.to_thread(stages.compute_started.wait)
    await turns()
    tasks.append(asyncio.create_task(batcher.submit(2, 1, FAR_S)))
    await turns(3)
    assert stages.pulled == [[1]]
    clock.now_s += LET_IN_S
    await turns(3)
    assert stages.pulled == [[1], [2]]
    stages.compute_gate.set()
    await asyncio.gather(*tasks)


async def test_who_gives_up_while_others_are_let_in_leaves_the_batcher_as_it_was(stages, batcher):
    stages.compute_gate.clear()
    first = asyncio.create_task(batcher.submit(1, 1, FAR_S))
    await asyncio.to_thread(stages.compute_started.wait)
    await turns()
    second = asyncio.create_task(batcher.submit(2, 1, FAR_S))
    await turns(3)
    second.cancel()
    await turns()
    third = asyncio.create_task(batcher.submit(3, 1, FAR_S))
    await turns()
    assert stages.pulled == [[1], [3]]
    stages.compute_gate.set()
    await asyncio.gather(first, third)


async def test_beside_a_late_pull_a_lone_request_waits_for_nobody(stages, passing):
    stages.stuck[1] = asyncio.Event()
    first = asyncio.create_task(passing.submit(1, 1, FAR_S))
    while stages.pulled != [[1]] or passing._taker is not None:
        await asyncio.sleep(0.001)
    second = asyncio.create_task(passing.submit(2, 1, FAR_S))
    await turns(3)
    assert stages.pulled == [[1], [2]]
    stages.stuck[1].set()
    await asyncio.gather(first, second)


@pytest.mark.parametrize(("rows", "early"), [(SMALL_ROWS - 2, False), (SMALL_ROWS - 1, True)])
async def test_who_waits_with_many_rows_waits_for_nobody(stages, clock, rows, early):
    stages.pull_gate.clear()
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(stages.prepare, stages.pull, stages.compute, executor, max_rows=4096, clock=clock)
        tasks = [asyncio.create_task(batcher.submit(1, 1, FAR_S))]
        await turns(3)
        tasks += [asyncio.create_task(batcher.submit(item, size, FAR_S)) for item, size in ((2, 1), (3, rows))]
        await turns(3)
        stages.pull_gate.set()
        await turns(QUIET_TURNS // 2)
        assert (stages.pulled == [[1], [2, 3]]) is early
        await asyncio.gather(*tasks)
        assert stages.pulled == [[1], [2, 3]]
        await batcher.close(timeout_s=60)
