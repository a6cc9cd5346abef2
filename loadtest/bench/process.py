"""Server processes of the benches: started, waited for, measured, ended by pid, and whatever they started with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

END_TIMEOUT_S = 60.0
"""A server that takes longer to end is killed: Ray Serve's controller sometimes does not end by itself."""

LEFT_TIMEOUT_S = 2.0
"""What a server has started gets this long to end after it."""


@contextmanager
def server(
    module: str, *arguments: str, ready: str = "ready ", environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, psutil.Process]]:
    """Run `python -m module arguments`, wait for its line that starts with `ready`, and yield the rest of that line.

    Args:
        environment: Variables that it gets besides ours.

    Raises:
        RuntimeError: It ended before it was ready.
    """
    command = [sys.executable, "-m", module, *arguments]
    with unwound_by_sigterm():
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
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
    below = psutil.Process(child.pid).children(recursive=True)
    child.terminate()
    try:
        child.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
    left = psutil.wait_procs(below, timeout=LEFT_TIMEOUT_S)[1]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left)
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def wait_until_ended() -> None:
    """Return when this process, a server, is told to end."""
    told = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: told.set())
    told.wait()


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Return user + system CPU seconds of the processes so far."""
    times = [process.cpu_times() for process in processes]
    return sum(t.user + t.system for t in times)
