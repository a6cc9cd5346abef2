"""The shard's kernel against torch's: key -> row -> pool in one, beside `embedding_bag` that is given row numbers.

One thread each, bags of 10, uniform and zipf 1.05 keys, CPU time, batch by batch in turns whose order is drawn. torch's
weight is the very map of rows that ours reads: the same pages, at the same alignment. "Checked" is a rival in two
passes: numpy takes and compares the key of each row, then torch sums. Any look-up by key reads that key, whatever finds
the row: it must tell a key that is not there. In one pass that costs less, so this rival is no bound. "With map" adds
the key -> row step that a user would need: the better of numpy's searchsorted and pandas' Index (left out when pandas
is not installed).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from ringpull.loadtest.bench.harness import QUICK, Report, Samples
from ringpull.loadtest.bench.tables import generated_table, zipf_rows
from ringpull.ps.hashing import keys_of, positions_of
from ringpull.ps.pull_messages import Op, PullRequest, SubLookup
from ringpull.ps.store.pull import pull
from ringpull.ps.store.table import Table

ROWS = 1_000_000 if QUICK else 10_000_000
BAG = 10
BAGS = 8_192
BATCHES = 8
ROUNDS = 3 if QUICK else 7

Index = Callable[[NDArray[np.uint64]], NDArray[np.int64]]
"""Where the rows of keys are, (n,) -> (n,)."""


def main() -> None:
    torch.set_num_threads(1)
    report = Report(f"Shard kernel: {ROWS:,} rows float32, bags of {BAG}, one thread, M rows/s of CPU time")
    for dim in (16, 64, 128):
        table = Table(generated_table(ROWS, dim))
        table.base.prefault()
        for spread in ("uniform", "zipf"):
            _measure(report, table, dim, spread)
    report.finish()


def _measure(report: Report, table: Table, dim: int, spread: str) -> None:
    rng = np.random.default_rng(0)
    count = BAGS * BAG
    keys = keys_of(table.base.sections.positions)
    batches = [
        rng.integers(0, ROWS, count) if spread == "uniform" else zipf_rows(rng, ROWS, count) for _ in range(BATCHES)
    ]
    wanted = [keys[rows] for rows in batches]
    row_numbers = [torch.from_numpy(rows) for rows in batches]
    weight = _weight(table)
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

    def checked(batch: int) -> torch.Tensor:
        if not np.array_equal(keys.take(batches[batch]), wanted[batch]):
            raise AssertionError("a row has another key")
        return theirs(batch)

    def looked_up(index: Index, batch: int) -> torch.Tensor:
        return theirs(batch, torch.from_numpy(index(wanted[batch])))

    np.testing.assert_allclose(ours(0).reshape(BAGS, dim), theirs(0).numpy(), rtol=1e-4, atol=1e-4)
    kind = "" if spread == "uniform" else "zipf_"

    def compare(key: str, rivals: Mapping[str, Callable[[int], object]]) -> None:
        samples = _in_turns(rng, {"ours": ours, **rivals}, count)
        best = max(rivals, key=samples.median)
        report.compare(f"dim {dim}, {spread}", samples, ("ours", best), key=key, show=".1f", unit=1e6)

    compare(f"kernel_vs_torch_{kind}d{dim}", {"torch given rows": theirs})
    compare(f"kernel_vs_torch_checked_{kind}d{dim}", {"torch given rows, keys compared": checked})
    if dim == 64:
        # Turns of their own: what these maps read takes the place of our index in the cache, and of nothing of torch's.
        maps = {"searchsorted": _searchsorted(keys)}
        if find_spec("pandas") is not None:
            maps["pandas"] = _pandas_index(keys)
        rivals = {f"torch + {name}": partial(looked_up, index) for name, index in maps.items()}
        compare(f"kernel_vs_torch_with_map_{kind}d{dim}", rivals)


def _weight(table: Table) -> torch.Tensor:
    """Return the mapped rows of a table as they lie there, float32 (rows, dim)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a map is read-only, and nothing here writes
        return torch.from_numpy(table.base.sections.rows.view(np.float32))


def _in_turns(rng: np.random.Generator, contenders: Mapping[str, Callable[[int], object]], count: int) -> Samples:
    """Return keys a second of CPU time: of each batch, `ROUNDS` times."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-1, ROUNDS * BATCHES):
        for name in rng.permutation(list(contenders)).tolist():
            begin = time.thread_time()
            contenders[name](number % BATCHES)
            if number >= 0:  # the first one warms up
                values[name].append(count / (time.thread_time() - begin))
    return Samples(values)


def _searchsorted(keys: NDArray[np.uint64]) -> Index:
    order = np.argsort(keys)
    by_key = keys[order]
    return lambda wanted: order[np.searchsorted(by_key, wanted)]


def _pandas_index(keys: NDArray[np.uint64]) -> Index:
    import pandas as pd

    found: Index = pd.Index(keys).get_indexer
    return found


if __name__ == "__main__":
    main()
