"""Short rows against our own float32 ones: fewer cache lines for each key, more work for each number.

One thread, dim 128, bags of 10, uniform keys; the tables hold the same rows, and are in memory as a whole. No other
bench uses the short ones, so they are removed at the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np

from ringpull.loadtest.bench.harness import QUICK, Report, interleave, rate
from ringpull.loadtest.bench.tables import generated_table, keys_of
from ringpull.ps.hashing import positions_of
from ringpull.ps.pull_messages import Op, PullRequest, SubLookup
from ringpull.ps.spec import VECTOR_TYPES, RowType
from ringpull.ps.store.pull import pull
from ringpull.ps.store.table import Table

ROWS = 1_000_000 if QUICK else 10_000_000
DIM = 128
BAG = 10
BAGS = 8_192
BATCHES = 8
ROUNDS = 3 if QUICK else 5
SHORT = {RowType.INT8: "int8", RowType.BFLOAT16: "bf16", RowType.FLOAT16: "f16"}


def main() -> None:
    report = Report(f"Row types: {ROWS:,} x {DIM}, bags of {BAG}, one thread, M rows/s")
    count = BAGS * BAG
    rng = np.random.default_rng(0)
    lookups = (SubLookup("bench", Op.SUM, count, BAGS, False),)
    lengths, no_weights = np.full(BAGS, BAG, np.uint32), np.empty(0, np.float32)
    positions = [positions_of(keys_of(rng.integers(0, ROWS, count))) for _ in range(BATCHES)]
    requests = [PullRequest("m", 1, 1, lookups, each, lengths, no_weights) for each in positions]

    def contender(row_type: RowType) -> Callable[[], float]:
        table = Table(generated_table(ROWS, DIM, row_type))
        table.base.prefault()
        return rate(lambda turn: pull([table], [None], requests[turn]), BATCHES, count)

    samples = interleave({row_type.value: contender(row_type) for row_type in VECTOR_TYPES}, rounds=ROUNDS)
    for row_type, short in SHORT.items():
        names, key = (row_type.value, RowType.FLOAT32.value), f"{short}_vs_float32_d{DIM}"
        report.compare(f"dim {DIM}, {row_type.value}", samples, names, key=key, show=".1f", unit=1e6)
    report.finish()
    for row_type in SHORT:
        shutil.rmtree(generated_table(ROWS, DIM, row_type).folder)


if __name__ == "__main__":
    main()
