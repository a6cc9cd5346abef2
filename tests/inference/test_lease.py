"""A head that nobody leads asks for the newest map by itself, beside its requests, and serves on if nobody answers."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest

from ringpull.inference.head.latency import SAMPLES, WINDOW_S, RecentLatencies
from ringpull.inference.head.lease import ASK_AGAIN_S, ASK_SHARE, Lease
from ringpull.ps.errors import Replaced, Superseded, Unavailable
from tests.clock import Clock
from tests.router.virtual_time import run, virtual_now

LEASE_S = 10.0


class Leader:
    """What a head asks, and what it gets."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []
        self.error: Exception | None = None
        self.hangs = False
        """Whether it answers nothing, as by SIGSTOP."""
        self.lease = Lease(self.ask, virtual_now)

    async def ask(self) -> None:
        self.asked_s.append(virtual_now())
        if self.hangs:
            await asyncio.sleep(3600)
        if self.error is not None:
            raise self.error


async def keeping(leader: Leader, seconds: float, *, heartbeats_s: float = 0.0) -> None:
    """Let a lease be kept for some time, and be renewed as often as a coordinator would."""
    keep = asyncio.create_task(leader.lease.keep())
    until_s = virtual_now() + seconds
    while virtual_now() < until_s:
        if heartbeats_s:
            leader.lease.renew(LEASE_S)
        await asyncio.sleep(heartbeats_s or seconds)
    keep.cancel()
    with suppress(asyncio.CancelledError):
        await keep


def test_a_head_that_was_never_led_never_asks():
    async def main() -> None:
        leader = Leader()
        await keeping(leader, 1000.0)
        assert leader.asked_s == []
        assert not leader.lease.expired
        assert leader.lease.heard_s is None

    run(main())


def test_a_head_that_is_led_never_asks():
    async def main() -> None:
        leader = Leader()
        await keeping(leader, 1000.0, heartbeats_s=0.5)
        assert leader.asked_s == []
        assert leader.lease.heard_s is not None
        assert leader.lease.heard_s <= 0.5

    run(main())


@pytest.mark.parametrize(
    "error", [None, Unavailable("it is gone"), Superseded("the leader's term is over"), RuntimeError("a bug")]
)
def test_before_its_end_it_asks_again_and_again_until_it_is_renewed(error):
    async def main() -> None:
        leader, began_s = Leader(), virtual_now()
        leader.error = error
        leader.lease.renew(LEASE_S)
        await keeping(leader, 3 * LEASE_S)
        first_s = began_s + (1 - ASK_SHARE) * LEASE_S
        due_s = [first_s + n * ASK_AGAIN_S for n in range(25)]
        assert leader.asked_s == pytest.approx(due_s)
        assert leader.lease.expired is (error is not None)
        asked = len(leader.asked_s)
        leader.lease.renew(LEASE_S)
        await keeping(leader, 1000.0, heartbeats_s=0.5)
        # What has run out is renewed by a map only: one that a leader gives, not by a heartbeat.
        assert (len(leader.asked_s) > asked + 100) is (error is not None)

    run(main())


def test_one_that_hangs_is_asked_once_and_holds_nobody_up():
    async def main() -> None:
        leader = Leader()
        leader.hangs = True
        leader.lease.renew(LEASE_S)
        await keeping(leader, 600.0)
        assert len(leader.asked_s) == 1
        assert leader.lease.expired
        assert leader.lease.heard_s == pytest.approx(600.0)

    run(main())


def test_a_head_that_was_stopped_asks_at_once_whatever_heartbeat_was_on_its_way():
    """It may have been sent before: the map that was the newest then is history now."""

    async def main() -> None:
        leader = Leader()
        leader.lease.renew(LEASE_S)
        keep = asyncio.create_task(leader.lease.keep())
        await asyncio.sleep(0.5)
        asyncio.get_running_loop().jump(60.0)  # type: ignore[attr-defined]
        woke_s = virtual_now()
        leader.lease.renew(LEASE_S)
        assert leader.lease.expired
        await asyncio.sleep(0.1)
        assert leader.asked_s == pytest.approx([woke_s], abs=0.01)
        assert not leader.lease.expired
        leader.lease.renew(LEASE_S)
        await asyncio.sleep(4.0)
        assert len(leader.asked_s) == 1
        keep.cancel()

    run(main())


def test_that_nobody_leads_is_said_once(caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        leader = Leader()
        leader.error = Unavailable("it is gone")
        leader.lease.renew(LEASE_S)
        with caplog.at_level(logging.WARNING):
            await keeping(leader, 100.0)
        [said] = [record.getMessage() for record in caplog.records]
        assert said == "no heartbeat and no map came for 10 s; this head serves on by the map it has: it is gone"
        assert leader.lease.expired
        leader.error = None
        await keeping(leader, 5.0)
        leader.error = Unavailable("it is gone again")
        with caplog.at_level(logging.WARNING):
            await keeping(leader, 100.0)
        assert len(caplog.records) == 2

    run(main())


def test_an_answer_that_does_not_come_while_heartbeats_do_is_nothing_to_tell(caplog: pytest.LogCaptureFixture):
    """They are late once; nobody is alone for that."""

    async def main() -> None:
        leader = Leader()
        leader.error = Unavailable("it is busy")
        leader.lease.renew(LEASE_S)
        with caplog.at_level(logging.WARNING):
            await keeping(leader, 60.0, heartbeats_s=0.8 * LEASE_S)
        assert leader.asked_s
        assert caplog.records == []

    run(main())


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


def test_a_head_that_was_replaced_asks_no_more(caplog):
    async def main() -> None:
        leader = Leader()
        leader.error = Replaced("head 0 has been replaced")
        leader.lease.renew(LEASE_S)
        with caplog.at_level(logging.WARNING):
            await keeping(leader, 10 * LEASE_S)
        assert len(leader.asked_s) == 1
        assert caplog.messages == [], "it does not serve on"

    run(main())
