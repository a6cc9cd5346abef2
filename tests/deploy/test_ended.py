"""Processes that have ended, reaped or not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import psutil
import pytest

from ringpull.deploy.ended import has_ended, wait_ended


@pytest.fixture
def unreaped() -> Iterator[psutil.Process]:
    """A process that has ended, and that its parent has not asked for its exit status yet."""
    child = subprocess.Popen(["sh", "-c", "echo ends"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()  # to its end: the pipe is closed by the end of the process
    process = psutil.Process(child.pid)
    while process.status() != psutil.STATUS_ZOMBIE:
        pass
    yield process
    child.communicate()


def test_who_ended_and_was_not_reaped_has_ended(unreaped: psutil.Process) -> None:
    assert has_ended(unreaped)

    def no_sleep(seconds: float) -> None:
        raise AssertionError("there is nothing to wait for")

    assert wait_ended([unreaped], 60, sleep=no_sleep) == []


def test_who_was_reaped_has_ended(unreaped: psutil.Process) -> None:
    psutil.wait_procs([unreaped])
    assert has_ended(unreaped)


def test_who_lives_is_waited_for_so_long_and_no_longer() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    alive = psutil.Process()
    assert wait_ended([alive], 2.0, clock=lambda: now[0], sleep=sleep) == [alive]
    assert now[0] == pytest.approx(2.0)


def test_another_users_process_that_hides_its_state_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    process = psutil.Process()

    def denied() -> str:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(process, "status", denied)
    assert not has_ended(process)
