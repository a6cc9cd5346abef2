"""Memory of a second version while both are open: just opened, and when every page of it was touched too.

Four shards without Ray open the same files, as shards of one machine do. The first version is warm; the second is
opened beside it, cold: of a table of the same size only what the checks at open read is in memory then, the index and
the positions. In the end it is warm too. Figures are the PSS of all shards, less that of a table of a few rows.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ringpull.loadtest.bench.bare_shards import bare_shards, pss_bytes
from ringpull.loadtest.bench.harness import QUICK, Report
from ringpull.loadtest.bench.tables import generated_table
from ringpull.router.control.planner import table_bytes

SHARDS = 4
ROWS = 100_000 if QUICK else 2_000_000
EMPTY_ROWS = 8
DIM = 32


def main() -> None:
    report = Report(f"Two versions open: {SHARDS} shards of one machine, {ROWS:,} rows x {DIM} float32 each")
    base = generated_table(ROWS, DIM)
    empty = held(generated_table(EMPTY_ROWS, DIM).folder)
    with tempfile.TemporaryDirectory(prefix="ringpull-bench-") as made:
        second = Path(made) / "second"
        shutil.copytree(base.folder, second)
        one = held(base.folder) - empty
        cold = held(base.folder, beside=second) - empty
        warm = held(base.folder, beside=second, touch_beside=True) - empty
    due = table_bytes(base.rows, base.spec.row_bytes)
    one_mb, due_mb, warm_mb = (f"{size / 1e6:,.1f} MB" for size in (one, due, warm))
    reach, key = "0.95 to 1.05", "one_version_vs_predicted"
    report.row("one version, warm", one_mb, f"predicted {due_mb}", one / due, reach, key=key)
    beside_it = "and a second one, just opened"
    report.row(beside_it, f"{cold / 1e6:,.1f} MB", f"one version {one_mb}", cold / one, key="two_versions_cold_vs_one")
    report.row("both warm", warm_mb, f"predicted, each, {due_mb}", warm / (2 * due), reach)
    report.key("two_versions_warm_vs_one", warm / one)
    report.finish()


def held(folder: Path, *, beside: Path | None = None, touch_beside: bool = False) -> int:
    """Return the memory of shards that have one table open and warm, and perhaps another one beside it."""
    with bare_shards(folder, SHARDS, touch=True, beside=beside, touch_beside=touch_beside) as up:
        return sum(map(pss_bytes, up.processes))


if __name__ == "__main__":
    main()
