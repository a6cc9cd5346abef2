"""Local reads when something goes wrong: reads that fail or hang, shards that restart or move, looks that break off."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import Any

import pytest

from ringpull.inference.head.local_reads import files, following
from ringpull.inference.head.local_reads.following import ASK_EVERY_S, ELSEWHERE_S
from ringpull.ps.errors import DeadlineExceeded, Unavailable
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.ps.store.base import Base
from ringpull.ps.wire.files_messages import FilesRequest
from ringpull.ps.wire.messages import StatisticsRequest
from tests.inference.local_cluster import DIMS, MODEL, Cluster, Wire, check, damage, lookups, serving
from tests.patience import PATIENCE_S


async def test_what_fails_here_is_asked_of_shards_and_counted(written, monkeypatch):
    cluster = await serving(written, Ring.even(range(2)))

    def broken(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(files, "_pulled", broken)
    await check(cluster, 1)
    counted = cluster.router.counters()
    assert (counted.here_refused, cluster.keys_here(), cluster.pulls) == (1, 0, 2)
    assert (counted.unavailable, counted.not_owner) == (0, 0)
    monkeypatch.undo()
    await check(cluster, 1)
    assert cluster.keys_here() > 0
    await cluster.close()


async def test_a_slow_read_is_hedged_to_shards(written, monkeypatch):
    cluster = await serving(written, Ring.even(range(2)))
    gate = threading.Event()
    pulled = files._pulled

    def slow(*asked: Any) -> PullReply:
        gate.wait(PATIENCE_S)
        return pulled(*asked)

    monkeypatch.setattr(files, "_pulled", slow)
    cluster.router._calls._times.delay_s = 0.01
    await check(cluster, 1)
    gate.set()
    counted = cluster.router.counters()
    assert (counted.hedges, counted.hedges_won, cluster.keys_here()) == (1, 1, 0)
    await cluster.close()


async def test_files_that_hang_are_left_to_shards(written, monkeypatch):
    """Threads that wait for a disk answer no ping, and no more pulls wait for them than so many."""
    cluster = await serving(written, Ring.even(range(2)))
    gate = threading.Event()
    pulled = files._pulled

    began = threading.Event()

    def hung(*asked: Any) -> PullReply:
        began.set()
        gate.wait(PATIENCE_S)
        return pulled(*asked)

    monkeypatch.setattr(files, "_pulled", hung)
    monkeypatch.setattr(files, "MAX_WAITING", 1)
    cluster.router._calls._times.delay_s = 60.0  # nothing is hedged
    read = asyncio.create_task(check(cluster, 1, seed=0))
    while not began.is_set():
        await asyncio.sleep(0.001)
    waits = asyncio.create_task(check(cluster, 1, seed=1))
    while not cluster.files._threads.waiting:
        await asyncio.sleep(0.001)
    await check(cluster, 1, seed=2)
    assert (cluster.router.counters().here_refused, cluster.pulls) == (1, 2)
    connection = cluster.files.connection(0)
    with pytest.raises(DeadlineExceeded):
        await connection.request(StatisticsRequest(), deadline_s=time.monotonic() + 0.01)
    cluster.dead |= {0, 1}
    monkeypatch.setattr(files, "MAX_WAITING", 10)
    with pytest.raises(DeadlineExceeded):  # one that waits is not waited for beyond its time
        await cluster.router.pull(MODEL, 1, lookups(), deadline_s=time.monotonic() + 0.05)
    gate.set()
    await asyncio.gather(read, waits)
    assert await connection.request(StatisticsRequest(), deadline_s=time.monotonic() + PATIENCE_S)
    assert cluster.pulls == 2
    await cluster.close()


async def test_a_shard_that_restarted_at_its_address_is_heard(written):
    """Its numbers of changes begin anew: none of them may be one of the process before it."""
    cluster = await serving(written, Ring.even([0]))
    cluster.shards[0] = shard = Shard(0)
    shard.open(MODEL, 1, {name: written[1][0] / name for name in DIMS}, identity=cluster.versions[1][1])
    cluster.assign([cluster.ring])
    damage(cluster, 0, 0, 65_536)
    await cluster.look()
    assert "users" not in cluster.files.opened()[MODEL, 1].whole
    await cluster.close()


async def test_what_has_changed_is_not_forgotten_when_who_asked_is_cancelled(written, monkeypatch):
    cluster = await serving(written, Ring.even([0]))
    await check(cluster, 1)
    replaced = weakref.ref(cluster.files.opened()[MODEL, 1].layers[0]["users"].table)
    damage(cluster, 0, 0, 65_536)

    gate, opening = threading.Event(), asyncio.Event()
    held_up(monkeypatch, gate, opening)
    learns = asyncio.create_task(cluster.learn(1))
    await opening.wait()
    learns.cancel()
    with pytest.raises(asyncio.CancelledError):
        await learns
    gate.set()
    await asyncio.gather(*cluster.following._opening.values())
    assert "users" not in cluster.files.opened()[MODEL, 1].whole
    async with asyncio.timeout(60):  # or what is read no more stays mapped
        while replaced() is not None:  # the thread that read lets go of it after it has answered
            gc.collect()
            await asyncio.sleep(0.001)
    await cluster.close()


def held_up(monkeypatch, gate: threading.Event, opening: asyncio.Event, version: int = 1) -> None:
    """Have files of a version be opened only once the gate is open."""
    loop, opened = asyncio.get_running_loop(), following.open_files

    def hung(identity: int, *asked: Any) -> Any:
        if identity == version:
            loop.call_soon_threadsafe(opening.set)
            gate.wait(PATIENCE_S)
        return opened(identity, *asked)

    monkeypatch.setattr(following, "open_files", hung)


async def test_files_that_hang_hold_up_no_other_version(written, monkeypatch):
    cluster = await serving(written, Ring.even([0]))
    damage(cluster, 0, 0, 1_000)
    gate, opening = threading.Event(), asyncio.Event()
    held_up(monkeypatch, gate, opening)
    monkeypatch.setattr(following, "OPEN_WITHIN_S", PATIENCE_S)  # for so long whoever waits for the gate would wait
    cluster.open(2, *written[2])
    cluster.assign([cluster.ring])
    await cluster.learn(2)  # which finds the damage, too
    await opening.wait()
    await check(cluster, 2)
    assert cluster.pulls == 0
    opening.clear()
    cluster.following._due.add((MODEL, 1))
    await cluster.following._look(())  # nor is a second thread sent after the first
    assert not opening.is_set()
    gate.set()
    await asyncio.gather(*cluster.following._opening.values())
    assert "users" not in cluster.files.opened()[MODEL, 1].whole
    await cluster.close()


async def test_files_that_hang_give_their_turn_to_others(written, monkeypatch):
    cluster = await serving(written, Ring.even([0]))
    cluster.following._turns = asyncio.Semaphore(1)
    damage(cluster, 0, 0, 1_000)
    gate, opening = threading.Event(), asyncio.Event()
    held_up(monkeypatch, gate, opening)
    monkeypatch.setattr(following, "OPEN_WITHIN_S", 0.01)
    await cluster.following._look(())
    await opening.wait()
    monkeypatch.setattr(following, "OPEN_WITHIN_S", PATIENCE_S)
    cluster.open(2, *written[2])
    cluster.assign([cluster.ring])
    await cluster.learn(2)
    await check(cluster, 2)
    assert cluster.pulls == 0
    gate.set()
    await asyncio.gather(*cluster.following._opening.values())
    await cluster.close()


async def test_a_retry_that_waits_for_its_turn_opens_files_once(written, monkeypatch):
    cluster = await serving(written, Ring.even([0]))
    followed, name, opened = cluster.following, (MODEL, 1), following.open_files
    asked: list[int] = []

    def counted(identity: int, *more: Any) -> Any:
        asked.append(identity)
        return opened(identity, *more)

    monkeypatch.setattr(following, "open_files", counted)
    followed._retry_at_s[name] = followed._clock()
    followed._turns = asyncio.Semaphore(0)
    for _ in range(3):
        await followed._look(())
    followed._turns.release()
    while followed._opening:
        await asyncio.gather(*followed._opening.values())
    await followed._look(())
    await asyncio.gather(*followed._opening.values())
    assert asked == [1]
    await cluster.close()


async def test_what_was_told_of_another_content_meanwhile_is_not_read(written, monkeypatch):
    """A version is exchanged for another content of its number while a shard tells its files."""
    cluster = await serving(written, Ring.even([0]))
    answered = Wire.request

    async def exchanged(self: Wire, message: Any, *, deadline_s: float) -> Any:
        told = await answered(self, message, deadline_s=deadline_s)
        if isinstance(message, FilesRequest) and message.model:
            cluster.following.forget(MODEL, 1)
        return told

    damage(cluster, 0, 0, 1_000)
    monkeypatch.setattr(Wire, "request", exchanged)
    await cluster.following._look(())

    async def away(*_: Any, **__: Any) -> Any:
        raise Unavailable("it is restarted")

    monkeypatch.setattr(Wire, "request", away)
    await cluster.following.learn(MODEL, 1, 77)
    assert not cluster.files.opened()[MODEL, 1].layers
    await cluster.close()


async def test_closing_waits_for_no_file_that_hangs(written, monkeypatch):
    cluster = await serving(written, Ring.even([0]))
    gate, began, pulled = threading.Event(), threading.Event(), files._pulled

    def hung(*asked: Any) -> PullReply:
        began.set()
        gate.wait(PATIENCE_S)
        return pulled(*asked)

    monkeypatch.setattr(files, "_pulled", hung)
    read = asyncio.create_task(check(cluster, 1))
    while not began.is_set():
        await asyncio.sleep(0.001)
    cluster.files.close()  # would wait for the gate, which nobody opens meanwhile
    assert not gate.is_set()
    gate.set()
    await read
    await cluster.close()


async def test_a_version_of_which_a_shard_did_not_tell_is_asked_for_again(written, monkeypatch):
    """Its number of changes was heard before the version was known here, and does not change any more."""
    cluster = await serving(written, Ring.even(range(2)))
    cluster.open(2, *written[2])
    cluster.assign([cluster.ring])
    await cluster.look()
    answered = Wire.request

    async def busy(self: Wire, message: Any, *, deadline_s: float) -> Any:
        if isinstance(message, FilesRequest) and message.model:
            raise Unavailable("overloaded for a moment")
        return await answered(self, message, deadline_s=deadline_s)

    monkeypatch.setattr(Wire, "request", busy)
    await cluster.learn(2)
    assert not cluster.files.opened()[MODEL, 2].layers
    monkeypatch.setattr(Wire, "request", answered)
    await cluster.look()
    await check(cluster, 2)
    assert cluster.pulls == 0
    await cluster.close()


async def test_whatever_goes_wrong_with_files_no_version_is_refused_for_it(written, monkeypatch):
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError("no room for maps")

    cluster = Cluster(Ring.even([0]))
    cluster.map()
    cluster.open(1, *written[1])
    cluster.assign([cluster.ring])
    monkeypatch.setattr(Base, "open", no_memory)
    await cluster.learn(1)
    opened = cluster.files.opened()[MODEL, 1]
    assert len(opened.refused) == len(DIMS)
    assert "MemoryError: no room for maps" in opened.refused[0]
    monkeypatch.setattr(cluster.router, "addresses", lambda: 1 / 0)
    await cluster.learn(1)
    await check(cluster, 1)
    assert cluster.pulls == 1
    await cluster.close()


async def test_shards_are_followed_and_those_elsewhere_are_left_alone(written, monkeypatch):
    """A shard that moved to another machine has no files here any more; one look that goes wrong ends nothing."""
    cluster = await serving(written, Ring.even(range(2)))
    looks = asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        assert seconds == ASK_EVERY_S
        await looks.acquire()

    monkeypatch.setattr(cluster.following, "_sleep", sleep)
    task = asyncio.create_task(cluster.following.follow())
    shards, went_wrong = cluster.router.addresses, asyncio.Event()

    def fails() -> None:
        went_wrong.set()
        raise ZeroDivisionError

    monkeypatch.setattr(cluster.router, "addresses", fails)
    looks.release()
    await went_wrong.wait()
    monkeypatch.setattr(cluster.router, "addresses", shards)
    cluster.elsewhere |= {0, 1}
    looks.release()
    while cluster.files.opened()[MODEL, 1].layers:
        await asyncio.sleep(0.001)
    cluster.elsewhere.clear()
    await cluster.look()
    assert not cluster.files.opened()[MODEL, 1].layers, "they are not asked again at once"
    cluster.later_s += ELSEWHERE_S
    await cluster.look()
    await check(cluster, 1)
    assert cluster.keys_here() == cluster.keys()
    task.cancel()
    await cluster.close()
