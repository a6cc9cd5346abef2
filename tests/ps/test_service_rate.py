"""What is learnt of a server's rate: busy time only, lower bounds while it is not full, no haste after a stall."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.ps.service_rate import PROOF_S, WINDOW_S, ServiceRate, Work
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def rate(clock: Clock) -> ServiceRate:
    return ServiceRate(clock)


def serve_alone(
    rate: ServiceRate, clock: Clock, times: int, *, cost: float, took_s: float, idle_s: float = 0.0
) -> None:
    for _ in range(times):
        work = rate.begin(cost)
        clock.now_s += took_s
        assert rate.end(work) == pytest.approx(took_s)
        clock.now_s += idle_s


def serve_queued(rate: ServiceRate, clock: Clock, times: int, *, took_s: float, depth: int = 50) -> None:
    """One by one, with `depth` in flight throughout."""
    waiting = [rate.begin(1.0) for _ in range(depth)]
    for _ in range(times):
        clock.now_s += took_s
        rate.end(waiting.pop(0))
        waiting.append(rate.begin(1.0))
    for work in waiting:
        rate.end(work, served=False)


def test_nothing_is_known_at_first(rate: ServiceRate) -> None:
    assert rate.idle
    assert rate.rate == math.inf
    assert (rate.wait_s(1e9), rate.queue_s(), rate.lone_s) == (0.0, 0.0, 0.0)


def test_what_is_served_without_a_queue_proves_no_rate(rate: ServiceRate, clock: Clock) -> None:
    serve_alone(rate, clock, 100, cost=10.0, took_s=0.01, idle_s=7.0)
    assert rate.lone_s == pytest.approx(0.01)
    assert rate.rate == math.inf


def test_what_is_in_flight_takes_its_cost_over_the_rate(rate: ServiceRate, clock: Clock) -> None:
    serve_alone(rate, clock, 20, cost=1.0, took_s=0.01)
    serve_queued(rate, clock, 100, took_s=0.01)
    works = [rate.begin(1.0) for _ in range(30)]
    assert rate.in_flight == pytest.approx(30.0)
    assert rate.wait_s() == pytest.approx(0.3)
    assert rate.wait_s(10.0) == pytest.approx(0.4)
    assert rate.queue_s() == pytest.approx(0.29), "one request takes 0.01 s whether others wait or not"
    for work in works:
        rate.end(work)
    assert rate.idle
    assert rate.in_flight == 0.0


def test_a_cost_is_corrected_when_it_is_known(rate: ServiceRate, clock: Clock) -> None:
    work = rate.begin(10.0)
    work = rate.reweigh(work, 70.0)
    assert rate.in_flight == 70.0
    clock.now_s += 0.5
    assert rate.end(work) == 0.5
    assert rate.idle
    assert rate.in_flight == 0.0


def test_idle_time_does_not_count(rate: ServiceRate, clock: Clock) -> None:
    for _ in range(20):
        serve_queued(rate, clock, 20, took_s=0.01)
        clock.now_s += 3.0
    assert rate.rate == pytest.approx(100.0, rel=0.1)


def test_a_rate_is_not_believed_while_more_load_brings_more(rate: ServiceRate, clock: Clock) -> None:
    waiting = [rate.begin(1.0) for _ in range(1000)]
    for batch in (8, 16, 32, 64, 128, 128):
        assert rate.rate == math.inf
        clock.now_s += 0.1
        for _ in range(batch):
            rate.end(waiting.pop(0))
    clock.now_s += 0.1
    rate.end(waiting.pop(0))
    assert rate.rate == pytest.approx(1280.0, rel=0.1)


def test_one_slow_batch_proves_nothing(rate: ServiceRate, clock: Clock) -> None:
    waiting = [rate.begin(1.0) for _ in range(17)]
    for batch in (1, 15):
        clock.now_s += 1.0
        for _ in range(batch):
            rate.end(waiting.pop(0))
    assert rate.rate == math.inf


def test_a_proof_is_for_some_time(rate: ServiceRate, clock: Clock) -> None:
    serve_queued(rate, clock, 400, took_s=0.001)
    clock.now_s += PROOF_S - 1.0
    assert rate.rate == pytest.approx(1000.0, rel=0.1)
    clock.now_s += 2.0
    assert rate.rate == pytest.approx(2000.0, rel=0.1)


def test_those_who_wait_too_long_prove_it(rate: ServiceRate, clock: Clock) -> None:
    """All that is begun later is too late: without a proof nobody would be refused, and nobody served, for ever."""
    serve_queued(rate, clock, 10, took_s=0.01)
    waiting = [rate.begin(1.0) for _ in range(50)]
    for _ in range(20):
        clock.now_s += 0.01
        rate.end(waiting.pop(0), served=False)
    assert rate.rate == pytest.approx(100.0, rel=0.1)


def test_a_server_that_is_not_full_proves_no_lower_rate(rate: ServiceRate, clock: Clock) -> None:
    serve_queued(rate, clock, 400, took_s=0.001)
    before = rate.rate
    serve_alone(rate, clock, 200, cost=1.0, took_s=0.01)
    assert rate.rate == before
    assert rate.lone_s == pytest.approx(0.01, rel=0.2)


def test_a_higher_rate_is_believed_soon_and_a_lower_one_when_there_is_a_queue(rate: ServiceRate, clock: Clock) -> None:
    serve_queued(rate, clock, 100, took_s=0.01)
    serve_queued(rate, clock, 500, took_s=0.001)
    assert rate.rate == pytest.approx(1000.0, rel=0.1)
    serve_queued(rate, clock, 500, took_s=0.004)
    assert rate.rate == pytest.approx(250.0, rel=0.1)


def test_one_stall_does_not_make_a_server_slow(rate: ServiceRate, clock: Clock) -> None:
    serve_queued(rate, clock, 400, took_s=0.001)
    before = rate.rate
    serve_queued(rate, clock, 1, took_s=30.0)
    assert rate.rate > 0.8 * before


def test_an_outage_is_no_rate(rate: ServiceRate, clock: Clock) -> None:
    serve_queued(rate, clock, 400, took_s=0.001)
    for _ in range(100):
        work, behind = rate.begin(1.0), rate.begin(1.0)
        clock.now_s += 5.0
        rate.end(work, served=False)
        rate.end(behind, served=False)
    assert rate.rate >= 0.9 * 1000.0


def test_the_slow_first_answers_of_a_cold_server_are_soon_forgotten(rate: ServiceRate, clock: Clock) -> None:
    serve_alone(rate, clock, 1, cost=1.0, took_s=5.0)
    serve_alone(rate, clock, 12, cost=1.0, took_s=0.01)
    assert rate.lone_s < 0.012


def test_one_slow_answer_moves_the_time_of_a_lone_request_only_a_little(rate: ServiceRate, clock: Clock) -> None:
    serve_alone(rate, clock, 50, cost=1.0, took_s=0.01)
    serve_alone(rate, clock, 1, cost=1.0, took_s=60.0)
    assert rate.lone_s < 0.012


@given(st.lists(st.tuples(st.floats(0.0, 3 * WINDOW_S), st.booleans(), st.floats(0.0, 1e6)), max_size=60))
def test_whatever_happens_figures_stay_figures(events: list[tuple[float, bool, float]]) -> None:
    clock = Clock(100.0)
    rate = ServiceRate(clock)
    inside: list[Work] = []
    for after_s, served, cost in events:
        clock.now_s += after_s
        if inside and (served or cost < 5e5):
            rate.end(inside.pop(0), served=served)
        else:
            inside.append(rate.begin(cost))
        assert rate.rate > 0.0
        assert rate.lone_s >= 0.0
        assert rate.in_flight == pytest.approx(sum(work.cost for work in inside), abs=1e-3)
        assert rate.idle is (not inside)
        assert rate.queue_s() >= 0.0
