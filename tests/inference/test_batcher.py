"""The micro-batcher's promises: no wait when idle, overlapping stages, full batches under load, who leaves."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from ringpull.inference.head.batcher import Batcher
from ringpull.ps.errors import DeadlineExceeded, Unavailable
from tests.inference.batcher_stages import FAR_S, turns


async def test_idle_batcher_takes_a_lone_request_at_once(stages, batcher):
    answer, times = await batcher.submit(7, 1, FAR_S)
    assert answer == 70
    assert stages.pulled == [[7]]
    assert times.batch_rows == 1
    assert "waiting=0" in repr(batcher)


async def test_requests_of_one_turn_ride_together_up_to_max_rows_in_order(stages, batcher):
    answers = await asyncio.gather(*(batcher.submit(i, 1, FAR_S) for i in range(6)))
    assert [answer for answer, _ in answers] == [0, 10, 20, 30, 40, 50]
    assert stages.pulled == [[0, 1, 2, 3], [4, 5]]
    assert [times.batch_rows for _, times in answers] == [4, 4, 4, 4, 2, 2]


async def test_a_request_larger_than_a_batch_rides_alone(stages, batcher):
    await asyncio.gather(batcher.submit(1, 2, FAR_S), batcher.submit(2, 9, FAR_S), batcher.submit(3, 2, FAR_S))
    assert stages.pulled == [[1], [2], [3]]


async def test_next_batch_is_pulled_while_the_last_one_computes(stages, batcher):
    stages.compute_gate.clear()
    first = asyncio.create_task(batcher.submit(1, 1, FAR_S))
    await asyncio.to_thread(stages.compute_started.wait)
    stages.pull_started.clear()
    second = asyncio.create_task(batcher.submit(2, 1, FAR_S))
    await stages.pull_started.wait()
    assert stages.pulled == [[1], [2]]
    assert stages.computed == [[1]]
    assert not first.done()
    # A third and a fourth fill the next batch while both stages are taken.
    others = [asyncio.create_task(batcher.submit(item, 1, FAR_S)) for item in (3, 4)]
    await turns()
    assert stages.pulled == [[1], [2]]
    stages.compute_gate.set()
    await asyncio.gather(first, second, *others)
    assert stages.pulled == [[1], [2], [3, 4]]
    assert stages.computed == [[1], [2], [3, 4]]


async def test_next_batch_is_not_pulled_before_it_is_as_large_as_the_one_that_computes(stages, batcher):
    stages.compute_gate.clear()
    first = asyncio.create_task(batcher.submit(1, 3, FAR_S))
    await asyncio.to_thread(stages.compute_started.wait)
    others = [asyncio.create_task(batcher.submit(item, 1, FAR_S)) for item in (2, 3)]
    await turns()
    assert stages.pulled == [[1]]
    others.append(asyncio.create_task(batcher.submit(4, 1, FAR_S)))
    await turns()
    assert stages.pulled == [[1], [2, 3, 4]]
    stages.compute_gate.set()
    await asyncio.gather(first, *others)


async def test_smaller_batch_is_pulled_when_the_last_one_is_computed(stages, batcher):
    stages.compute_gate.clear()
    first = asyncio.create_task(batcher.submit(1, 3, FAR_S))
    await asyncio.to_thread(stages.compute_started.wait)
    second = asyncio.create_task(batcher.submit(2, 1, FAR_S))
    await turns()
    assert stages.pulled == [[1]]
    stages.compute_gate.set()
    assert [answer for answer, _ in await asyncio.gather(first, second)] == [10, 20]
    assert stages.pulled == [[1], [2]]


async def test_full_batch_does_not_wait_for_a_larger_one_that_computes(stages, batcher):
    stages.compute_gate.clear()
    first = asyncio.create_task(batcher.submit(1, 9, FAR_S))
    await asyncio.to_thread(stages.compute_started.wait)
    second = asyncio.create_task(batcher.submit(2, 4, FAR_S))
    await turns()
    assert stages.pulled == [[1], [2]]
    stages.compute_gate.set()
    await asyncio.gather(first, second)


async def test_refused_items_fail_alone_and_at_once(stages, batcher):
    stages.refusals = {1: ValueError("one"), 3: ValueError("three")}
    stages.pull_gate.clear()
    tasks = [asyncio.create_task(batcher.submit(item, 1, FAR_S)) for item in range(4)]
    await asyncio.wait([tasks[1], tasks[3]])
    assert [str(tasks[place].exception()) for place in (1, 3)] == ["one", "three"]
    assert stages.pulled == [[0, 2]]
    stages.pull_gate.set()
    assert [(await tasks[place])[0] for place in (0, 2)] == [0, 20]


async def test_batch_of_refused_items_is_not_pulled(stages, batcher):
    stages.refusals = {1: ValueError("one")}
    with pytest.raises(ValueError, match="one"):
        await batcher.submit(1, 1, FAR_S)
    assert stages.pulled == []
    assert (await batcher.submit(2, 1, FAR_S))[0] == 20


async def test_who_gives_up_behind_a_stuck_pull_is_not_kept(stages, batcher):
    stages.pull_gate.clear()
    patient = [asyncio.create_task(batcher.submit(item, 1, FAR_S)) for item in (1, 2)]
    await stages.pull_started.wait()
    waiting = [asyncio.create_task(batcher.submit(item, 1, FAR_S)) for item in range(10)]
    await turns()
    assert "waiting=10" in repr(batcher)
    for each in (*waiting[:4], *waiting[5:]):
        each.cancel()
    await turns()
    assert "waiting=1 " in repr(batcher)
    stages.pull_gate.set()
    await asyncio.gather(*patient)
    assert (await waiting[4])[0] == 40
    assert stages.pulled == [[1, 2], [4]]


async def test_cancelled_request_leaves_the_queue(stages, batcher):
    stages.pull_gate.clear()
    first = asyncio.create_task(batcher.submit(1, 1, FAR_S))
    await stages.pull_started.wait()
    gone = asyncio.create_task(batcher.submit(2, 1, FAR_S))
    stays = asyncio.create_task(batcher.submit(3, 1, FAR_S))
    await turns()
    gone.cancel()
    await turns()
    stages.pull_gate.set()
    assert (await stays)[0] == 30
    await first
    assert gone.cancelled()
    assert stages.pulled == [[1], [3]]


async def test_request_that_expires_in_the_queue_is_answered_and_not_served(stages, batcher, clock):
    stages.pull_gate.clear()
    first = asyncio.create_task(batcher.submit(1, 1, FAR_S))
    await stages.pull_started.wait()
    late = asyncio.create_task(batcher.submit(2, 1, deadline_s=5.0))
    await turns()
    clock.now_s = 6.0
    stages.pull_gate.set()
    with pytest.raises(DeadlineExceeded, match="deadline passed"):
        await late
    await first
    assert stages.pulled == [[1]]


async def test_request_already_late_is_refused(batcher, stages, clock):
    clock.now_s = 3.0
    with pytest.raises(DeadlineExceeded):
        await batcher.submit(1, 1, deadline_s=3.0)
    assert stages.pulled == []


async def test_deadline_ends_the_wait_even_when_a_stage_hangs(stages, batcher):
    stages.pull_gate.clear()
    # The clock stands, the loop's timer does not: the answer comes while the pull still hangs.
    with pytest.raises(DeadlineExceeded):
        await batcher.submit(1, 1, deadline_s=0.001)
    assert not stages.pull_gate.is_set()


async def test_batch_has_the_latest_deadline_of_its_requests(stages, batcher):
    await asyncio.gather(batcher.submit(1, 1, 50.0), batcher.submit(2, 1, 90.0), batcher.submit(3, 1, 70.0))
    assert stages.pull_deadlines == [90.0]


async def test_batch_nobody_waits_for_is_not_computed(stages, batcher):
    stages.pull_gate.clear()
    gone = asyncio.create_task(batcher.submit(1, 1, FAR_S))
    await stages.pull_started.wait()
    gone.cancel()
    await turns()
    stages.pull_gate.set()
    assert (await batcher.submit(2, 1, FAR_S))[0] == 20
    assert stages.computed == [[2]]


@pytest.mark.parametrize("stage", ["pull", "compute"])
async def test_error_of_a_stage_reaches_every_request_and_the_batcher_serves_on(stages, batcher, stage):
    setattr(stages, f"{stage}_error", Unavailable("table user: no live shard"))
    results = await asyncio.gather(*(batcher.submit(i, 1, FAR_S) for i in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["table user: no live shard"] * 3
    assert all(isinstance(result, Unavailable) for result in results)
    setattr(stages, f"{stage}_error", None)
    assert (await batcher.submit(9, 1, FAR_S))[0] == 90


async def test_times_say_where_a_request_waited(stages, batcher, clock):
    stages.pull_gate.clear()
    first = asyncio.create_task(batcher.submit(1, 1, FAR_S))
    await stages.pull_started.wait()
    second = asyncio.create_task(batcher.submit(2, 3, FAR_S))
    await turns()
    clock.now_s = 2.0
    stages.pull_gate.set()
    (_, first_times), (_, second_times) = await asyncio.gather(first, second)
    assert first_times.queue_s == 0.0
    assert first_times.lookup_s == 2.0
    assert second_times.queue_s == 2.0
    assert second_times.batch_rows == 3


# -- late pulls --------------------------------------------------------------------------------------------------------


async def test_a_late_pull_is_passed(stages, passing):
    stages.stuck[1] = asyncio.Event()
    first = asyncio.create_task(passing.submit(1, 1, FAR_S))
    await stages.pull_started.wait()
    answers = [(await passing.submit(item, 1, FAR_S))[0] for item in (2, 3, 4)]
    assert answers == [20, 30, 40]
    assert not first.done()
    assert stages.pulled == [[1], [2], [3], [4]]
    stages.stuck[1].set()
    assert (await first)[0] == 10


async def test_no_more_pulls_than_that_are_late_at_a_time(stages, passing):
    stages.stuck = {item: asyncio.Event() for item in (1, 2)}
    late = []
    for item in (1, 2):
        late.append(asyncio.create_task(passing.submit(item, 4, FAR_S)))
        while [item] not in stages.pulled:
            await asyncio.sleep(0.001)
    waiting = [asyncio.create_task(passing.submit(item, 1, FAR_S)) for item in (3, 4, 5)]
    await turns(50)
    assert stages.pulled == [[1], [2]]
    assert "waiting=3 pulling=2" in repr(passing)
    stages.stuck[1].set()
    assert [(await task)[0] for task in waiting] == [30, 40, 50]
    assert (await late[0])[0] == 10
    assert stages.pulled == [[1], [2], [3, 4, 5]], "what waited meanwhile rides together"
    stages.stuck[2].set()
    assert (await late[1])[0] == 20


async def test_batches_of_late_pulls_are_computed_one_at_a_time_too(stages, passing):
    stages.stuck = {item: asyncio.Event() for item in (1, 2)}
    stages.compute_gate.clear()
    tasks = []
    for item in (1, 2):
        tasks.append(asyncio.create_task(passing.submit(item, 4, FAR_S)))
        while [item] not in stages.pulled:
            await asyncio.sleep(0.001)
    stages.stuck[2].set()
    await asyncio.to_thread(stages.compute_started.wait)
    stages.stuck[1].set()
    await turns(50)
    assert stages.computed == [[2]]
    stages.compute_gate.set()
    assert [(await task)[0] for task in tasks] == [10, 20]
    assert stages.computed == [[2], [1]]


async def test_closing_ends_late_pulls_and_what_waits_behind_them(stages, passing):
    stages.stuck = {item: asyncio.Event() for item in (1, 2)}
    tasks = []
    for item in (1, 2):
        tasks.append(asyncio.create_task(passing.submit(item, 4, FAR_S)))
        while [item] not in stages.pulled:
            await asyncio.sleep(0.001)
    tasks.append(asyncio.create_task(passing.submit(3, 1, FAR_S)))
    await turns()
    await passing.close(timeout_s=0)
    for task in tasks:
        with pytest.raises(Unavailable, match="stopped"):
            await task
    assert "waiting=0 pulling=0" in repr(passing)


@pytest.mark.parametrize("max_pulls", [1, 2])
async def test_batches_are_as_large_when_one_more_pull_is_allowed(stages, clock, max_pulls):
    """Nothing is late: then it makes no difference."""
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(
            stages.prepare, stages.pull, stages.compute, executor, max_rows=4, max_pulls=max_pulls, clock=clock
        )
        stages.pull_gate.clear()
        tasks = [asyncio.create_task(batcher.submit(item, 1, FAR_S)) for item in range(4)]
        await stages.pull_started.wait()
        tasks += [asyncio.create_task(batcher.submit(item, 1, FAR_S)) for item in range(4, 12)]
        await turns()
        stages.pull_gate.set()
        assert [answer for answer, _ in await asyncio.gather(*tasks)] == [10 * item for item in range(12)]
        assert stages.pulled == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
        await batcher.close(timeout_s=60)


# -- closing -----------------------------------------------------------------------------------------------------------


async def test_closing_answers_what_is_there_and_refuses_what_comes(stages, batcher):
    stages.compute_gate.clear()
    tasks = [asyncio.create_task(batcher.submit(i, 4, FAR_S)) for i in range(3)]
    await asyncio.to_thread(stages.compute_started.wait)
    closing = asyncio.create_task(batcher.close(timeout_s=60))
    await turns()
    with pytest.raises(Unavailable, match="stopping"):
        await batcher.submit(9, 1, FAR_S)
    stages.compute_gate.set()
    assert [answer for answer, _ in await asyncio.gather(*tasks)] == [0, 10, 20]
    await closing


async def test_closing_fails_what_does_not_finish_in_time(stages, batcher):
    stages.pull_gate.clear()
    pulling = asyncio.create_task(batcher.submit(1, 4, FAR_S))
    waiting = asyncio.create_task(batcher.submit(2, 4, FAR_S))
    await stages.pull_started.wait()
    await batcher.close(timeout_s=0)
    for task in (pulling, waiting):
        with pytest.raises(Unavailable, match="stopped"):
            await task
