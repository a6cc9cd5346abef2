"""Memory of a large table: shards and head together, every page touched, less what an empty model's take.

Shards and heads of one machine map the same files, and share their pages: memory is the proportional set size (PSS), in
which a page mapped by n processes counts 1/n in each. The aim: 1.05 x the rows, and 9 bytes per key.
"""

from __future__ import annotations

from pathlib import Path

from ringpull.loadtest.bench.harness import Report
from ringpull.loadtest.bench.large_model import DIM, EMPTY_ROWS, ROWS, one_table_model
from ringpull.loadtest.deployment import deployed
from ringpull.ps.memory import process_memory

SHARDS = 4
ROW_BYTES = 4 * DIM


def touched_bytes(folder: Path, shards: int) -> int:
    """Return the memory of all that serve a model folder, every page of its tables touched."""
    with deployed(folder, shards, "--prefault") as ours:
        sizes = [process_memory(process.pid).get("Pss") for process in ours.running()]
    known = [size for size in sizes if size is not None]
    assert len(known) == len(sizes) > shards, "the kernel does not tell the memory of all processes"
    return sum(known)


def main() -> None:
    empty, full = (touched_bytes(one_table_model(rows), SHARDS) for rows in (EMPTY_ROWS, ROWS))
    table_bytes, rows_bytes = full - empty, ROWS * ROW_BYTES
    report = Report(f"Memory of {SHARDS} shards and a head: {ROWS:,} rows x {DIM} float32")
    report.row("shards and head (PSS)", f"{full / 1e6:,.0f} MB", f"empty model {empty / 1e6:,.0f} MB")
    table_mb, raw = f"{table_bytes / 1e6:,.0f} MB", f"raw rows {rows_bytes / 1e6:,.0f} MB"
    report.row("of the table", table_mb, raw, table_bytes / rows_bytes, key="resident_vs_raw")
    report.row("bytes per row", f"{table_bytes / ROWS:.1f}", f"a row {ROW_BYTES}")
    report.key("resident_bytes_per_row", table_bytes / ROWS)
    report.finish()


if __name__ == "__main__":
    main()
