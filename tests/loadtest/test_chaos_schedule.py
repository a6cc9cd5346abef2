"""The schedule is a function of its seed, is played event by event, and never are two processes down at once."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.loadtest.chaos.changes import Deployed, command
from ringpull.loadtest.chaos.checked_model import MODEL
from ringpull.loadtest.chaos.driver import Driver
from ringpull.loadtest.chaos.faults import inject, victim
from ringpull.loadtest.chaos.health import Broken, missing_rows
from ringpull.loadtest.chaos.processes import lower_priority, usage
from ringpull.loadtest.chaos.record import Record
from ringpull.loadtest.chaos.schedule import (
    CALM_S,
    CHANGES,
    COMMANDING,
    END_S,
    FAULTS,
    HOLD_S,
    INTERRUPTED_CHANGES,
    LASTING,
    LONG,
    LONG_RUN_S,
    SURROUNDINGS,
    Command,
    Event,
    Fault,
    Kind,
    promise,
    schedule,
    too_long,
)
from ringpull.loadtest.deployment import Deployment

SEEDS = st.integers(0, 2**32 - 1)
QUIET = Console(quiet=True)


@pytest.mark.medium
@settings(deadline=None)
@given(seed=SEEDS, seconds=st.floats(0, 3_000), more=st.floats(0, 500), without=st.sets(st.sampled_from(Kind)))
def test_a_schedule_is_a_function_of_its_seed(seed: int, seconds: float, more: float, without: set[Kind]) -> None:
    events = schedule(seed, seconds, without)
    assert events == schedule(seed, seconds, without)
    if seconds >= LONG_RUN_S or seconds + more < LONG_RUN_S:
        assert schedule(seed, seconds + more, without)[: len(events)] == events
    times = [event.at_s for event in events]
    assert times == sorted(times)
    assert all(CALM_S <= at_s < seconds - END_S for at_s in times)


@settings(deadline=None)
@given(seed=SEEDS)
def test_an_event_is_a_fault_or_a_change_or_a_fault_in_a_change(seed: int) -> None:
    events = schedule(seed, 1_000)
    for event in events:
        assert event.fault is not None or event.change is not None
        if event.fault is not None:
            assert event.fault.kind in FAULTS
            assert (event.fault.seconds > 0) == (event.fault.kind.verb in LASTING)
        if event.change is not None:
            assert event.change.kind in CHANGES
            assert event.fault is None or event.change.kind in INTERRUPTED_CHANGES
            assert event.fault is None or event.fault.kind not in COMMANDING
        assert (event.delay_s > 0) == (event.fault is not None and event.change is not None)
    first = [(event.change or event.fault) for event in events[: len(Kind)]]
    assert {fault.kind for fault in first if fault is not None} == set(Kind), "a round has every kind"


def test_other_seeds_and_kinds_left_out() -> None:
    assert schedule(1, 100) != schedule(2, 100)
    kinds = {
        fault.kind
        for event in schedule(3, 1_000, [Kind.KILL_HEAD, Kind.RESTART])
        for fault in (event.change, event.fault)
        if fault is not None
    }
    assert kinds == set(Kind) - {Kind.KILL_HEAD, Kind.RESTART}
    assert schedule(3, 1_000, list(Kind)) == []
    assert "kill-" in " ".join(map(str, schedule(3, 100)))
    held = schedule(3, 40, [Kind.STOP_RAYLET], only=[Kind.HOLD_COORDINATOR, Kind.STOP_RAYLET])
    assert {event.fault for event in held} == {
        Fault(Kind.HOLD_COORDINATOR, event.fault.pick, HOLD_S) for event in held if event.fault
    }


def surroundings(events: list[Event]) -> list[Kind]:
    return [
        event.fault.kind for event in events if event.fault and event.fault.kind in SURROUNDINGS and not event.change
    ]


@given(seed=SEEDS)
def test_a_run_of_three_minutes_has_every_kind_of_surroundings_first(seed: int) -> None:
    """With a few of the others between them, and no rolling restart before all have had a turn."""
    first = schedule(seed, 180)[: len(SURROUNDINGS) + 3]
    assert set(surroundings(first)) == set(SURROUNDINGS)
    others = [event for event in first if event.change or (event.fault and event.fault.kind not in SURROUNDINGS)]
    assert len(others) == 3
    assert not any(event.change and event.change.kind is Kind.RESTART for event in others)


@given(seed=SEEDS)
def test_a_run_of_a_minute_is_without_what_takes_long(seed: int) -> None:
    kinds = set(surroundings(schedule(seed, 60)))
    assert kinds
    assert not kinds & LONG
    assert too_long(60) == LONG
    assert too_long(180) == set()


def test_what_is_promised() -> None:
    assert {kind for kind in Kind if promise(kind, heads=2).fails} == {Kind.KILL_ALL}
    assert {kind for kind in Kind if promise(kind, heads=1).fails} == {
        Kind.KILL_ALL,
        Kind.REMOVE_VERSION,
        Kind.KILL_HEAD,
        Kind.STOP_HEAD,
        Kind.SLOW_HEAD,
        Kind.RESTART,
    }
    assert {kind for kind in Kind if promise(kind, heads=2).fills} == {
        Kind.KILL_SHARD,
        Kind.STOP_SHARD,
        Kind.SLOW_SHARD,
        Kind.RESTART,
        Kind.KILL_ALL,
        Kind.IMPERSONATE_SHARD,
        Kind.AWAY_LOGS,
        Kind.AWAY_VERSION,
        Kind.FILL_DISK,
        Kind.REEXPORT_VERSION,
        Kind.REMOVE_VERSION,
    }


class FakeDeployment:
    """Is hit and changed, takes a few turns of the loop to be healthy, and notices when it is hit too early."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.down = 0
        self.max_down = 0
        self.changing = 0
        self.done: list[Kind] = []
        self._breaks_at = breaks_at

    async def execute(self, change: Fault | Command) -> str:
        assert isinstance(change, Fault)
        self.changing += 1
        assert self.changing == 1
        for _ in range(int(change.pick * 10)):
            await asyncio.sleep(0)
        self.changing -= 1
        self.done.append(change.kind)
        return "given up" if change.pick < 0.2 else ""

    async def inject(self, fault: Fault, injected: Callable[[], None]) -> None:
        if len(self.done) == self._breaks_at:
            raise Broken("it did not come back")
        injected()
        self.down += 1
        self.max_down = max(self.max_down, self.down)
        for _ in range(int(fault.pick * 10)):
            await asyncio.sleep(0)
        self.down -= 1
        self.done.append(fault.kind)


def at_once(events: list[Event]) -> list[Event]:
    return [replace(event, at_s=0.0, delay_s=0.0) for event in events]


@pytest.mark.parametrize("seed", range(5))
async def test_never_two_victims_at_once(seed: int) -> None:
    events = schedule(seed, 300)
    deployment, record = FakeDeployment(), Record()
    player = Driver(deployment, record, itertools.count().__next__, QUIET, settle_s=0.0)
    await player.play(at_once(events), until_s=1e9)
    assert player.played == len(events)
    faults = [fault for event in events for fault in (event.change, event.fault) if fault is not None]
    assert Counter(deployment.done) == Counter(fault.kind for fault in faults)
    assert deployment.max_down == 1
    assert sorted(span.kind for span in record.spans) == sorted(deployment.done)
    assert all(span.begin_s < span.end_s < 1e9 for span in record.spans)
    faulty = [span for span in record.spans if span.kind in FAULTS]
    assert all(first.end_s < second.begin_s for first, second in itertools.pairwise(faulty))


async def test_what_does_not_come_back_ends_the_play() -> None:
    player = Driver(FakeDeployment(breaks_at=0), Record(), itertools.count().__next__, QUIET, settle_s=0.0)
    with pytest.raises(Broken, match="did not come back"):
        await player.play([Event(0.0, fault=Fault(Kind.KILL_SHARD, 0.5))], until_s=1e9)


async def test_events_that_come_too_late_are_left_out() -> None:
    player = Driver(FakeDeployment(), Record(), lambda: 50.0, QUIET)
    await player.play([Event(3.0, fault=Fault(Kind.KILL_SHARD, 0.5)), Event(8.0)], until_s=40.0)
    assert player.played == 1


@pytest.fixture
def shards() -> Iterator[tuple[Deployment, list[subprocess.Popen[bytes]]]]:
    """Two processes below this one that are called like shards."""
    program = "import time; print(flush=True); time.sleep(600)"
    started = [
        subprocess.Popen(["ray::Shard", "-c", program], executable=sys.executable, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    yield Deployment("", "", psutil.Process()), started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.medium
async def test_faults(shards: tuple[Deployment, list[subprocess.Popen[bytes]]]) -> None:
    ours, (older, younger) = shards
    assert [process.pid for process in ours.running("shard")] == [older.pid, younger.pid]
    assert ours.running("head") == []
    assert victim(ours, Fault(Kind.KILL_HEAD, 0.0)) is None

    stop = Fault(Kind.STOP_SHARD, 0.99, 0.3)
    stopped = victim(ours, stop)
    assert stopped is not None
    assert stopped.pid == younger.pid
    injecting = asyncio.create_task(inject(stopped, stop))
    while stopped.status() != psutil.STATUS_STOPPED:
        await asyncio.sleep(0.01)
    await injecting
    assert stopped.status() != psutil.STATUS_STOPPED

    niceness = stopped.nice()
    lower_priority(ours.running("shard"))
    assert stopped.nice() == min(niceness + 5, 19)

    await inject(stopped, Fault(Kind.SLOW_SHARD, 0.99, 0.1))
    assert stopped.status() != psutil.STATUS_STOPPED

    kill = Fault(Kind.KILL_SHARD, 0.49)
    killed = victim(ours, kill)
    assert killed is not None
    await inject(killed, kill)
    assert older.wait() == -9
    assert [process.pid for process in ours.running("shard")] == [younger.pid]
    assert usage(ours)["shard"].processes == 1
    assert usage(ours)["shard"].pss_bytes > 0


@settings(deadline=None)
@given(pick=st.floats(0, 1, exclude_max=True), shards=st.sampled_from([3, 4, 5]), live=st.sampled_from([1, 2, 3]))
def test_changes_change_something(pick: float, shards: int, live: int) -> None:
    kept = live % 3 + 1
    both, alone = Deployed(live, (live, kept), shards), Deployed(live, (live,), shards)
    asked = command(Fault(Kind.REBALANCE, pick), both, 3)
    assert asked.words[:2] == ("rebalance", "--shards")
    assert int(asked.words[2]) in {3, 4, 5} - {shards}
    assert asked.live == live
    closed = kept % 3 + 1
    assert command(Fault(Kind.PUBLISH, pick), both, 3) == Command(("publish", f"{MODEL}/{closed}"), closed)
    assert command(Fault(Kind.ROLLBACK, pick), both, 3) == Command(("rollback", MODEL, str(kept)), kept)
    # Nothing to roll back to yet: it publishes.
    assert command(Fault(Kind.ROLLBACK, pick), alone, 3).words[0] == "publish"
    assert command(Fault(Kind.RESTART, pick), both, 3) == Command(("restart", "--rolling", "--yes"), live)
    with pytest.raises(ValueError, match="kill-head is no change"):
        command(Fault(Kind.KILL_HEAD, pick), both, 3)


def test_healthy_is_when_all_copies_are_held() -> None:
    table = {"model": MODEL, "version": 1, "table": "user"}
    shards = [pb.ShardStatus(shard=n, alive=True, tables=[pb.ShardTable(**table, rows=10)]) for n in range(2)]
    status = pb.ClusterStatus(shards=shards, tables=[pb.TableStatus(**table, rows=10, replicas_effective=2)])
    assert missing_rows(status) == ""
    status.shards[1].tables[0].rows = 9
    assert missing_rows(status) == "checked/1: 19 of 20 rows of user, all copies together"
    status.shards[1].alive, status.shards[1].error = False, "refused"
    assert missing_rows(status) == "shard 1 does not answer: refused"
