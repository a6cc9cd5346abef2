"""Processes that are made when their surroundings allow: at once on the first start, in time on a restart."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ringpull.deploy.cluster import actors
from ringpull.deploy.cluster.actors import ProcessActor
from ringpull.deploy.cluster.late_process import FIRST_RETRY_S, LONGEST_RETRY_S, LateProcess
from ringpull.ps.errors import StartupError, Unavailable


class Surroundings:
    """Makes a process once they allow, and is the clock of who waits."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.waited_s: list[float] = []
        self.go_on = threading.Semaphore(0)
        self.waits = threading.Semaphore(0)

    def make(self) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        return SimpleNamespace(heartbeat=lambda lease_s: f"renewed for {lease_s} s")

    def wait(self, event: threading.Event, seconds: float) -> object:
        if threading.current_thread().name != "restart":
            return event.wait()
        self.waited_s.append(seconds)
        self.waits.release()
        return self.go_on.acquire()


def until_they_end() -> None:
    """Wait for whatever tries again: also for what other tests left, which is about to end."""
    for each in threading.enumerate():
        if each.name == "restart":
            each.join()


def restarted(surroundings: Surroundings) -> LateProcess:
    return LateProcess("shard 3", surroundings.make, restarted=True, wait=surroundings.wait)


@pytest.mark.parametrize("error", [StartupError("data folder /data cannot be written"), OSError(28, "No space left")])
def test_on_the_first_start_errors_go_to_who_starts(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        LateProcess("shard 3", Surroundings(error).make, restarted=False)
    assert raised.value is error


def test_on_a_restart_it_is_there_at_once_where_nothing_is_wrong() -> None:
    assert restarted(Surroundings()).get().heartbeat(2) == "renewed for 2 s"


@pytest.mark.parametrize(
    "error",
    [
        StartupError("data folder /data is in use by another process"),
        PermissionError(13, "Permission denied", "/data"),
        OSError(28, "No space left on device"),
        RuntimeError("cannot cache function"),
        SystemExit(1),
    ],
)
def test_on_a_restart_it_waits_and_says_why(error: BaseException) -> None:
    surroundings = Surroundings(error)
    late = restarted(surroundings)
    with pytest.raises(Unavailable) as raised:
        late.get()
    assert "shard 3 is back, and waits for what it needs: " in str(raised.value)
    assert str(error) in str(raised.value)
    surroundings.go_on.release()
    until_they_end()
    assert late.get().heartbeat(2) == "renewed for 2 s"


def test_it_tries_again_less_and_less_often_and_says_each_reason_once(caplog: pytest.LogCaptureFixture) -> None:
    surroundings = Surroundings(*[OSError(f"reason {i // 5}") for i in range(10)])
    late = restarted(surroundings)
    with caplog.at_level(logging.INFO):
        for _ in range(9):
            surroundings.waits.acquire()
            surroundings.go_on.release()
        surroundings.waits.acquire()
        surroundings.go_on.release()
        until_they_end()
    assert late.get()
    assert surroundings.waited_s[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert surroundings.waited_s[-3:] == [LONGEST_RETRY_S] * 3
    assert [record.getMessage() for record in caplog.records][-2:] == ["restart waits", "restart goes on"]
    assert len(caplog.records) <= 3


def test_an_actor_answers_for_a_process_that_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own methods work, those of the process are unavailable until it is made: nobody is hung up on."""
    may_start = threading.Event()

    def make() -> Any:
        if not may_start.is_set():
            raise StartupError("the cache folder is away")
        return Surroundings().make()

    actor = ProcessActor("head 1", make, restarted=True)
    assert actor.invoke("pid") > 1
    with pytest.raises(Unavailable, match=r"head 1 is back.*the cache folder is away"):
        actor.invoke("heartbeat", 2)
    may_start.set()
    until_they_end()
    assert actor.invoke("heartbeat", 2) == "renewed for 2 s"


def test_it_counts_as_a_restart_where_ray_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def context(answer: Callable[[], object]) -> Callable[[], object]:
        return lambda: type("Context", (), {"was_current_actor_reconstructed": property(lambda self: answer())})()

    def fails() -> object:
        raise RuntimeError("the control store is gone")

    for answer, expected in ((lambda: 0, False), (lambda: True, True), (fails, True)):
        monkeypatch.setattr(actors.ray, "get_runtime_context", context(answer))
        assert actors.was_restarted() is expected
