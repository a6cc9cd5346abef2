"""The push thread: what is done aside waits while groups follow each other."""

from __future__ import annotations

import queue
from collections.abc import Sequence

import numpy as np
import pytest

from ringpull.ps.live import push_thread
from ringpull.ps.live.push_thread import PushThread
from ringpull.ps.live.record import LiveName
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from tests.ps.wire.fake_shard import soon


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
