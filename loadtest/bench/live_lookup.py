"""Look-ups in a table with newer rows beside the same look-ups in its base alone; and how fast newer rows come in.

CPU time of one thread. Of every batch of keys the contenders take their turns in an order drawn anew, with a buffer of
64 MiB touched before each: in a fixed order whoever came second would find the base's lines in the cache. Half of the
newer rows replace rows of the base, half are new keys; keys are uniform, in bags of 10.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ringpull.loadtest.bench.harness import QUICK, Report, Samples, interleave
from ringpull.loadtest.bench.tables import generated_table, keys_of
from ringpull.ps.hashing import positions_of
from ringpull.ps.pull_messages import Op, PullRequest, SubLookup
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.base import Base
from ringpull.ps.store.newer.directory import Directory, upserted
from ringpull.ps.store.newer.newer import Newer
from ringpull.ps.store.newer.segments import Segments
from ringpull.ps.store.pull import pull
from ringpull.ps.store.table import Table

DIM = 64
BASE_ROWS = 500_000 if QUICK else 3_000_000
NEWER = {"0": 0, "100k": 20_000, "1m": 200_000} if QUICK else {"0": 0, "100k": 100_000, "1m": 1_000_000}
BAG = 10
BAGS = 4_096
COUNT = BAG * BAGS
BATCHES = 5 if QUICK else 60
PUSHES = (8, 128, 4_096)
PUSHED_ROWS = 1 << 16 if QUICK else 1 << 19
ROUNDS = 3 if QUICK else 9
DISTURBED_BYTES = 64 << 20

Contenders = Mapping[str, Callable[[PullRequest], object]]


def measure(report: Report) -> None:
    """Report look-ups with newer rows against those in the base alone, and upserts."""
    base = generated_table(BASE_ROWS, DIM)
    base.prefault()
    without = Table(base)
    for name, count in NEWER.items():
        table, kept, there = _live_table(base, count)
        for share, kind in ((0.0, ""), (0.2, "_20pct"), (1.0, "_hits")) if count else ((0.0, ""),):
            rng = np.random.default_rng(1)
            batches = [_positions(rng, kept, there, share) for _ in range(BATCHES)]
            samples = _in_turns(rng, batches, {"live": _puller(table), "base": _puller(without)})
            what = f"look-ups over {count:,} newer rows, {share:.0%} of keys hit, CPU ns a key"
            report.compare(what, samples, ("live", "base"), key=f"lookup_newer_{name}{kind}", show=".1f")
    _upserts(report)


def _live_table(base: Base, count: int) -> tuple[Table, UInt64Array, UInt64Array]:
    """Return a table with newer rows, the positions of the base that they do not replace, and their own."""
    rng = np.random.default_rng(7)
    numbers = rng.permutation(BASE_ROWS)[: count // 2]
    replaced, new = positions_of(keys_of(numbers)), positions_of(keys_of(np.arange(count // 2) + BASE_ROWS))
    segments, directory = Segments(base.spec.row_bytes), Directory.with_room(count)
    for positions in np.array_split(rng.permutation(np.concatenate([replaced, new])), 16):
        directory, _ = upserted(directory, positions, segments.append(_rows(len(positions), base.spec.row_bytes), 1))
    kept = np.ones(base.rows, np.bool_)
    kept[base.find(replaced)] = False
    # Until its first pushed row a live table is what was exported, as shards serve it.
    newer = Newer(directory, segments) if count else None
    return Table(base, newer), base.sections.positions[kept], np.concatenate([replaced, new])


def _rows(count: int, row_bytes: int) -> NDArray[np.uint8]:
    return np.zeros((count, row_bytes), np.uint8)


def _positions(rng: np.random.Generator, kept: UInt64Array, there: UInt64Array, share: float) -> UInt64Array:
    """Return the positions of a batch: so many of newer rows, the others of rows that are not replaced."""
    hits = int(share * COUNT)
    found = rng.choice(there, hits) if hits else np.empty(0, np.uint64)
    return rng.permutation(np.concatenate([found, rng.choice(kept, COUNT - hits)]))


def _puller(table: Table) -> Callable[[PullRequest], object]:
    return lambda request: pull([table], [None], request)


def _in_turns(rng: np.random.Generator, batches: list[UInt64Array], contenders: Contenders) -> Samples:
    lookups = (SubLookup("bench", Op.SUM, COUNT, BAGS, False),)
    lengths, no_weights = np.full(BAGS, BAG, np.uint32), np.empty(0, np.float32)
    disturbed = np.zeros(DISTURBED_BYTES // 8)
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for number, positions in enumerate([batches[0], *batches]):
        request = PullRequest("m", 1, 1, lookups, positions, lengths, no_weights)
        for name in rng.permutation(list(contenders)).tolist():
            disturbed += 1
            begin = time.thread_time_ns()
            contenders[name](request)
            if number:  # the first one warms up
                values[name].append((time.thread_time_ns() - begin) / COUNT)
    return Samples(values)


def _upserts(report: Report) -> None:
    """Measure rows a second of CPU, in pushes of some sizes: new keys first, then the same ones again."""
    rows = _rows(PUSHED_ROWS, 4 * DIM)
    rng = np.random.default_rng(3)
    for size in PUSHES:
        count = min(PUSHED_ROWS, size * 8_192)
        positions = rng.integers(1, 2**64, count, np.uint64)

        def pushed(known: bool, size: int = size, positions: UInt64Array = positions) -> float:
            segments, directory = Segments(rows.shape[1]), Directory.with_room(len(positions))
            if known:
                directory.put(positions, segments.append(rows[: len(positions)], 1))
            begin = time.thread_time()
            for first in range(0, len(positions), size):
                some = positions[first : first + size]
                directory, _ = upserted(directory, some, segments.append(rows[first : first + len(some)], 2))
            return len(positions) / (time.thread_time() - begin)

        samples = interleave({"new keys": lambda: pushed(False), "known keys": lambda: pushed(True)}, rounds=ROUNDS)
        figures = {name: statistics.median(samples.values[name]) / 1e6 for name in samples.values}
        report.row(
            f"pushes of {size} rows", f"{figures['new keys']:.2f} M rows/s", f"known {figures['known keys']:.2f}"
        )
        report.key(f"upsert_{size}", figures["new keys"])
        report.key(f"upsert_{size}_known", figures["known keys"])


def main() -> None:
    report = Report(f"Newer rows over {BASE_ROWS:,} x {DIM} float32, bags of {BAG}, one thread, ns of CPU a key")
    measure(report)
    report.finish()


if __name__ == "__main__":
    main()
