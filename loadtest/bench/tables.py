"""Generated tables for benches, kept between runs in a cache folder: making gigabytes takes longer than measuring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from ringpull.loadtest.dlrm import cache_folder
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.writer import TableWriter

CHUNK_ROWS = 262_144


def bench_keys(rows: int) -> NDArray[np.uint64]:
    """Return the keys of a generated table (rows,): spread over all of uint64, so no array could be indexed by them."""
    return keys_of(np.arange(rows))


def keys_of(rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the keys of these row numbers of a generated table."""
    return rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def bench_rows(begin: int, end: int, dim: int) -> NDArray[np.float32]:
    """Return rows begin..end of a generated table, float32 (n, dim): cheap, and different in every row."""
    numbers = np.arange(begin, end, dtype=np.float32)[:, None] * np.float32(1e-6)
    return numbers + np.linspace(-1, 1, dim, dtype=np.float32)[None, :]


def generated_table(rows: int, dim: int, row_type: RowType = RowType.FLOAT32) -> Base:
    """Open a generated table, making it first if this machine has none of that kind and size."""
    folder = cache_folder() / f"{row_type.value}-{rows}x{dim}"
    if not folder.exists():
        write_table(folder, TableSpec(name="bench", dim=dim, row_type=row_type), rows)
    return Base.open(folder)


def write_table(folder: Path, spec: TableSpec, rows: int) -> int:
    """Write a generated table of `rows` rows; return its bytes."""
    keys = bench_keys(rows)
    with TableWriter(folder, spec) as writer:
        for begin in track(range(0, rows, CHUNK_ROWS), description=f"making {rows:,} x {spec.dim}"):
            end = min(begin + CHUNK_ROWS, rows)
            writer.add(keys[begin:end], bench_rows(begin, end, spec.dim))
        return writer.finish().bytes


def zipf_rows(rng: np.random.Generator, rows: int, count: int, exponent: float = 1.05) -> NDArray[np.int64]:
    """Return `count` row numbers below `rows`, the k-th hottest with weight k^-exponent (bounded zipf by inversion)."""
    uniform = rng.random(count)
    power = 1 - exponent
    ranks = ((rows**power - 1) * uniform + 1) ** (1 / power)
    hottest_first = np.minimum(ranks.astype(np.int64) - 1, rows - 1)
    # spread hot rows over the table, as real ids are
    spread: NDArray[np.int64] = (hottest_first * 0x9E3779B1 + 12_345) % rows
    return spread
