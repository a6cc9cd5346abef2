"""Server processes of the benches: started, waited for, measured, ended by pid."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil


@contextmanager
def server(module: str, *arguments: str, ready: str = "ready ") -> Iterator[tuple[str, psutil.Process]]:
    """Run `python -m module arguments`, wait for its line that starts with `ready`, yield the rest of the line; then end it."""
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(ready):
                yield line.removeprefix(ready).strip(), psutil.Process(process.pid)
                break
        else:
            raise RuntimeError(f"{' '.join(command)} ended before it was ready")
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return user + system CPU seconds of the processes so far."""
    times = [process.cpu_times() for process in processes]
    return sum(t.user + t.system for t in times)
