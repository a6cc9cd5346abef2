"""Server processes: started, waited for, measured, ended by pid, and whatever they started with them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

import psutil

END_TIMEOUT_S: Final = 60.0
"""Time after which a server that does not end is killed: Ray Serve's controller sometimes does not by itself."""

LEFT_TIMEOUT_S: Final = 2.0
"""Time that what a server has started gets to end after it."""


@contextmanager
def server(
    module: str,
    *arguments: str,
    ready: str = "ready ",
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[tuple[str, psutil.Process]]:
    """Run `python -m module arguments`, wait for its line that starts with `ready`, and yield the rest of that line.

    Args:
        environment: Variables that it gets besides ours.
        prefix: Words before the command line: a program that runs another one in its own place.

    Raises:
        RuntimeError: It ended before it was ready.
    """
    command = [*prefix, sys.executable, "-m", module, *arguments]
    with unwound_by_sigterm():
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **(environment or {})},
        )
        process = psutil.Process(child.pid)
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if line.startswith(ready):
                    yield line.removeprefix(ready).strip(), process
                    break
            else:
                raise RuntimeError(f"{' '.join(command)} ended before it was ready")
        finally:
            _end(child)


@contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """Have a SIGTERM end this process by SystemExit, so that what it has started is ended on the way out.

    By itself it ends a Python process at once, and leaves a whole deployment behind. Nothing changes where somebody has
    a handler already, an outer one of these included, nor outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(signum: int, frame: FrameType | None) -> None:
    # A second one would interrupt the taking down, which is bounded; SIGKILL ends that too.
    signal.signal(signum, signal.SIG_IGN)
    sys.exit(128 + signum)


def _end(child: subprocess.Popen[str]) -> None:
    started = psutil.Process(child.pid).children(recursive=True)
    child.terminate()
    try:
        child.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
    left = psutil.wait_procs(started, timeout=LEFT_TIMEOUT_S)[1]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    # Not for ever: in a container nobody may reap them, and they count as there.
    psutil.wait_procs(left, timeout=LEFT_TIMEOUT_S)
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def wait_until_ended() -> None:
    """Return when this process, a server, is told to end."""
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    stop.wait()


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def below(ancestor: psutil.Process, title: str) -> list[psutil.Process]:
    """Return the living processes below another whose program's name begins with `title`, the oldest first."""
    found = []
    for process in ancestor.children(recursive=True):
        try:
            command = process.cmdline()
            if command and command[0].rpartition("/")[2].startswith(title):
                found.append((process.create_time(), process.pid, process))
        except psutil.Error:
            continue  # It ended while it was looked at.
    return [process for _, _, process in sorted(found, key=lambda each: each[:2])]


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Return user + system CPU seconds of the processes so far."""
    times = [process.cpu_times() for process in processes]
    return sum(t.user + t.system for t in times)
