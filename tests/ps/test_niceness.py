"""Work in threads that give way: its result and its errors come back, and its niceness is nobody else's."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from contextlib import suppress

import pytest

from ringpull.ps import niceness as module
from ringpull.ps.errors import NotFound
from ringpull.ps.niceness import in_nice_thread
from tests.ps.live.pushing import until

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
    assert in_nice_thread(niceness, nice, name="test") == nice
    assert in_nice_thread(niceness_of_a_thread, nice, name="test") == nice
    assert niceness() == before
    assert niceness_of_a_thread() == before


def test_what_the_work_raises_is_raised() -> None:
    def work() -> None:
        raise NotFound("no such thing")

    with pytest.raises(NotFound, match="no such thing"):
        in_nice_thread(work, 1, name="test")


def test_what_was_raised_holds_nothing_once_it_is_let_go() -> None:
    class Held:
        pass

    def work() -> None:
        here = Held()
        held.append(weakref.ref(here))
        raise NotFound("no such thing")

    held: list[weakref.ref[Held]] = []
    gc.disable()  # which would find a cycle
    try:
        with suppress(NotFound):
            in_nice_thread(work, 1, name="test")
        assert held[0]() is None
    finally:
        gc.enable()


def test_whatever_taking_a_niceness_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(nice: int) -> None:
        raise RuntimeError(f"no niceness of {nice}")

    raised: list[RuntimeError] = []

    def call() -> None:
        try:
            in_nice_thread(lambda: None, 1, name="test")
        except RuntimeError as exc:
            raised.append(exc)

    monkeypatch.setattr(module, "take_niceness", fails)
    threading.Thread(target=call, daemon=True).start()
    until(lambda: bool(raised), "who called waits for ever")


def test_the_thread_has_the_name_and_ends_with_the_work() -> None:
    name = in_nice_thread(lambda: threading.current_thread().name, 1, name="some-work")
    assert name.startswith("some-work")
    assert name not in [thread.name for thread in threading.enumerate()]


@linux
def test_a_thread_that_is_nicer_already_stays_so() -> None:
    nice = min(niceness() + 4, 19)
    assert in_nice_thread(lambda: in_nice_thread(niceness, nice - 2, name="inner"), nice, name="outer") == nice


@linux
@pytest.mark.medium
def test_what_a_shard_starts_with_niceness_keeps_none_of_it() -> None:
    """Names are looked up, as long as a shard lives, by threads that whoever looks up first starts."""
    program = """
import asyncio, os, uvloop
from ringpull.deploy.cluster.actors import _start_resolver
from ringpull.ps.niceness import in_nice_thread

def name_of(thread):
    try:
        return open(f"/proc/self/task/{thread}/comm").read().strip()
    except FileNotFoundError:
        return "it has ended"

def resolvers():
    named = [each for each in os.listdir("/proc/self/task") if name_of(each) == "libuv-worker"]
    return [os.getpriority(os.PRIO_PROCESS, int(each)) for each in named]

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
own = os.getpriority(os.PRIO_PROCESS, 0)
_start_resolver()
in_nice_thread(_start_resolver, own + 3, name="start")
assert set(resolvers()) == {own}, resolvers()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_sigterm_ends_the_process_while_the_work_goes_on() -> None:
    """Shards that still load what they run are ended so. Work that never ends: who waited for it would never end."""
    program = """
import signal, sys, threading
from ringpull.ps.niceness import in_nice_thread

def work():
    print("ready", flush=True)
    threading.Event().wait()

signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(3))  # what Ray does in its workers
in_nice_thread(work, 1, name="start")
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.terminate()
            until(lambda: process.poll() is not None, "it waits for the work")
            assert process.returncode == 3
        finally:
            process.kill()
