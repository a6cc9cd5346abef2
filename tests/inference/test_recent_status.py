"""Calls of the last minutes, beside a list of all calls."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.frontends.recent_status import GROWTH, keys_per_s, percentile_s, recent_statuses
from ringpull.inference.head.metrics.call_tally import CallTally
from ringpull.router.control.head_counts import STEP_S, STEPS, summed
from ringpull.router.counters import RouterCounters, TableCounters
from tests.clock import Clock

NOW_S = 15_000_007.0
TIMES = StageTimes(0, 0, 0, 0, 1)


def answer(tally: CallTally, model: str, took_s: float) -> None:
    tally.answered(model, 1, 1, TIMES, decode_s=0, encode_s=0, total_s=took_s)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_percentiles_are_those_of_the_list_within_a_bucket(share: float) -> None:
    random, heads, took = Random(5), [CallTally(now=lambda: NOW_S), CallTally(now=lambda: NOW_S)], []
    for each in range(4000):
        took.append(random.lognormvariate(-5, 1))
        answer(heads[each % 2], "ranker", took[-1])
    recent = summed(head.counts().recent for head in heads)
    (_, ranker) = recent_statuses(recent, ["ranker"], NOW_S)
    told_ms = ranker.p50_ms if share == 0.5 else ranker.p99_ms
    true_ms = 1e3 * float(np.quantile(took, share))
    assert true_ms / GROWTH <= told_ms <= true_ms * GROWTH


def test_edges_of_the_buckets() -> None:
    assert percentile_s([0] * 42, 0.99) == 0.0
    assert percentile_s([0] * 41 + [5], 0.5) == pytest.approx(10.0), "what is over all bounds is told as the last one"
    assert 1e-4 / GROWTH <= percentile_s([5] + [0] * 41, 0.5) <= 1e-4


def test_steps_are_without_gaps_and_the_last_is_under_way(clock: Clock) -> None:
    clock.now_s = NOW_S - 300
    tally = CallTally(now=lambda: clock.now_s)
    answer(tally, "ranker", 0.002)
    clock.now_s = NOW_S
    tally.failed("ranker", 1, 0.1)
    tally.failed("unknown", 0, 0.1)
    everything, idle, ranker = recent_statuses(tally.counts().recent, ["ranker", "idle"], NOW_S)
    assert (everything.model, everything.requests, everything.failed) == ("", 3, 2)
    assert (ranker.model, ranker.requests, ranker.failed) == ("ranker", 2, 1)
    assert (idle.model, idle.requests, idle.p99_ms) == ("idle", 0, 0.0)
    assert ranker.begin_s + (STEPS - 1) * STEP_S == NOW_S - NOW_S % STEP_S
    assert {place: count for place, count in enumerate(ranker.steps.requests) if count} == {STEPS - 21: 1, STEPS - 1: 1}
    assert {place: count for place, count in enumerate(ranker.steps.failed) if count} == {STEPS - 1: 1}
    assert [len(each) for each in (ranker.steps.p50_ms, ranker.steps.p99_ms)] == [STEPS, STEPS]
    assert (ranker.step_s, ranker.last_step_s) == (STEP_S, NOW_S % STEP_S)
    assert ranker.requests_per_s == pytest.approx(1 / (60 + NOW_S % STEP_S))


def test_keys_a_second_are_of_the_last_minute_and_no_model(clock: Clock) -> None:
    clock.now_s = NOW_S - 120
    keys = 0

    def routed() -> RouterCounters:
        return RouterCounters(tables={("ranker", "user"): TableCounters(keys=keys, missing=keys // 10, here=keys // 2)})

    tally = CallTally(routed, lambda: clock.now_s)
    for _ in range(120):
        keys += 100
        tally.news()
        clock.now_s += 1
    recent = tally.counts().recent
    rate, missing, here = keys_per_s(recent, "ranker/user", clock.now_s)
    assert rate == pytest.approx(100, rel=0.02)
    assert missing == pytest.approx(10, rel=0.02)
    assert here == pytest.approx(50, rel=0.02)
    assert [each.model for each in recent_statuses(recent, [], clock.now_s)] == [""]
