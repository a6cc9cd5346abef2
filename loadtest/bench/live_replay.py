"""How long a shard reads its log when it is started again: kill -9, and from its start until it answers, in turns with
a log of 1 GiB, with one of a single push, and with none.

The first less the second is what the bytes of a log cost. The second less the third is paid once, however long the log
is: the kernels that take pushed rows are loaded before the shard answers, and not with its first push.

In QUICK runs the log is smaller, and the figure is scaled to 1 GiB.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from ringpull.loadtest.bench.asked_rates import in_drawn_order
from ringpull.loadtest.bench.harness import QUICK, Report, Samples
from ringpull.loadtest.bench.live_shard import PROGRAM, kill, writer_to
from ringpull.loadtest.bench.tables import generated_table, keys_of
from ringpull.loadtest.process import cpu_seconds, server
from ringpull.ps.store.base import Base

DIM: Final = 64
BASE_ROWS: Final = 100_000 if QUICK else 1_000_000
LOG_BYTES: Final = 1 << 26 if QUICK else 1 << 30
ROUNDS: Final = 2 if QUICK else 5
PUSH_ROWS: Final = 4_096
IN_FLIGHT: Final = 4
LIMITS: Final = ("--log-limit", str(LOG_BYTES * 16), "--newer-memory", str(4 << 30))
"""Far away: a log that is folded meanwhile would be shorter."""
CAUGHT_UP: Final = 0.98
"""Share of `LOG_BYTES` that the log must have: else something has made it shorter."""


def measure(report: Report) -> None:
    """Report seconds of a restart with a log less those of one with a push of it, for 1 GiB, and those of that push."""
    base = generated_table(BASE_ROWS, DIM)
    with tempfile.TemporaryDirectory(prefix="ringpull-bench-") as made:
        folders = {name: Path(made) / name for name in ("log", "push", "none")}
        rows = {
            name: _made(folder, base, pushed)
            for (name, folder), pushed in zip(folders.items(), (LOG_BYTES, 1, 0), strict=True)
        }
        log_bytes = bytes_of_log(folders["log"])
        if log_bytes < CAUGHT_UP * LOG_BYTES:
            raise RuntimeError(f"the log has {log_bytes:,} bytes, and should have {LOG_BYTES:,}")
        cpu: dict[str, list[float]] = {name: [] for name in folders}

        def restart(name: str) -> Callable[[], float]:
            def measured() -> float:
                begin = time.perf_counter()
                with server(PROGRAM, str(base.folder), str(folders[name]), *LIMITS) as (_, process):
                    took_s = time.perf_counter() - begin
                    cpu[name].append(cpu_seconds([process]))
                    kill(process)
                return took_s

            return measured

        samples = in_drawn_order({name: restart(name) for name in folders}, rounds=ROUNDS)
    gib = (log_bytes - bytes_of_log(folders["push"])) / 2**30
    cpu_samples = Samples({name: values[1:] for name, values in cpu.items()})
    for what, of, key in (("s", samples, "replay_s"), ("s of CPU", cpu_samples, "replay_cpu_s")):
        longer = float(np.median(np.subtract(of.values["log"], of.values["push"]))) / gib
        once = float(np.median(np.subtract(of.values["push"], of.values["none"])))
        restarted = f"{of.median('log'):.2f}, with one push {of.median('push'):.2f}"
        scaled = f", scaled from {gib:.3f}" if QUICK else ""
        named = f"restart with a log of {rows['log']:,} rows, {what}"
        report.row(named, restarted, f"a GiB{scaled}", longer, key=f"{key}_per_gib")
        report.row(f"restart with a log of one push, {what}", f"{of.median('push'):.2f}", "", once, key=f"{key}_once")


def bytes_of_log(data_dir: Path) -> int:
    """Return the bytes of a shard's log below its data folder."""
    return sum(file.stat().st_size for file in data_dir.glob("shard-*.live/log-*"))


def _made(folder: Path, base: Base, log_bytes: int) -> int:
    """Make the data folder of a shard that was killed, with a log of so many bytes; return how many rows it has."""
    folder.mkdir()
    with server(PROGRAM, str(base.folder), str(folder), *LIMITS) as (port, process):
        rows = asyncio.run(_fill(int(port), base, log_bytes)) if log_bytes else 0
        kill(process)
    return rows


async def _fill(port: int, base: Base, log_bytes: int) -> int:
    """Push until the log is as long as it should be; return how many rows that were."""
    rng = np.random.default_rng(5)
    row_bytes = base.spec.row_bytes + 8
    rows = rng.standard_normal((PUSH_ROWS, DIM)).astype(np.float32)
    pushes = -(-log_bytes // (PUSH_ROWS * row_bytes))
    async with writer_to(port, base.spec) as writer:
        for first in range(0, pushes, IN_FLIGHT):
            some = range(first, min(first + IN_FLIGHT, pushes))
            drawn = [keys_of(rng.integers(0, BASE_ROWS, PUSH_ROWS)) for _ in some]
            await asyncio.gather(*(writer.push(keys, rows) for keys in drawn))
    return pushes * PUSH_ROWS


def main() -> None:
    report = Report(f"Restart of a shard that has pushed rows in its log, {BASE_ROWS:,} x {DIM} float32 beneath them")
    measure(report)
    report.finish()


if __name__ == "__main__":
    main()
