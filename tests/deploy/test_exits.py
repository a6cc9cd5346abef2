"""A process ends once, after what it had in flight, whatever becomes of that."""

from __future__ import annotations

import queue
import threading

import pytest

from ringpull.deploy.cluster import exits
from ringpull.deploy.cluster.exits import STATUS, Exit


@pytest.fixture
def ended() -> queue.SimpleQueue[int]:
    return queue.SimpleQueue()


def test_it_ends_when_all_is_finished_and_only_once(ended: queue.SimpleQueue[int]) -> None:
    finished, may_finish = [], threading.Event()

    def finish() -> None:
        may_finish.wait()
        finished.append(True)

    exit_ = Exit(ended.put)
    exit_.after(finish, within_s=60)
    exit_.after(lambda: finished.append(False), within_s=60)
    assert ended.empty()
    may_finish.set()
    assert ended.get() == STATUS
    assert finished == [True]
    assert ended.empty()


def test_it_ends_though_nothing_could_be_finished(ended: queue.SimpleQueue[int]) -> None:
    def finish() -> None:
        raise RuntimeError("a bug")

    Exit(ended.put).after(finish, within_s=60)
    assert ended.get() == STATUS


def test_it_ends_though_finishing_never_does(ended: queue.SimpleQueue[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "SLACK_S", 0.0)
    hangs = threading.Event()
    Exit(ended.put).after(hangs.wait, within_s=0.01)
    assert ended.get() == STATUS
    hangs.set()
