"""Time from a version on disk to ready, against reading the same files; and what a large table adds to `serve`.

Tables are mapped, not loaded: what is read of them is header, index and keys. "Ready" is a shard that owns every slot
and has opened every table, and a head's part: manifest, schema and dense program loaded and verified. Both from files
that the page cache does not hold, as after a download to another machine; the process is up and its libraries are
loaded.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.version import LoadedVersion
from ringpull.loadtest.bench.harness import QUICK, Report, interleave
from ringpull.loadtest.bench.large_model import EMPTY_ROWS, ROWS, VERSION, one_table_model
from ringpull.loadtest.deployment import deployed
from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard

SHARDS = 4
ROUNDS = 3 if QUICK else 4
SERVE_ROUNDS = 1 if QUICK else 2
READ_BYTES = 1 << 20
MAX_EXTRA_S = 3.0


def main() -> None:
    empty, full = one_table_model(EMPTY_ROWS), one_table_model(ROWS)
    version_dir = full / str(VERSION)
    files = [path for path in version_dir.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    report = Report(f"To ready: {ROWS:,} rows x 64 float32, {size / 1e6:,.0f} MB on disk")

    samples = interleave(
        {
            "open": partial(_seconds, files, open_tables, version_dir),
            "head": partial(_seconds, files, load_head, version_dir),
            "read": partial(_seconds, files, read_files, files),
        },
        rounds=ROUNDS,
    )
    ready = [a + b for a, b in zip(samples.values["open"], samples.values["head"], strict=True)]
    ratio = statistics.median(a / b for a, b in zip(ready, samples.values["read"], strict=True))
    read = f"reading the files {samples.median('read') * 1e3:,.0f} ms"
    opened = samples.ratio("open", "read")
    report.row("tables opened", f"{samples.median('open') * 1e3:,.0f} ms", read, opened, key="open_vs_read")
    report.row("head's part loaded", f"{samples.median('head') * 1e3:,.0f} ms", read, samples.ratio("head", "read"))
    report.row("version on disk to ready", f"{statistics.median(ready) * 1e3:,.0f} ms", read, ratio, key="load_vs_read")

    served = interleave(
        {"empty": partial(seconds_to_ready, empty), "full": partial(seconds_to_ready, full)}, rounds=SERVE_ROUNDS
    )
    # Pair by pair: what a busy machine adds to starting Ray, it adds to both of a pair.
    extra_s = statistics.median(a - b for a, b in zip(served.values["full"], served.values["empty"], strict=True))
    base = f"empty model {served.median('empty'):.1f} s, so {extra_s:+.1f} s"
    report.row("`ringpull serve` to ready", f"{served.median('full'):.1f} s", base, reach=f"<= +{MAX_EXTRA_S:.0f} s")
    report.key("ready_s", served.median("full"))
    report.key("ready_extra_s", extra_s)
    report.finish()


def open_tables(version_dir: Path) -> None:
    """Have a shard that owns everything open the tables of a version."""
    manifest = Manifest.load(version_dir)
    folders = {entry.spec.name: manifest.table_folder(version_dir, entry.spec.name) for entry in manifest.tables}
    shard = Shard(0)
    shard.assign(1, [ServedRanges(Ring.even((0,)), {})], [(manifest.model, manifest.version)])
    shard.open(manifest.model, manifest.version, folders)
    shard.retire(manifest.model, manifest.version)


def load_head(version_dir: Path) -> None:
    """Load what a head has of a version."""
    LoadedVersion.load(version_dir, device="cpu")


def read_files(files: list[Path]) -> None:
    """Read files from beginning to end into one buffer."""
    buffer = bytearray(READ_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def forget(files: list[Path]) -> None:
    """Have the kernel drop the files from its page cache."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _seconds(files: list[Path], run: Callable[..., None], *arguments: object) -> float:
    forget(files)
    begin = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - begin


def seconds_to_ready(folder: Path) -> float:
    """Return the seconds from starting `ringpull serve` to its ready line."""
    begin = time.perf_counter()
    with deployed(folder, SHARDS):
        return time.perf_counter() - begin


if __name__ == "__main__":
    main()
