"""Pushes to a served model: when they are seen, what they cost, beside Redis, and what predictions notice of them.

One shard and one head, with a data folder, pushes acknowledged when they are on disk. Whoever pushes is a process of
its own; predictions that look for pushed rows come from this one, one after the other. CPU time is that of head and
shard.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import uvloop
from numpy.typing import NDArray

from ringpull import AsyncClient, Client
from ringpull.loadtest.bench import redis_server
from ringpull.loadtest.bench.asked_rates import PATIENT, in_drawn_order
from ringpull.loadtest.bench.harness import QUICK, Report, Samples
from ringpull.loadtest.bench.live_model import DIM, ITEMS, MODEL, TABLE, export_live, payloads_of
from ringpull.loadtest.bench.live_writer import PROBES, PROGRAM, PUSH_ROWS
from ringpull.loadtest.bench.load import Server
from ringpull.loadtest.deployment import Deployment, deployed
from ringpull.loadtest.generator import arrival_times
from ringpull.loadtest.process import cpu_seconds, server

SHARDS: Final = 1
ROWS_PER_S: Final = 20_000
VISIBLE_S: Final = 5.0 if QUICK else 20.0
LARGE_ROWS: Final = 1_024
LARGE_IN_FLIGHT: Final = 4
COST_S: Final = 1.0 if QUICK else 4.0
COST_ROUNDS: Final = 2 if QUICK else 4
WARM_BYTES: Final = (64 << 20) if QUICK else (2 << 30)
"""Bytes of rows that are pushed before pushes are measured: two rounds of folds. Memory that a virtual machine has not
had yet costs more than all else of a push, and what folds are written over is there from the second one on."""
CALM_S: Final = 3.0 if QUICK else 6.0
CALM_ROUNDS: Final = 2 if QUICK else 5
IN_FLIGHT: Final = 8
TOP_S: Final = 2.0 if QUICK else 3.0
WARM_S: Final = 1.0
"""Time from the first look to the first push that counts: connections, and numbers of the client, are new before it."""
SETTLE_S: Final = 0.5
"""Time from the first push to the first request that counts."""

TIMES = NDArray[np.float64]


def measure(report: Report) -> None:
    """Serve the model, and report all keys of pushes."""
    with tempfile.TemporaryDirectory(prefix="ringpull-bench-") as made:
        folder = export_live(Path(made))
        with deployed(folder, SHARDS, "--data-dir", f"{made}/data", "--heads", "1", *PATIENT) as up:
            visible(report, up, Path(made))
            cost(report, up)
            predictions(report, up)


def visible(report: Report, up: Deployment, folder: Path) -> None:
    """Report how long it is from the call of a push to the end of the first prediction that shows it."""
    told = folder / "told.npz"
    looks: list[tuple[float, NDArray[np.float32]]] = []
    with Client(up.target, timeout_s=60) as client, writing(up, told):
        until_s = time.monotonic() + WARM_S + VISIBLE_S
        while time.monotonic() < until_s:
            found = client.predict(MODEL, {"item": np.arange(PROBES)}, {"user": np.array([1])}).outputs["first"]
            looks.append((time.monotonic(), found.copy()))
    with np.load(told, allow_pickle=False) as pushes:
        counts = pushes["called_s"] > looks[0][0] + WARM_S
        numbers, called_s, acked_s = (pushes[each][counts] for each in ("number", "called_s", "acked_s"))
        failed = int(pushes["failed"])
    took_s = seen_after(numbers, called_s, np.array([each[0] for each in looks]), np.stack([each[1] for each in looks]))
    acked_ms = 1e3 * (acked_s - called_s)
    between_ms = 1e3 * float(np.median(np.diff([each[0] for each in looks])))
    rate = len(numbers) * PUSH_ROWS / float(np.ptp(called_s))
    for percent in (50, 99):
        ms = 1e3 * float(np.percentile(took_s, percent))
        what = f"push of {PUSH_ROWS} until a prediction of another process shows it, p{percent}, ms"
        acked = float(np.percentile(acked_ms, percent))
        against = f"{rate:,.0f} rows/s; acknowledged {acked:.1f}"
        report.row(what, f"{ms:.1f}", against, ms, key=f"push_visible_p{percent}_ms")
        report.key(f"push_acked_p{percent}_ms", acked)
    report.row("time between two such predictions, ms", f"{between_ms:.1f}", "half of it, on average, is in the above")
    report.key("push_visible_pushes", len(took_s))
    report.key("push_visible_failed", failed)
    report.key("push_visible_looks_every_ms", between_ms)


def seen_after(
    numbers: NDArray[np.int64], called_s: TIMES, looked_s: TIMES, shown: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return how long after its call each push was first shown, of those that were.

    Args:
        numbers: Pushes, (n,); number k has written k + 1 to probe k modulo the number of probes.
        called_s: When they were called, (n,).
        looked_s: When looks had their answer, (looks,), ascending.
        shown: What they showed of each probe, (looks, probes).
    """
    shown = np.maximum.accumulate(shown, axis=0)  # what a later push replaced has been shown
    found = []
    for number, called in zip(numbers.tolist(), called_s.tolist(), strict=True):
        look = int(np.searchsorted(shown[:, number % shown.shape[1]], number + 1))
        if look < len(looked_s):
            found.append(looked_s[look] - called)
    return np.array(found)


@contextmanager
def writing(up: Deployment, told: Path | None = None, rows_per_s: float = ROWS_PER_S) -> Iterator[None]:
    """Have another process push as long as the context lasts."""
    arguments = [up.target, "--rows-per-s", str(rows_per_s)]
    arguments += [] if told is None else ["--told", str(told)]
    with server(PROGRAM, *arguments, ready="ready"):
        time.sleep(SETTLE_S)
        yield


def cost(report: Report, up: Deployment) -> None:
    """Report CPU a row of pushes of 1,024, folds included, either way, beside Redis, which appends to a file."""
    processes = up.running()
    idle_s, straight_rows = _idle(processes), list[int]()  # before all pushes: folds go on after them
    _warm(report, up.target, processes)

    def measured(*, straight: bool) -> float:
        rows, cpu_s = uvloop.run(_pushed_for(up.target, processes, COST_S, straight=straight))
        straight_rows.extend([rows] if straight else [])
        return 1e6 * cpu_s / rows

    ours = {"ours": partial(measured, straight=True), "through": partial(measured, straight=False)}
    what, key, beside = f"CPU us a row, pushes of {LARGE_ROWS} x {DIM}", "push_cpu_us_per_row_1024", "push_vs_redis"
    if (why := redis_server.missing()) is not None:
        samples = in_drawn_order(ours, rounds=COST_ROUNDS)
        _told(report, samples, what, key, idle_s / float(np.median(straight_rows)))
        report.absent("Redis MSET, the same rows", why, beside)
        return
    with redis_server.private_redis(append_only=True) as (port, process):
        samples = in_drawn_order({**ours, "redis": _redis(port, process)}, rounds=COST_ROUNDS)
    _told(report, samples, what, key, idle_s / float(np.median(straight_rows)))
    report.compare("the same, Redis MSET", samples, ("redis", "ours"), key=beside, show=".2f")


def _warm(report: Report, target: str, processes: Sequence[psutil.Process]) -> None:
    """Push until what a shard has from then on is there; report what the first second cost."""
    costs, pushed = list[float](), 0
    while pushed * DIM * 4 < WARM_BYTES:
        rows, cpu_s = uvloop.run(_pushed_for(target, processes, 1.0, straight=True))
        costs.append(1e6 * cpu_s / rows)
        pushed += rows
    what = f"CPU us a row, pushes of {LARGE_ROWS} x {DIM}, the first second, in memory that was not touched yet"
    report.row(what, f"{costs[0]:.2f}", "", costs[0], key="push_cpu_us_per_row_1024_first")


def _idle(processes: Sequence[psutil.Process]) -> float:
    """Return the CPU seconds that processes take in the time of one sample while nobody asks them anything."""
    time.sleep(COST_S)
    before_s = cpu_seconds(processes)
    time.sleep(COST_S)
    return cpu_seconds(processes) - before_s


def _told(report: Report, samples: Samples, what: str, key: str, idle_s: float) -> None:
    for name, way, more in (("ours", "straight to the shard", ""), ("through", "through the head", "_through_head")):
        report.row(f"{what}, {way}", f"{samples.median(name):.2f}", "", samples.median(name), key=key + more)
    report.row(
        "of the first, what both take without pushes", f"{1e6 * idle_s:.3f}", "", 1e6 * idle_s, key=f"{key}_idle"
    )


async def _pushed_for(
    target: str, processes: Sequence[psutil.Process], seconds: float, *, straight: bool
) -> tuple[int, float]:
    """Push as fast as it goes, so many at a time; return rows, and CPU seconds of the processes."""
    rng = np.random.default_rng(4)
    rows = rng.random((LARGE_ROWS, DIM), np.float32)
    count = 0
    async with AsyncClient(target, timeout_s=60, straight_pushes=straight) as client:
        until_s = time.monotonic() + seconds

        async def push() -> None:
            nonlocal count
            while time.monotonic() < until_s:
                await client.push(MODEL, TABLE, rng.integers(PROBES, ITEMS, LARGE_ROWS), rows)
                count += LARGE_ROWS

        before_s = cpu_seconds(processes)
        await asyncio.gather(*(push() for _ in range(LARGE_IN_FLIGHT)))
        return count, cpu_seconds(processes) - before_s


def _redis(port: int, process: psutil.Process) -> Callable[[], float]:
    import redis

    client: Any = redis.Redis(port=port)
    rng = np.random.default_rng(4)
    rows = [row.tobytes() for row in rng.random((LARGE_ROWS, DIM), np.float32)]

    def measured() -> float:
        count = 0
        before_s = cpu_seconds([process])
        until_s = time.monotonic() + COST_S
        while time.monotonic() < until_s:
            keys = rng.integers(PROBES, ITEMS, LARGE_ROWS).tolist()
            client.mset({f"item:{key}": row for key, row in zip(keys, rows, strict=True)})
            count += LARGE_ROWS
        return 1e6 * (cpu_seconds([process]) - before_s) / count

    return measured


def predictions(report: Report, up: Deployment) -> None:
    """Report the p99 of predictions while 20 k rows a second are pushed, against that without."""
    asked = Server(up.target, processes=up.running(), timeout_s=60)
    payloads = payloads_of(64 if QUICK else 512)
    top = asked.closed_loop(payloads, in_flight=IN_FLIGHT, seconds=TOP_S).calls_per_s
    draw = random.Random(5)
    p99: dict[str, list[float]] = {"pushing": [], "calm": []}
    p50: dict[str, list[float]] = {"pushing": [], "calm": []}
    for number in range(CALM_ROUNDS):
        for name in draw.sample(list(p99), 2):
            arrivals = arrival_times(top / 2, CALM_S, number)
            if name == "pushing":
                with writing(up):
                    run = asked.open_loop(payloads, arrivals)
            else:
                run = asked.open_loop(payloads, arrivals)
            p99[name].append(run.percentile_ms(99))
            p50[name].append(run.percentile_ms(50))
    for percent, values in ((99, p99), (50, p50)):
        ratio = float(np.median(np.divide(values["pushing"], values["calm"])))
        what = f"predictions of 128 candidates at {top / 2:,.0f}/s, half of the top, p{percent}, ms"
        figures = {name: f"{np.median(each):.1f}" for name, each in values.items()}
        against = f"no pushes {figures['calm']}"
        report.row(
            f"{what}, while {ROWS_PER_S:,} rows/s come",
            figures["pushing"],
            against,
            ratio,
            key=f"predict_p{percent}_while_pushing",
        )
    report.key("predict_top_rate", top)


def main() -> None:
    report = Report(
        f"Pushes to a served model, {ITEMS:,} x {DIM} float32, one copy, on disk before they are acknowledged"
    )
    measure(report)
    report.finish()


if __name__ == "__main__":
    main()
