"""A private redis-server on loopback for the benches that compare with it (Debian's package; absent: a message)."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from ringpull.loadtest.process import free_port, unwound_by_sigterm

PIPELINE_ROWS = 10_000


def missing() -> str | None:
    """Return what this machine lacks to run the comparison, and where to get it; None: nothing."""
    if shutil.which("redis-server") is None:
        return "redis-server is not installed: apt-get install redis-server"
    if find_spec("redis") is None:
        return "redis-py is not installed: pip install 'ringpull[bench]'"
    return None


@contextmanager
def private_redis(*, append_only: bool = False) -> Iterator[tuple[int, psutil.Process]]:
    """Start one on a free port, yield the port and the process, and end it.

    Args:
        append_only: Whether it keeps what it is told, in a file that is synced every second and never rewritten, which
            would cost it more; else it keeps nothing.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--dir", folder, "--appendonly", "yes" if append_only else "no"]
        command += ["--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"] if append_only else []
        with unwound_by_sigterm():
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            try:
                _wait_ready(port)
                yield port, psutil.Process(process.pid)
            finally:
                process.terminate()
                process.wait()


def _wait_ready(port: int) -> None:
    import redis

    client = redis.Redis(port=port)
    for _ in range(200):
        try:
            client.ping()
        except redis.ConnectionError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"redis-server did not answer on port {port}")


def fill(client: Any, table: str, rows: NDArray[np.float32]) -> None:
    """Store every row's bytes under `TABLE:NUMBER`; `client` is a `redis.Redis`."""
    for begin in range(0, len(rows), PIPELINE_ROWS):
        client.mset(
            {f"{table}:{begin + i}": row.tobytes() for i, row in enumerate(rows[begin : begin + PIPELINE_ROWS])}
        )
