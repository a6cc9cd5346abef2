"""The fence around a shard's process: what waited for its turn is checked again, and a new leader ends what is old."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from ringpull.ps.errors import Superseded, Unavailable
from ringpull.ps.fence import Order
from ringpull.ps.fenced import FencedShard
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.ps.placement import VersionPlacement
from ringpull.ps.process import ShardProcess

PATIENCE_S = 600.0


class Slow:
    """A shard's process whose first prepare takes until it is cancelled, or let go."""

    def __init__(self) -> None:
        self.prepared: list[object] = []
        self.begun, self.goes_on = threading.Event(), threading.Event()
        self.cancels = 0

    def heartbeat(self) -> ShardHeartbeat:
        return ShardHeartbeat("a", 0, "here", 1, "node", 0, 0, 0, 0)

    def prepare(self, placements: object) -> None:
        self.prepared.append(placements)
        self.begun.set()
        assert self.goes_on.wait(PATIENCE_S)

    def cancel(self) -> None:
        self.cancels += 1
        self.goes_on.set()


def order(term: int, number: int = 0) -> Order:
    return Order("mine", term, "a", number)


def placements(name: str) -> list[VersionPlacement]:
    return cast("list[VersionPlacement]", [name])


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def shard(slow: Slow) -> FencedShard:
    shard = FencedShard(cast("ShardProcess", slow), "mine")
    shard.obey(order(3))
    return shard


class Call:
    """A call in a thread of its own, and how it ended."""

    def __init__(self, work: Any) -> None:
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    def _run(self, work: Any) -> None:
        try:
            work()
        except Exception as exc:
            self.error = exc

    def end(self) -> Exception | None:
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        return self.error


class Turn:
    """The turn of a shard, which tells when somebody waits for it."""

    def __init__(self, waits: threading.Event) -> None:
        self._lock, self._waits = threading.Lock(), waits

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._waits.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.fixture
def waits(shard: FencedShard) -> threading.Event:
    waits = threading.Event()
    shard._turn = Turn(waits)  # type: ignore[assignment]
    return waits


def test_what_waited_for_its_turn_is_not_begun_for_a_leader_that_is_over(
    shard: FencedShard, slow: Slow, waits: threading.Event
) -> None:
    first = Call(lambda: shard.prepare(order(3, 1), placements("first")))
    assert slow.begun.wait(PATIENCE_S)
    second = Call(lambda: shard.prepare(order(3, 2), placements("second")))
    assert waits.wait(PATIENCE_S)
    shard.obey(order(4))
    assert first.end() is None
    assert isinstance(second.end(), Superseded)
    assert slow.prepared == [["first"]]


def test_nor_what_was_overtaken_by_then(shard: FencedShard, slow: Slow, waits: threading.Event) -> None:
    first = Call(lambda: shard.prepare(order(3, 1), placements("first")))
    assert slow.begun.wait(PATIENCE_S)
    second = Call(lambda: shard.prepare(order(3, 2), placements("second")))
    assert waits.wait(PATIENCE_S)
    shard.cancel(order(3, 3))
    assert first.end() is None
    assert isinstance(second.end(), Unavailable)
    assert slow.prepared == [["first"]]


def test_a_new_leader_ends_what_the_one_before_had_prepared(shard: FencedShard, slow: Slow) -> None:
    shard.obey(order(3))
    assert slow.cancels == 0, "it leads already"
    shard.obey(order(4))
    assert slow.cancels == 1


def test_the_first_leader_has_nothing_to_end(slow: Slow) -> None:
    FencedShard(cast("ShardProcess", slow), "mine").obey(order(3))
    assert slow.cancels == 0
