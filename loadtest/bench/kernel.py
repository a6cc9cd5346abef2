"""The shard's kernel against torch's: key -> row -> pool in one, beside `embedding_bag` that is given row numbers.

One thread each, bags of 10, uniform and zipf 1.05 keys. "With map" adds to torch the key -> row step that a user would
need: the better of numpy's searchsorted and pandas' Index (left out when pandas is not installed).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from ringpull.loadtest.bench.harness import QUICK, Report, interleave, rate
from ringpull.loadtest.bench.tables import bench_keys, bench_rows, generated_table, zipf_rows
from ringpull.ps.hashing import positions_of
from ringpull.ps.store.pull import pull
from ringpull.ps.store.table import Table
from ringpull.ps.wire.messages import Op, PullRequest, SubLookup

ROWS = 1_000_000 if QUICK else 10_000_000
BAG = 10
BAGS = 8_192
BATCHES = 8
ROUNDS = 3 if QUICK else 7


def main() -> None:
    torch.set_num_threads(1)
    report = Report(f"Shard kernel: {ROWS:,} rows float32, bags of {BAG}, one thread, M rows/s")
    keys = bench_keys(ROWS)
    for dim in (16, 64, 128):
        table = Table(generated_table(ROWS, dim))
        table.base.prefault()
        weight = torch.from_numpy(bench_rows(0, ROWS, dim))
        for spread in ("uniform", "zipf"):
            _measure(report, table, weight, keys, dim, spread)
        del weight
    report.finish()


def _measure(
    report: Report, table: Table, weight: torch.Tensor, keys: NDArray[np.uint64], dim: int, spread: str
) -> None:
    rng = np.random.default_rng(0)
    count = BAGS * BAG
    batches = [
        rng.integers(0, ROWS, count) if spread == "uniform" else zipf_rows(rng, ROWS, count) for _ in range(BATCHES)
    ]
    wanted = [keys[rows] for rows in batches]
    row_numbers = [torch.from_numpy(rows) for rows in batches]
    offsets = torch.arange(0, count, BAG)
    lengths = np.full(BAGS, BAG, np.uint32)
    lookup = (SubLookup("bench", Op.SUM, count, BAGS, False),)
    no_weights = np.empty(0, np.float32)

    def ours(batch: int) -> NDArray[np.float32]:
        request = PullRequest("m", 1, 1, lookup, positions_of(wanted[batch]), lengths, no_weights)
        return pull([table], [None], request).values

    def theirs(batch: int, rows: torch.Tensor | None = None) -> torch.Tensor:
        return torch.nn.functional.embedding_bag(
            row_numbers[batch] if rows is None else rows, weight, offsets, mode="sum"
        )

    order = np.argsort(keys)
    by_key = keys[order]

    def searchsorted(batch: int) -> None:
        theirs(batch, torch.from_numpy(order[np.searchsorted(by_key, wanted[batch])]))

    np.testing.assert_allclose(ours(0).reshape(BAGS, dim), theirs(0).numpy(), rtol=1e-4, atol=1e-4)
    contenders: dict[str, Callable[[int], object]] = {"ours": ours, "torch given rows": theirs}
    if dim == 64:
        contenders["torch + searchsorted"] = searchsorted
        if find_spec("pandas") is not None:
            index = _pandas_index(keys)
            contenders["torch + pandas"] = lambda batch: theirs(batch, torch.from_numpy(index(wanted[batch])))
    samples = interleave({name: rate(run, BATCHES, count) for name, run in contenders.items()}, rounds=ROUNDS)
    kind = "" if spread == "uniform" else "zipf_"
    report.compare(
        f"dim {dim}, {spread}",
        samples,
        ("ours", "torch given rows"),
        key=f"kernel_vs_torch_{kind}d{dim}",
        show=".1f",
        unit=1e6,
    )
    if with_map := [name for name in contenders if name.startswith("torch + ")]:
        best = max(with_map, key=samples.median)
        key = f"kernel_vs_torch_with_map_{kind}d{dim}"
        report.compare(f"dim {dim}, {spread}", samples, ("ours", best), key=key, show=".1f", unit=1e6)


def _pandas_index(keys: NDArray[np.uint64]) -> Callable[[NDArray[np.uint64]], NDArray[np.int64]]:
    import pandas as pd

    found: Callable[[NDArray[np.uint64]], NDArray[np.int64]] = pd.Index(keys).get_indexer
    return found


if __name__ == "__main__":
    main()
