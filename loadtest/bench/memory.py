"""What a large table costs: seconds from `ringpull serve` to ready, and memory of all shards with every page touched.

Both against an empty model (a table of a few rows) served by the same command. The aim: ready within 3 s of the empty
one, as nothing is read but header, index and keys; memory at most 1.05 x the rows and 9 bytes per key, as shards of one
machine share the pages they map. Memory is proportional (PSS): a page mapped by n processes counts 1/n in each.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import torch
from rich.progress import track
from torch import Tensor, nn

from deploy.memory import pss_bytes
from inference import Client, Schema, Sparse, export_model
from inference.manifest import Manifest, versions
from loadtest.bench.harness import QUICK, Report, interleave
from loadtest.bench.process import server
from loadtest.bench.tables import CHUNK_ROWS, bench_keys, bench_rows, cache_folder
from ps.store.writer import TableWriter

ROWS: Final = 200_000 if QUICK else 10_000_000
ROUNDS: Final = 1 if QUICK else 3
DIM: Final = 64
EMPTY_ROWS: Final = 8
VERSION: Final = 1

MOST_EXTRA_S: Final = 3.0
ROW_FACTOR: Final = 1.05
KEY_BYTES: Final = 9


class Summed(nn.Module):
    """One bag, summed, and a weight per number."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(EMPTY_ROWS, DIM, mode="sum", include_last_offset=True)
        self.top = nn.Linear(DIM, 1)

    def forward(self, ids: Tensor, ids_offsets: Tensor) -> Tensor:
        scores: Tensor = self.top(self.table(ids, ids_offsets)).squeeze(1)
        return scores


def make_model(folder: Path, rows: int) -> Path:
    """Export a model of `rows` rows into `folder`, unless an earlier run has; return `folder`."""
    version_dir = folder / str(VERSION)
    if VERSION in versions(folder) and Manifest.load(version_dir).tables[0].rows == rows:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(1)
    export_model(Summed(), Schema([Sparse("ids", many=True)]), folder, VERSION, quiet=True)
    if rows > EMPTY_ROWS:
        replace_table(version_dir, rows)
    return folder


def replace_table(version_dir: Path, rows: int) -> None:
    """Put a table of `rows` rows in place of the exported one: a torch module of that size would need it in memory."""
    manifest = Manifest.load(version_dir)
    (entry,) = manifest.tables
    table_dir = manifest.table_folder(version_dir, entry.spec.name)
    shutil.rmtree(table_dir)
    keys = bench_keys(rows)
    with TableWriter(table_dir, entry.spec) as writer:
        for begin in track(range(0, rows, CHUNK_ROWS), description=f"making {rows:,} x {DIM}"):
            end = min(begin + CHUNK_ROWS, rows)
            writer.add(keys[begin:end], bench_rows(begin, end, DIM))
        facts = writer.finish()
    replaced = dataclasses.replace(entry, rows=facts.rows, bytes=facts.bytes)
    dataclasses.replace(manifest, tables=(replaced,)).save(version_dir)


@contextmanager
def served(folder: Path, shards: int, *options: str) -> Iterator[str]:
    """Serve a model in the foreground on free ports; yield the HOST:PORT of its gRPC, then end it."""
    ports = ("--grpc-port", "0", "--http-port", "0")
    with server(
        "deploy.cli", "serve", str(folder), "--shards", str(shards), *ports, *options, ready="ringpull ready "
    ) as (said, _):
        yield dict(field.split("=", 1) for field in said.split())["grpc"]


def seconds_to_ready(folder: Path, shards: int) -> float:
    """Return the seconds from starting the command to its ready line."""
    begin = time.perf_counter()
    with served(folder, shards):
        return time.perf_counter() - begin


def touched_bytes(folder: Path, shards: int) -> int:
    """Return the memory of all shards together, every page of the tables touched."""
    with served(folder, shards, "--prefault") as target, Client(target) as client:
        sizes = [pss_bytes(shard.pid) for shard in client.status().shards]
    assert len(sizes) == shards
    assert None not in sizes, "the kernel does not tell the shards' memory"
    return sum(size for size in sizes if size is not None)


def main() -> None:
    """Make the models, or take those of an earlier run, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where models are kept between runs; default: the benches' cache")
    given = parser.parse_args()
    folder = given.folder or cache_folder() / "memory"
    measure(make_model(folder / "empty", EMPTY_ROWS), make_model(folder / f"rows-{ROWS}", ROWS), given.shards)


def measure(empty: Path, full: Path, shards: int) -> None:
    report = Report(f"{ROWS:,} rows x {DIM} float32 on {shards} shards")
    ready = interleave(
        {name: partial(seconds_to_ready, folder, shards) for name, folder in (("empty", empty), ("full", full))},
        rounds=ROUNDS,
    )
    # Pair by pair: what a busy machine adds to starting Ray, it adds to both of a pair.
    extra_s = statistics.median(a - b for a, b in zip(ready.values["full"], ready.values["empty"], strict=True))
    report.row(
        "serve to ready",
        f"{ready.median('full'):.1f} s",
        f"empty {ready.median('empty'):.1f} s, so {extra_s:+.1f} s",
        reach=f"<= +{MOST_EXTRA_S:.0f} s",
    )

    rows_bytes = ROWS * DIM * 4
    limit = ROW_FACTOR * rows_bytes + KEY_BYTES * ROWS
    empty_bytes, full_bytes = touched_bytes(empty, shards), touched_bytes(full, shards)
    table_bytes = full_bytes - empty_bytes
    report.row("memory of all shards (PSS)", f"{full_bytes / 1e6:,.0f} MB", f"empty {empty_bytes / 1e6:,.0f} MB")
    report.row(
        "  of the table",
        f"{table_bytes / 1e6:,.0f} MB",
        f"rows {rows_bytes / 1e6:,.0f} MB",
        table_bytes / rows_bytes,
        f"<= {limit / rows_bytes:.2f}",
    )
    report.row("  bytes per row", f"{table_bytes / ROWS:.1f}", f"a row {DIM * 4}", reach=f"<= {limit / ROWS:.1f}")
    report.key("rows", ROWS)
    report.key("shards", shards)
    report.key("ready_s", ready.median("full"))
    report.key("ready_empty_s", ready.median("empty"))
    report.key("ready_extra_s", extra_s)
    report.key("table_bytes", table_bytes)
    report.key("bytes_per_row", table_bytes / ROWS)
    report.key("limit_bytes_per_row", limit / ROWS)
    report.key("reached", table_bytes <= limit and extra_s <= MOST_EXTRA_S)
    report.finish()


if __name__ == "__main__":
    main()
