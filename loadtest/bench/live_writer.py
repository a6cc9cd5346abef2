"""Writer of the live benches, in a process of its own: pushes of some rows at Poisson times, until it is told to end.

    python -m ringpull.loadtest.bench.live_writer HOST:PORT --rows-per-s 20000 --told FILE

The first row of each push is a *probe*: its key is one of a few that take turns, and all its numbers are the number of
the push. At its end it writes to the file when each push was called and acknowledged, by the clock that all processes
of a machine have in common.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
import typer
import uvloop

from ringpull import AsyncClient
from ringpull.loadtest.bench.live_model import DIM, ITEMS, MODEL, TABLE
from ringpull.loadtest.generator import Load, Outcome, endless_arrivals

PROGRAM: Final = "ringpull.loadtest.bench.live_writer"
PROBES: Final = 64
"""Keys of probes: the first ones of the table, which no other row of a push has."""
PUSH_ROWS: Final = 128
TIMEOUT_S: Final = 60.0
MAX_IN_FLIGHT: Final = 256


async def _push(target: str, rows_per_s: float, push_rows: int) -> tuple[list[tuple[int, float, float]], Counter[str]]:
    """Push until SIGTERM; return (number, called, acknowledged) of each push, and why others failed."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    done: list[tuple[int, float, float]] = []
    failed: Counter[str] = Counter()
    rng = np.random.default_rng(3)
    async with AsyncClient(target, timeout_s=TIMEOUT_S) as client:

        async def send(number: int, late_s: float) -> None:
            keys = rng.integers(PROBES, ITEMS, push_rows)
            rows = np.full((push_rows, DIM), number + 1, np.float32)
            keys[0] = number % PROBES
            called_s = time.monotonic()
            await client.push(MODEL, TABLE, keys, rows)
            done.append((number, called_s, time.monotonic()))

        def ended(outcome: Outcome) -> None:
            if outcome.error is not None:
                failed[outcome.why] += 1

        print("ready", flush=True)
        load = Load(send, ended, max_in_flight=MAX_IN_FLIGHT)
        arrivals = endless_arrivals(rows_per_s / push_rows, rng)
        await load.open_loop(itertools.takewhile(lambda _: not stop.is_set(), arrivals))
    return done, failed


def main(target: str, rows_per_s: float = 20_000.0, push_rows: int = PUSH_ROWS, told: Path | None = None) -> None:
    done, failed = uvloop.run(_push(target, rows_per_s, push_rows))
    if told is not None:
        columns = np.array(done).reshape(-1, 3)
        number = columns[:, 0].astype(np.int64)
        np.savez(told, number=number, called_s=columns[:, 1], acked_s=columns[:, 2], failed=failed.total())
    if failed:
        raise SystemExit(f"{failed.total():,} pushes failed: {failed.most_common(1)[0][0]}")


if __name__ == "__main__":
    typer.run(main)
