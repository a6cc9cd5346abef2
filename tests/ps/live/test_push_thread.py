"""The push thread: what is done aside waits while groups follow each other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from ringpull.ps.live import push_thread
from ringpull.ps.live.push_thread import PushThread
from ringpull.ps.live.record import LiveName
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from tests.ps.wire.fake_shard import soon

USERS, OTHERS = LiveName("ranker", 1, "user"), LiveName("ranker", 1, "other")


def push_of(number: int, name: LiveName = USERS) -> PushRequest:
    return PushRequest(name.model, name.table, 1, name.lineage, 7, number, False, np.zeros(1, np.uint64))


class Applied:
    """Commits that apply nothing."""

    def commit(self, requests: Sequence[PushRequest]) -> list[PushReply]:
        return [PushReply(1, len(each.positions), 0, 0) for each in requests]


@pytest.mark.parametrize(("busy_s", "looks"), [(1e9, 1), (0.0, 5)])
def test_a_look_aside_is_not_taken_after_each_group(monkeypatch: pytest.MonkeyPatch, busy_s: float, looks: int) -> None:
    monkeypatch.setattr(push_thread, "BUSY_S", busy_s)
    taken: list[int] = []
    thread = PushThread(0, Applied(), None, aside=lambda: taken.append(1))  # type: ignore[arg-type]
    thread.confirm([LiveName("ranker", 1, "user")])
    answers: queue.SimpleQueue[PushReply | Exception] = queue.SimpleQueue()
    for _ in range(5):
        thread.push(PushRequest("ranker", "user", 1, 1, 0, 0, False, np.zeros(1, np.uint64)), soon(), answers.put)
        assert isinstance(answers.get(), PushReply)
        thread.run(lambda: 0)  # what was aside is done
    thread.close()
    assert len(taken) >= looks
    assert looks > 1 or len(taken) == 1


def test_a_look_that_was_owed_is_taken_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_thread, "IDLE_S", 1e6)
    taken: queue.SimpleQueue[int] = queue.SimpleQueue()
    thread = PushThread(0, Applied(), None, aside=lambda: taken.put(1))  # type: ignore[arg-type]
    for _ in range(2):
        thread.run(lambda: 0)
    for _ in range(2):
        assert taken.get() == 1, "the second one although nothing more comes"
    thread.close()


class Ordered(Applied):
    """Commits of which one group is kept waiting, and a mark during which the coordinator confirms."""

    def __init__(self, confirmed_at: int) -> None:
        self.thread: PushThread | None = None
        self.goes_on = threading.Event()
        self.begun: queue.SimpleQueue[LiveName] = queue.SimpleQueue()
        self.applied: list[int] = []
        self._marks, self._confirmed_at = 0, confirmed_at

    def mark(self, _: object) -> None:
        self._marks += 1
        if self._marks == self._confirmed_at:
            assert self.thread is not None
            self.thread.confirm([USERS, OTHERS])

    def commit(self, requests: Sequence[PushRequest]) -> list[PushReply]:
        for each in requests:
            if each.table == OTHERS.table:
                self.begun.put(OTHERS)
                self.goes_on.wait()
            else:
                self.applied.append(each.number)
        return super().commit(requests)


@pytest.mark.parametrize("held", [0, 1])
@pytest.mark.parametrize("confirmed_at", [1, 2])
def test_pushes_stay_in_order_whenever_the_coordinator_confirms_their_table(held: int, confirmed_at: int) -> None:
    commits = Ordered(held + confirmed_at)
    thread = commits.thread = PushThread(0, commits, lambda request: request)  # type: ignore[arg-type, return-value]
    answers: queue.SimpleQueue[PushReply | Exception] = queue.SimpleQueue()
    thread.confirm([OTHERS])
    for number in range(held):
        thread.push(push_of(number), soon(), answers.put)
        thread.run(lambda: 0)
        thread.run(lambda: 0)  # its group has been
        assert thread.wanted == {USERS}
    thread.push(push_of(0, OTHERS), soon(), answers.put)
    assert commits.begun.get() is OTHERS
    for number in range(held, held + 3):  # in one group
        thread.push(push_of(number), soon(), answers.put)
    commits.goes_on.set()
    for _ in range(held + 4):
        assert isinstance(answers.get(), PushReply)
    thread.close()
    assert commits.applied == list(range(held + 3))
