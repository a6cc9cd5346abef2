"""Work in threads that give way: its result and its errors come back, and its niceness is nobody else's."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from ringpull.ps.errors import NotFound
from ringpull.ps.giving_way import giving_way

linux = pytest.mark.skipif(sys.platform != "linux", reason="niceness is a thread's on Linux alone")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def niceness_of_a_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(niceness()))
    thread.start()
    thread.join()
    return found[0]


@linux
def test_it_gives_way_with_what_it_starts_and_its_caller_does_not() -> None:
    before = niceness()
    nice = min(before + 3, 19)
    assert giving_way(niceness, nice, name="test") == nice
    assert giving_way(niceness_of_a_thread, nice, name="test") == nice
    assert niceness() == before
    assert niceness_of_a_thread() == before


def test_what_the_work_raises_is_raised() -> None:
    def work() -> None:
        raise NotFound("no such thing")

    with pytest.raises(NotFound, match="no such thing"):
        giving_way(work, 1, name="test")


def test_the_thread_has_the_name_and_ends_with_the_work() -> None:
    name = giving_way(lambda: threading.current_thread().name, 1, name="some-work")
    assert name.startswith("some-work")
    assert name not in [thread.name for thread in threading.enumerate()]
