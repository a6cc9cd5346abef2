"""A head's tally of its calls, beside a list of all of them."""

from __future__ import annotations

import asyncio
from random import Random

import numpy as np
import pytest

from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.metrics.call_log import Call
from ringpull.inference.head.metrics.call_tally import BOUNDS_S, CallTally, model_counts
from ringpull.inference.head.metrics.call_watch import CallWatch
from ringpull.inference.head.metrics.model_counts import ModelCounts
from ringpull.ps.errors import Unavailable
from ringpull.router.control.head_counts import OVERALL, STEP_S, STEPS
from tests.clock import Clock

TIMES = StageTimes(queue_s=0.25, prepare_s=0.5, lookup_s=0.125, dense_s=1.0, batch_rows=9)


@pytest.fixture
def tally(clock: Clock) -> CallTally:
    clock.now_s = 1_000_000.0
    made = CallTally(now=lambda: clock.now_s)
    made.loaded("ranker", 7)
    return made


def answer(tally: CallTally, total_s: float = 2.0, *, version: int = 7, times: StageTimes = TIMES) -> None:
    tally.answered("ranker", version, 8, times, decode_s=0.0625, encode_s=0.0625, total_s=total_s)


def test_every_stage_of_an_answered_call(tally: CallTally) -> None:
    answer(tally)
    assert model_counts(tally.totals())["ranker", 7] == ModelCounts(
        calls=1,
        rows=8,
        batches=1,
        total_ns=2_000_000_000,
        queue_ns=250_000_000,
        input_ns=687_500_000,
        infer_ns=1_000_000_000,
        output_ns=62_500_000,
        last_ms=1_000_000_000,
    )


def test_a_batch_counts_once_however_many_calls_rode_in_it(tally: CallTally) -> None:
    for first in (True, False, False):
        answer(tally, times=StageTimes(0, 0, 0, 0, 24, first))
    counts = model_counts(tally.totals())["ranker", 7]
    assert (counts.calls, counts.rows, counts.batches) == (3, 24, 1)


def test_failures_count_for_the_version_once_it_is_known(tally: CallTally) -> None:
    tally.failed("ranker", 7, 0.5)
    tally.failed("whatever was sent", 0, 0.5)
    assert model_counts(tally.totals()) == {("ranker", 7): ModelCounts(failed=1, failed_ns=500_000_000)}
    assert {key[0] for key in tally.counts().recent} == {"ranker", ""}, "what was sent is no name here"
    assert tally.calls.failed == 2


def test_a_version_that_is_let_go_of_counts_no_more(tally: CallTally) -> None:
    tally.let_go("ranker", 7)
    answer(tally)
    assert list(tally.totals()) == [OVERALL]
    assert sum(step[0] for step in tally.counts().recent.values()) == 1, "the call was answered all the same"


def test_who_went_away_has_not_failed(clock: Clock) -> None:
    watch = CallWatch(clock=clock)
    watch.failed(Call(0.0, model="ranker", version=7), asyncio.CancelledError())
    assert watch.tally.calls.failed == 0
    watch.failed(Call(0.0, model="ranker", version=7), Unavailable("it"))
    assert watch.tally.calls.failed == 1


def test_steps_are_those_of_the_last_quarter_of_an_hour(tally: CallTally, clock: Clock) -> None:
    for _ in range(STEPS + 20):
        answer(tally)
        clock.now_s += STEP_S
    newest = int(clock.now_s) // STEP_S
    assert sorted(step for _, step in tally.counts().recent) == list(range(newest - STEPS + 1, newest))


def test_heartbeats_tell_the_newest_steps_and_the_older_ones_in_turn(tally: CallTally, clock: Clock) -> None:
    for _ in range(STEPS):
        answer(tally)
        clock.now_s += STEP_S
    clock.now_s -= STEP_S
    newest = int(clock.now_s) // STEP_S
    told: set[int] = set()
    for _ in range(STEPS):
        steps = {step for _, step in tally.news().recent}
        assert {newest, newest - 1} <= steps
        assert len(steps) <= 3
        told |= steps
    assert told == set(range(newest - STEPS + 1, newest + 1))


def test_buckets_hold_each_latency(tally: CallTally) -> None:
    random = Random(3)
    took = [random.lognormvariate(-5, 2) for _ in range(1000)]
    for each in took:
        answer(tally, each)
    (step,) = tally.counts().recent.values()
    expected = np.bincount(np.searchsorted(BOUNDS_S, took), minlength=len(BOUNDS_S) + 1)
    assert list(step[2:]) == expected.tolist()
    assert step[:2] == (1000, 0)
