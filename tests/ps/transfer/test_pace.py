"""Copying rests while pulls come: in proportion to what a step took, and not where nobody asks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import RangeSource
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.shard import Shard
from ringpull.ps.slot_mask import mask_of
from ringpull.ps.transfer import pace
from ringpull.ps.transfer.copies import LocalCopies
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.pace import LULL_S, MAX_REST_S, MIN_REST_S, REST_SHARE, Pace
from ringpull.ps.transfer.throttle import Throttle
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.messages import DescribeRequest, Request
from tests.clock import Clock
from tests.ps.tables import MODEL, VERSION, WrittenTable, rows_request, write_table
from tests.ps.transfer.placements import NOWHERE, assert_holds, assign, owned_slots, placement, slots_of
from tests.ps.transfer.shards import Member

EIGHT = Ring.even(range(8))
ALL_SLOTS = [SlotRange(0, SLOTS)]


class Resting(Job):
    """A job that rests at once, and knows for how long."""

    def __init__(self) -> None:
        super().__init__()
        self.rests: list[float] = []

    def pause(self, seconds: float) -> None:
        self.check()
        self.rests.append(seconds)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    return write_table(tmp_path_factory.mktemp("tables") / "users", rows=3000, dim=4)


@pytest.mark.parametrize(
    ("took_s", "pulled_before_s", "rest_s"),
    [
        (0.004, 0.0, REST_SHARE * 0.004),
        (0.004, LULL_S * 0.9, REST_SHARE * 0.004),
        (0.004, LULL_S * 1.1, 0.0),
        (60.0, 0.0, MAX_REST_S),
        (MIN_REST_S / REST_SHARE / 2, 0.0, 0.0),
    ],
)
def test_a_rest_is_as_long_as_the_step_asks_for_and_bounded(
    took_s: float, pulled_before_s: float, rest_s: float
) -> None:
    clock, job = Clock(100.0), Resting()
    own = Pace(lambda: 100.0 + took_s - pulled_before_s, clock)
    began_s = own.now_s()
    clock.now_s += took_s
    own.rest(began_s, job)
    assert job.rests == ([pytest.approx(rest_s)] if rest_s else [])


def test_a_rest_ends_when_the_job_does() -> None:
    clock, job = Clock(0.0), Job()
    own = Pace(lambda: clock.now_s, clock)
    clock.now_s = 1.0
    job.cancel()
    with pytest.raises(Cancelled):
        own.rest(0.0, job)


@pytest.mark.parametrize("pulls", [True, False])
def test_what_is_copied_at_a_pace_is_the_same_and_every_step_rests(
    pulls: bool, users: WrittenTable, tmp_path: Path
) -> None:
    """It asks for a description of each range and for its rows, and writes them."""
    shards: dict[int, Shard] = {}
    source, target = (Member(shard, tmp_path / "data", shards) for shard in (0, 1))
    source.prepare(placement([users.folder], ALL_SLOTS))
    source.assign(1, Ring.even([0]))
    target.copies.close()
    clock, job = Clock(0.0), Resting()

    def slow_clock() -> float:
        clock.now_s += 0.01  # as long as each step takes
        return clock.now_s

    own = Pace(lambda: clock.now_s if pulls else -1e9, slow_clock)
    target.copies = LocalCopies(target.folder, Throttle(), pace=own)
    sources = [RangeSource(owned.slots, "peer", 0) for owned in EIGHT.ranges]
    wanted = placement([NOWHERE / "users"], ALL_SLOTS, sources)
    target.copies.prepare([wanted], target.shard, target.peers, job)
    assert_holds(target.base(), users, mask_of(ALL_SLOTS))
    if pulls:
        assert len(job.rests) >= 3 * len(EIGHT.ranges)
    else:
        assert job.rests == []
    for each in (source, target):
        each.copies.close()


@pytest.mark.net
def test_a_shard_rests_once_it_is_asked(users: WrittenTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulls over the wire do that; a shard that nobody asks, or only for ranges, copies as fast as it can."""
    rests, wait = list[float](), Job.pause

    def pause(job: Job, seconds: float) -> None:
        if seconds <= MAX_REST_S:  # else somebody waits to tidy
            rests.append(seconds)
        wait(job, seconds)

    monkeypatch.setattr(pace, "LULL_S", 1e9)
    monkeypatch.setattr(pace, "MIN_REST_S", 0.0)
    monkeypatch.setattr(Job, "pause", pause)
    actor = ShardProcess(0, data_dir=tmp_path / "data")
    try:
        actor.prepare([placement([users.folder], owned_slots(EIGHT, 0))])
        assign(actor, 1, EIGHT)
        owned = users.keys[EIGHT.owned_mask(0, 1)[slots_of(users.keys)] == 1]
        for request, rested in (
            (DescribeRequest(MODEL, VERSION, "users", 0, 1, 0), False),
            (rows_request("users", owned[:1]), True),
        ):
            asyncio.run(asked(actor.address(), request))
            actor.prepare([placement([users.folder], [*owned_slots(EIGHT, 0), *owned_slots(EIGHT, 1 + rested)])])
            assert bool(rests) == rested
    finally:
        actor.stop()


async def asked(address: tuple[str, int], request: Request) -> None:
    connection = await Connection.connect(*address)
    await connection.request(request, deadline_s=time.monotonic() + 60)
    await connection.close()
