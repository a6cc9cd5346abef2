"""Rates of importing tables: rows a second from a source to a version that can be served, and the peak of memory.

Beside each is what a user would read it with (pyarrow, pandas, numpy), into arrays and no further: no version, nothing
checked, all rows in memory. Both run in turns, each in a process of its own, so that its memory is its own: the largest
it held beyond what the page cache holds for all, less what it held before it began. A busy machine shows in the CPU
seconds least.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.loadtest.bench.harness import QUICK, Report
from ringpull.loadtest.bench.import_run import DIM
from ringpull.loadtest.process import unwound_by_sigterm

ROWS: Final = 100_000 if QUICK else 500_000
ROUNDS: Final = 1
TIMEOUT_S: Final = 600
"""Seconds that one process may take: minutes on a machine that others use."""
_OTHERS: Final = 10_000
"""Vectors of a text that are not the same."""


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
    return _written_again(
        folder / "v.csv", "id,vector\n", keys, [f'"[{", ".join(each)}]"' for each in _texts(rows)], ","
    )


def numpy_vectors(folder: Path, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Path:
    """Write them as CSV, each vector as numpy prints it, in several lines."""
    with np.printoptions(threshold=DIM + 1):
        vectors = [f'"{row}"' for row in rows[:_OTHERS]]
    return _written_again(folder / "n.csv", "id,vector\n", keys, vectors, ",")


def glove(folder: Path, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Path:
    """Write them as GloVe's text."""
    vectors = [" ".join(f"{number:.5f}" for number in row) for row in rows[:_OTHERS].tolist()]
    return _written_again(folder / "g.txt", "", [f"w{key}" for key in keys.tolist()], vectors, " ")


def _texts(rows: NDArray[np.float32]) -> Iterator[list[str]]:
    return (list(map(str, row.tolist())) for row in rows[:_OTHERS])


def _written_again(path: Path, header: str, keys: Iterable[object], vectors: list[str], between: str) -> Path:
    """Write a line for each key; vectors come again, as to make texts of them takes a minute for a million."""
    with path.open("w", encoding="utf-8") as file:
        file.write(header)
        file.writelines(f"{key}{between}{vector}\n" for key, vector in zip(keys, cycle(vectors), strict=False))
    return path


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
    "csv_text": ("CSV, vectors are JSON", text_vectors, {}),
    "csv_numpy": ("CSV, vectors as numpy prints them", numpy_vectors, {}),
    "glove": ("GloVe, text", glove, {}),
    "word2vec": ("word2vec, binary", word2vec, {}),
    "hps": ("HPS", hps, {}),
    "safetensors": ("safetensors", safetensors, {"id": "ids", "vector": ["weight"]}),
}
"""Format by its key: its name, what writes it, and what it is imported with."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for some GB, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ringpull-imports-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Figures(NamedTuple):
    """One run of one contender."""

    rows_per_s: float
    rows_per_cpu_s: float
    peak_mib: float


def measured(source: Path, warm: Path, out: Path, options: dict[str, Any], reader: str = "") -> Figures:
    """Import a source in a process of its own, or read it with one of `READERS`."""
    module = "ringpull.loadtest.bench.import_run"
    command = [sys.executable, "-m", module, str(source), str(out), json.dumps(options), str(warm), reader]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=TIMEOUT_S)
    rows, took_s, cpu_s, peak_mib = json.loads(ran.stdout.splitlines()[-1])
    assert rows == ROWS
    return Figures(rows / took_s, rows / cpu_s, peak_mib)


@unwound_by_sigterm()
def main() -> None:
    report = Report(f"Imports: {ROWS:,} rows x {DIM} float32, from the files to a version")
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, DIM), np.float32)
    keys = rng.permutation(ROWS).astype(np.int64)
    begin_s = time.perf_counter()
    for number, (key, (name, write, options)) in enumerate(FORMATS.items(), 1):
        print(f"[{number}/{len(FORMATS)}] {name}, after {time.perf_counter() - begin_s:.0f} s", flush=True)
        with scratch_folder() as folder:
            (folder / "warm").mkdir()
            warm, source = write(folder / "warm", keys[:100], rows[:100]), write(folder, keys, rows)
            ours, theirs = [], []
            for turn in range(ROUNDS):
                ours.append(measured(source, warm, folder / f"out{turn}", options))
                theirs.append(measured(source, warm, folder, {}, key))
        mine, other = (Figures(*map(median, zip(*each, strict=True))) for each in (ours, theirs))
        report.row(
            name,
            f"{mine.rows_per_s:,.0f} rows/s, {mine.rows_per_cpu_s:,.0f} a CPU s, {mine.peak_mib:,.0f} MiB",
            f"into arrays {other.rows_per_s:,.0f}, {other.rows_per_cpu_s:,.0f} a CPU s, {other.peak_mib:,.0f} MiB",
            mine.rows_per_s / other.rows_per_s,
            key=f"import_{key}_vs_reader",
        )
        report.key(f"import_{key}_rows_per_s", mine.rows_per_s)
        report.key(f"import_{key}_rows_per_cpu_s", mine.rows_per_cpu_s)
        report.key(f"import_{key}_peak_mib", mine.peak_mib)
    report.finish()


if __name__ == "__main__":
    main()
