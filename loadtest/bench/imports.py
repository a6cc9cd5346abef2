"""Rates of importing tables: rows a second from a source to a version that can be served, and the peak of memory.

Each import is a process of its own, so that its memory is its own: the largest it held beyond what the page cache holds
for all, less what it held before it began. The same rows lie in every format; NumPy's are the yardstick: reading them
is a copy, and what is left is the writer.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.loadtest.bench.harness import QUICK, Report

ROWS: Final = 100_000 if QUICK else 1_000_000
DIM: Final = 64

IMPORT: Final = """
import json, sys, threading, time
import ringpull.ps.hash_kernels  # numba, which the writer loads when it first hashes
from ringpull.inference.importers.tables.import_tables import import_tables
from ringpull.inference.importers.tables.formats import open_source
from ringpull.inference.importers.tables.source import ReadOptions

def anonymous_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

source, out, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
warm = sys.argv[4]  # a small source of the same kind: packages are imported and kernels compiled before the clock runs
import_tables({"t": open_source(warm, ReadOptions(**options))}, out, 1, quiet=True)
before, peak, done = anonymous_kib(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, anonymous_kib())

watcher = threading.Thread(target=watch)
watcher.start()
begin = time.perf_counter()
report = import_tables({"t": open_source(source, ReadOptions(**options))}, out, 2, quiet=True)
took = time.perf_counter() - begin
done.set()
watcher.join()
print(json.dumps([report.tables[0].rows, took, (peak - before) / 1024]))
"""


def parquet(folder: Path, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Path:
    """Write them as Spark writes the factors of ALS."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = pa.ListArray.from_arrays(np.arange(0, rows.size + 1, DIM, dtype=np.int32), rows.reshape(-1))
    pq.write_table(pa.table({"id": keys, "features": vectors}), folder / "t.parquet", row_group_size=1 << 17)
    return folder / "t.parquet"


def parquet_strings(folder: Path, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Path:
    """Write them with keys that are strings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = pa.ListArray.from_arrays(np.arange(0, rows.size + 1, DIM, dtype=np.int32), rows.reshape(-1))
    names = pa.array([f"item:{key}" for key in keys.tolist()])
    pq.write_table(pa.table({"id": names, "features": vectors}), folder / "s.parquet", row_group_size=1 << 17)
    return folder / "s.parquet"


def arrays(folder: Path, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Path:
    """Write them as an archive of NumPy."""
    np.savez(folder / "t.npz", keys=keys, rows=rows)
    return folder / "t.npz"


def csv(folder: Path, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Path:
    """Write them as CSV, one column a number."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    names = ["id", *(f"v{place}" for place in range(DIM))]
    pa_csv.write_csv(pa.table([pa.array(keys), *(pa.array(column) for column in rows.T)], names), folder / "t.csv")
    return folder / "t.csv"


def text_vectors(folder: Path, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Path:
    """Write them as CSV, each vector a text."""
    with (folder / "v.csv").open("w", encoding="utf-8") as file:
        file.write("id,vector\n")
        for key, row in zip(keys.tolist(), rows, strict=True):
            file.write(f'{key},"[{", ".join(map(str, row.tolist()))}]"\n')
    return folder / "v.csv"


def word2vec(folder: Path, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Path:
    """Write them as word2vec's binary."""
    with (folder / "w.bin").open("wb") as file:
        file.write(f"{len(keys)} {DIM}\n".encode())
        for key, row in zip(keys.tolist(), rows, strict=True):
            file.write(b"w%d " % key + row.tobytes() + b"\n")
    return folder / "w.bin"


def hps(folder: Path, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Path:
    """Write them as HPS loads them."""
    (folder / "hps").mkdir()
    keys.tofile(folder / "hps/key")
    rows.tofile(folder / "hps/emb_vector")
    return folder / "hps"


def safetensors(folder: Path, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Path:
    """Write them as safetensors."""
    from safetensors.numpy import save_file

    save_file({"ids": keys, "weight": rows}, folder / "t.safetensors")
    return folder / "t.safetensors"


FORMATS: Final[dict[str, tuple[str, Callable[..., Path], dict[str, Any]]]] = {
    "numpy": ("NumPy, .npz", arrays, {}),
    "parquet": ("Parquet, lists", parquet, {}),
    "parquet_strings": ("Parquet, keys are strings", parquet_strings, {}),
    "csv": ("CSV, 65 columns", csv, {}),
    "csv_text": ("CSV, vectors are texts", text_vectors, {}),
    "word2vec": ("word2vec, binary", word2vec, {}),
    "hps": ("HPS", hps, {}),
    "safetensors": ("safetensors", safetensors, {"id": "ids", "vector": ["weight"]}),
}
"""Format by its key: its name, what writes it, and what it is read with."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for some GB, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ringpull-imports-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def measured(source: Path, warm: Path, out: Path, options: dict[str, Any]) -> tuple[float, float]:
    """Import a source in a process of its own; return rows a second, and MiB at most."""
    command = [sys.executable, "-c", IMPORT, str(source), str(out), json.dumps(options), str(warm)]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    rows, took_s, peak_mib = json.loads(ran.stdout.splitlines()[-1])
    assert rows == ROWS
    return rows / took_s, peak_mib


def main() -> None:
    report = Report(f"Imports: {ROWS:,} rows x {DIM} float32, from the files to a version")
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, DIM), np.float32)
    keys = rng.permutation(ROWS).astype(np.int64)
    yardstick = 0.0
    for key, (name, write, options) in FORMATS.items():
        with scratch_folder() as folder:
            (folder / "warm").mkdir()
            warm = write(folder / "warm", keys[:100], rows[:100])
            rate, peak_mib = measured(write(folder, keys, rows), warm, folder / "out", options)
        yardstick = yardstick or rate
        report.row(name, f"{rate:,.0f} rows/s", f"at most {peak_mib:,.0f} MiB", rate / yardstick)
        report.key(f"import_{key}_rows_per_s", rate)
        report.key(f"import_{key}_peak_mib", peak_mib)
    report.finish()


if __name__ == "__main__":
    main()
