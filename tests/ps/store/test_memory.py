"""Writing takes a fixed amount of memory, whatever the table's size: measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MIB = 1 << 20

WRITE = """
import sys, threading
from pathlib import Path
import numpy as np
import ringpull.ps.hash_kernels  # numba, which the writer loads when it first hashes
from ringpull.ps.spec import TableSpec
from ringpull.ps.store.writer import TableWriter

def anonymous_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

folder, rows, dim, buffer_bytes = Path(sys.argv[1]), *map(int, sys.argv[2:])
before, peak, done = anonymous_kib(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous_kib())

watcher = threading.Thread(target=watch)
watcher.start()
block = np.random.default_rng(0).standard_normal((10_000, dim), np.float32)
with TableWriter(folder, TableSpec(name="t", dim=dim), default="mean", buffer_bytes=buffer_bytes) as writer:
    for begin in range(0, rows, len(block)):
        keys = np.arange(begin, min(begin + len(block), rows))
        writer.add(keys, block[: len(keys)])
    writer.finish()
done.set()
watcher.join()
print(before * 1024, peak * 1024)
"""


def anonymous_bytes(folder: Path, rows: int, dim: int, buffer_bytes: int) -> tuple[int, int]:
    """Write a table in a new process; return its RssAnon before, and the largest seen."""
    command = [sys.executable, "-c", WRITE, str(folder), str(rows), str(dim), str(buffer_bytes)]
    root = Path(__file__).parents[3]
    result = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    before, peak = map(int, result.stdout.split())
    return before, peak


@pytest.mark.medium
def test_writing_grows_with_the_buffer_not_with_the_table(tmp_path: Path) -> None:
    """64 MiB of rows through a buffer of 4 MiB."""
    before, peak = anonymous_bytes(tmp_path / "t", rows=262_144, dim=64, buffer_bytes=4 * MIB)
    assert peak - before < 40 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("gib", [1, 4])
def test_writing_gibibytes_takes_less_than_256_mib(tmp_path: Path, gib: int) -> None:
    _, peak = anonymous_bytes(tmp_path / "t", rows=gib * 2**30 // 256, dim=64, buffer_bytes=64 * MIB)
    assert peak < 256 * MIB
