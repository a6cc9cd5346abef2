"""A head whose lease has run out asks once for all requests, and serves on when nobody answers."""

from __future__ import annotations

import asyncio

from ringpull.inference.head.latency import SAMPLES, WINDOW_S, RecentLatencies
from ringpull.inference.head.lease import ASK_AGAIN_S, Lease
from ringpull.ps.errors import Unavailable
from tests.clock import Clock


async def test_a_head_that_nobody_pulses_never_asks():
    assert not Lease(asks([])).expired


def asks(asked: list[str], error: Exception | None = None):
    async def ask() -> None:
        asked.append("asked")
        await asyncio.sleep(0)
        if error is not None:
            raise error

    return ask


async def test_it_expires_when_it_is_not_renewed_and_all_requests_share_one_question():
    asked: list[str] = []
    clock = Clock(100.0)
    lease = Lease(asks(asked), clock)
    lease.renew(10)
    clock.now_s += 9.9
    assert not lease.expired
    clock.now_s += 0.2
    assert lease.expired
    await asyncio.gather(*[lease.refresh() for _ in range(5)])
    assert asked == ["asked"]
    assert not lease.expired
    clock.now_s += ASK_AGAIN_S
    assert lease.expired, "an answer is not a lease"


async def test_nobody_answering_is_no_reason_not_to_serve():
    asked: list[str] = []
    clock = Clock(100.0)
    lease = Lease(asks(asked, Unavailable("the coordinator is gone")), clock)
    lease.renew(0)
    await lease.refresh()
    assert not lease.expired
    clock.now_s += ASK_AGAIN_S
    await lease.refresh()
    assert len(asked) == 2


async def test_a_late_pulse_does_not_renew_what_has_expired():
    """It may have been asked before the head was stopped: the map that was the newest then is history now."""
    asked: list[str] = []
    clock = Clock(100.0)
    lease = Lease(asks(asked), clock)
    lease.renew(10)
    clock.now_s += 60
    lease.renew(10)
    assert lease.expired
    await lease.refresh()
    lease.renew(10)
    clock.now_s += 9.9
    assert not lease.expired


async def test_a_pulse_is_no_lease_while_nobody_answers():
    clock = Clock(100.0)
    lease = Lease(asks([], Unavailable("the coordinator is gone")), clock)
    lease.renew(10)
    clock.now_s += 60
    await lease.refresh()
    lease.renew(10)
    assert not lease.expired
    clock.now_s += ASK_AGAIN_S
    assert lease.expired


async def test_a_request_that_gives_up_does_not_take_the_question_with_it():
    asked: list[str] = []
    lease = Lease(asks(asked))
    first = asyncio.create_task(lease.refresh())
    await asyncio.sleep(0)
    first.cancel()
    await lease.refresh()
    assert asked == ["asked"]


def test_percentiles_are_of_the_last_seconds_only():
    clock = Clock(100.0)
    recent = RecentLatencies(clock)
    assert recent.percentiles_ms() == (0.0, 0.0)
    for _ in range(100):
        recent.add(1.0)
    clock.now_s += WINDOW_S
    for took_ms in range(1, 101):
        recent.add(took_ms / 1e3)
    p50, p99 = recent.percentiles_ms()
    assert abs(p50 - 50.5) < 0.01
    assert 99 <= p99 <= 100
    for _ in range(SAMPLES):
        recent.add(0.002)
    assert recent.percentiles_ms() == (2.0, 2.0)
