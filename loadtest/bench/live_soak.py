"""A soak of pushes: 20 k rows a second into a real shard until ten times its log's limit has been written.

Log, arena, memory of newer rows, descriptors and files have to stay bounded meanwhile, however much has been written;
and every row has to be the last one that was pushed: at the end, and after kill -9 and a restart. Bounds are counts and
bytes, no times.

    python -m ringpull.loadtest.bench.live --soak                              # a limit of 256 MiB: 9 minutes
    python -m ringpull.loadtest.bench.live --soak --log-limit 1073741824       # the limit that a shard has: 35

Every row of a push is its number, so that a look tells which push it is of.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray

from ringpull.loadtest.bench.harness import Report
from ringpull.loadtest.bench.live_shard import PROGRAM, Writer, kill, newer_bytes, writer_to
from ringpull.loadtest.bench.tables import generated_table, keys_of
from ringpull.loadtest.process import server
from ringpull.ps.memory import process_memory
from ringpull.ps.spec import TableSpec

DIM: Final = 64
BASE_ROWS: Final = 50_000
KEYS: Final = 40_000
"""Keys that are pushed to, half of which the base has not: rows are replaced again and again, as those of users are."""
PUSH_ROWS: Final = 128
ROWS_PER_S: Final = 20_000
TIMES_LIMIT: Final = 10
"""Bytes that are written to the log, in times of its limit."""
LIMIT: Final = 256 << 20
QUICK_LIMIT: Final = 32 << 20
LOOK_S: Final = 0.25
CHECKED: Final = 8_192
"""Keys of a look-up, when all are checked."""
DESCRIPTORS: Final = 40
"""Descriptors that a shard may have more than before the first push: of log, folds, and what a fold is writing."""
FILES: Final = 40
"""Files below its `shard-N.live`."""
COPIES: Final = 2
"""How many times the live rows may lie in memory and in folds: once more while they are tidied or folded."""


@dataclass(slots=True)
class Peaks:
    """Largest of what was seen at any look."""

    seen: dict[str, int] = field(default_factory=dict)

    def look(self, now: Mapping[str, int]) -> None:
        for name, value in now.items():
            self.seen[name] = max(value, self.seen.get(name, 0))


@dataclass(frozen=True, slots=True)
class Soaked:
    """What a soak saw."""

    log_limit: int
    written_bytes: int
    """Bytes of all records that went to the log."""
    rows: int
    """Rows that were pushed."""
    before: Mapping[str, int]
    """Counts and bytes when it had begun to push and to look up, and so loaded what it runs."""
    peaks: Mapping[str, int]
    """Largest ones while there were pushes."""
    wrong: int
    """Keys that had another row than the last one pushed."""
    wrong_after_kill: int
    """The same after kill -9 and a restart."""
    rows_per_s: float

    def broken(self) -> list[str]:
        """Return what was not as it should be, in words; nothing: all was."""
        live_bytes = KEYS * 4 * DIM
        bounds = {
            "log_bytes": self.log_limit,
            "files": FILES,
            "descriptors": self.before["descriptors"] + DESCRIPTORS,
            "disk_bytes": self.log_limit + 2 * COPIES * live_bytes,
            # What is in memory is not folded yet, and so at most as much as the log has.
            "newer_bytes": self.log_limit + 2 * COPIES * live_bytes,
            "memory_bytes": self.before["memory_bytes"] + self.log_limit + 4 * COPIES * live_bytes,
        }
        said = [
            f"{name} came to {self.peaks[name]:,}, over {bound:,}"
            for name, bound in bounds.items()
            if self.peaks[name] > bound
        ]
        if self.written_bytes < TIMES_LIMIT * self.log_limit:
            said.append(f"only {self.written_bytes:,} bytes were written to the log")
        for when, count in (("at the end", self.wrong), ("after kill -9", self.wrong_after_kill)):
            if count:
                said.append(f"{when} {count:,} of {KEYS:,} rows were wrong")
        return said


def soak(log_limit: int = QUICK_LIMIT, rows_per_s: float = ROWS_PER_S) -> Soaked:
    """Soak a shard of its own; what it started is ended.

    Args:
        rows_per_s: Rows a second; 0: as fast as it goes.
    """
    base = generated_table(BASE_ROWS, DIM)
    limits = ("--log-limit", str(log_limit))
    with tempfile.TemporaryDirectory(prefix="ringpull-bench-") as made:
        data_dir = Path(made)
        with server(PROGRAM, str(base.folder), made, *limits) as (port, process):
            pushing = _Pushing(data_dir, process, log_limit, rows_per_s)
            asyncio.run(pushing.run(int(port), base.spec))
            kill(process)
        with server(PROGRAM, str(base.folder), made, *limits) as (port, process):
            wrong_after_kill = asyncio.run(pushing.wrong(int(port), base.spec))
            kill(process)
    return Soaked(
        log_limit,
        pushing.written_bytes,
        pushing.rows,
        pushing.before,
        pushing.peaks.seen,
        pushing.wrong_rows,
        wrong_after_kill,
        pushing.rows / pushing.took_s,
    )


class _Pushing:
    def __init__(self, data_dir: Path, process: psutil.Process, log_limit: int, rows_per_s: float) -> None:
        self._live = data_dir / "shard-0.live"
        self._process = process
        self._log_limit = log_limit
        self._rows_per_s = rows_per_s
        self._last: NDArray[np.int64] = np.zeros(KEYS, np.int64)
        self.peaks = Peaks()
        self.before: Mapping[str, int] = {}
        self.rows = self.written_bytes = self.wrong_rows = 0
        self.took_s = 0.0

    async def run(self, port: int, spec: TableSpec) -> None:
        """Push, look, and check all rows."""
        async with writer_to(port, spec) as writer:
            await writer.push(_keys(np.arange(1)), np.zeros((1, DIM), np.float32))
            await writer.rows(_keys(np.arange(CHECKED)))
            self.before = self._now()
            begin = time.perf_counter()
            looking = asyncio.ensure_future(self._look())
            try:
                await self._push(writer, begin)
            finally:
                looking.cancel()
            self.took_s = time.perf_counter() - begin
            self.peaks.look(self._now())
            self.wrong_rows = await self._wrong(writer)

    async def _push(self, writer: Writer, begin: float) -> None:
        rng = np.random.default_rng(11)
        number = 0
        while self.written_bytes < TIMES_LIMIT * self._log_limit:
            number += 1
            places = rng.choice(KEYS, PUSH_ROWS, replace=False)
            rows = np.full((PUSH_ROWS, DIM), number, np.float32)
            await writer.push(_keys(places), rows, writer=1, number=number)
            self._last[places] = number
            self.rows += PUSH_ROWS
            self.written_bytes += PUSH_ROWS * (8 + 4 * DIM)
            if self._rows_per_s:
                await asyncio.sleep(max(begin + self.rows / self._rows_per_s - time.perf_counter(), 0))

    async def _look(self) -> None:
        while True:
            self.peaks.look(await asyncio.to_thread(self._now))
            await asyncio.sleep(LOOK_S)

    def _now(self) -> dict[str, int]:
        sizes = _sizes(self._live)
        log_bytes = sum(size for file, size in sizes.items() if file.name.startswith("log-"))
        return {
            "log_bytes": log_bytes,
            "files": len(sizes),
            "disk_bytes": sum(sizes.values()),
            "descriptors": self._process.num_fds(),
            "newer_bytes": newer_bytes(self._live.parent),
            "memory_bytes": process_memory(self._process.pid)["Anonymous"],
        }

    async def wrong(self, port: int, spec: TableSpec) -> int:
        """Return how many keys have another row than the last one pushed."""
        async with writer_to(port, spec) as writer:
            return await self._wrong(writer)

    async def _wrong(self, writer: Writer) -> int:
        wrong = 0
        for first in range(0, KEYS, CHECKED):
            places = np.arange(first, min(first + CHECKED, KEYS))
            places = places[self._last[places] > 0]
            rows = await writer.rows(_keys(places))
            wrong += int((rows != self._last[places, None]).any(axis=1).sum())
        return wrong


def _keys(places: NDArray[np.int64]) -> NDArray[np.uint64]:
    return keys_of(places + BASE_ROWS - KEYS // 2)


def _sizes(folder: Path) -> dict[Path, int]:
    """Return the sizes of all files below a folder, of which some may go meanwhile."""
    sizes = {}
    for file in folder.rglob("*"):
        try:
            if file.is_file():
                sizes[file] = file.stat().st_size
        except FileNotFoundError:
            continue
    return sizes


def measure(report: Report, log_limit: int, rows_per_s: float) -> None:
    """Report a soak.

    Raises:
        RuntimeError: Something was not bounded, or a row was wrong.
    """
    found = soak(log_limit, rows_per_s)
    if said := found.broken():
        raise RuntimeError("soak: " + "; ".join(said))
    limit = f"log limit {log_limit / 2**20:,.0f} MiB"
    report.row("rows pushed", f"{found.rows:,}", f"{found.rows_per_s:,.0f} a second; {limit}")
    peaks: dict[str, Any] = {f"soak_most_{name}": value for name, value in found.peaks.items()}
    for name, value in peaks.items():
        report.row(name.removeprefix("soak_").replace("_", " "), f"{value:,}")
        report.key(name, value)
    report.key("soak_rows", found.rows)
    report.key("soak_log_limit", log_limit)
    report.key("soak_rows_wrong", found.wrong + found.wrong_after_kill)
