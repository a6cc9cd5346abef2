"""The threads of look-ups."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ringpull.ps.wire.threads import LookupThreads


def test_what_was_submitted_finishes_before_close_returns() -> None:
    done: list[int] = []
    with LookupThreads(3) as threads:
        for number in range(1000):
            threads.submit(done.append, number)
    assert sorted(done) == list(range(1000))


def test_one_thread_keeps_the_order() -> None:
    done: list[int] = []
    with LookupThreads() as threads:
        for number in range(100):
            threads.submit(done.append, number)
    assert done == list(range(100))


def test_threads_run_at_the_same_time() -> None:
    meet = threading.Barrier(2)
    with LookupThreads(2) as threads:
        for _ in range(2):
            threads.submit(_wait_at, meet.wait)
    assert not meet.broken


def _wait_at(wait: Callable[[], int]) -> None:
    wait()


def test_an_error_is_reported_and_the_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_value))
    done: list[int] = []
    with LookupThreads() as threads:
        threads.submit(int, "no number")
        threads.submit(done.append, 1)
    assert done == [1]
    assert [type(error) for error in reported] == [ValueError]
