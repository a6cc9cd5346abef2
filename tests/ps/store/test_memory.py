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
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.gather import gather_from
from ringpull.ps.store.writer import TableWriter

def anonymous_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

folder, rows, dim, buffer_bytes, of_bytes = Path(sys.argv[1]), *map(int, sys.argv[2:])
gather_from(np.zeros(1, np.uint8), np.zeros(1, np.int64), np.ones(1, np.uint32))  # compiled before it is measured
before, peak, done = anonymous_kib(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous_kib())

watcher = threading.Thread(target=watch)
watcher.start()
rng = np.random.default_rng(0)
if of_bytes:
    block = [rng.bytes(int(length)) for length in rng.integers(0, 8 * dim, 10_000)]
    spec = TableSpec(name="t", dim=0, row_type=RowType.BYTES)
else:
    block = rng.standard_normal((10_000, dim), np.float32)
    spec = TableSpec(name="t", dim=dim)
with TableWriter(folder, spec, default=None if of_bytes else "mean", buffer_bytes=buffer_bytes) as writer:
    for begin in range(0, rows, len(block)):
        keys = np.arange(begin, min(begin + len(block), rows))
        if of_bytes:
            writer.add_bytes(keys, BytesRows.of(block[: len(keys)]))
        else:
            writer.add(keys, block[: len(keys)])
    writer.finish()
done.set()
watcher.join()
print(before * 1024, peak * 1024)
"""


def anonymous_bytes(folder: Path, rows: int, dim: int, buffer_bytes: int, *, of_bytes: bool) -> tuple[int, int]:
    """Write a table in a new process; return its RssAnon before, and the largest seen."""
    command = [sys.executable, "-c", WRITE, str(folder), str(rows), str(dim), str(buffer_bytes), str(int(of_bytes))]
    root = Path(__file__).parents[3]
    result = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    before, peak = map(int, result.stdout.split())
    return before, peak


@pytest.mark.medium
@pytest.mark.parametrize("of_bytes", [False, True], ids=["vectors", "bytes"])
def test_writing_grows_with_the_buffer_not_with_the_table(tmp_path: Path, of_bytes: bool) -> None:
    """64 MiB of rows through a buffer of 4 MiB."""
    before, peak = anonymous_bytes(tmp_path / "t", rows=262_144, dim=64, buffer_bytes=4 * MIB, of_bytes=of_bytes)
    assert peak - before < 40 * MIB


@pytest.mark.slow
@pytest.mark.parametrize(("gib", "of_bytes"), [(1, False), (4, False), (1, True)])
def test_writing_gibibytes_takes_less_than_256_mib(tmp_path: Path, gib: int, of_bytes: bool) -> None:
    rows = gib * 2**30 // 256
    _, peak = anonymous_bytes(tmp_path / "t", rows=rows, dim=64, buffer_bytes=64 * MIB, of_bytes=of_bytes)
    assert peak < 256 * MIB
