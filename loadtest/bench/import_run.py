"""One import, or one reading of the same file as a user would do it, in this process: rows, seconds, and memory.

    python -m ringpull.loadtest.bench.import_run SOURCE OUT_DIR OPTIONS WARM_SOURCE READER

READER is one of `READERS`, or empty for our import. The last line is JSON: rows, seconds, CPU seconds, MiB at most.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

import ringpull.ps.hash_kernels  # noqa: F401  numba, which the writer loads when it first hashes
from ringpull.inference.importers.tables import text_rows
from ringpull.inference.importers.tables.formats import open_source
from ringpull.inference.importers.tables.import_tables import import_tables
from ringpull.inference.importers.tables.source import ReadOptions

DIM: Final = 64
KIB: Final = 1024

Table = tuple[Any, np.ndarray[Any, np.dtype[np.float32]]]


def read_npz(path: Path) -> Table:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["keys"], arrays["rows"]


def read_parquet(path: Path) -> Table:
    table = pq.read_table(path)
    return table["id"], table["features"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)


def read_csv(path: Path) -> Table:
    return _of_columns(pa_csv.read_csv(path))


def read_glove(path: Path) -> Table:
    names = pa_csv.ReadOptions(autogenerate_column_names=True)
    return _of_columns(pa_csv.read_csv(path, names, pa_csv.ParseOptions(delimiter=" ", quote_char=False)))


def _of_columns(table: pa.Table) -> Table:
    return table[0], np.stack([column.to_numpy().astype(np.float32) for column in table.columns[1:]], axis=1)


def read_json_vectors(path: Path) -> Table:
    import pandas as pd

    frame = pd.read_csv(path)
    return frame["id"], np.array([json.loads(vector) for vector in frame["vector"]], np.float32)


def read_numpy_vectors(path: Path) -> Table:
    import pandas as pd

    frame = pd.read_csv(path)
    return frame["id"], np.array([vector.strip("[]").split() for vector in frame["vector"]], np.float32)


def read_word2vec(path: Path) -> Table:
    data = path.read_bytes()
    at = data.index(b"\n") + 1
    words, rows = [], []
    for _ in range(int(data.split(maxsplit=1)[0])):
        blank = data.index(b" ", at)
        words.append(data[at:blank])
        rows.append(np.frombuffer(data, "<f4", DIM, blank + 1))
        at = blank + 2 + 4 * DIM
    return words, np.array(rows)


def read_hps(path: Path) -> Table:
    return np.fromfile(path / "key", np.int64), np.fromfile(path / "emb_vector", np.float32).reshape(-1, DIM)


def read_safetensors(path: Path) -> Table:
    from safetensors.numpy import load_file

    tensors = load_file(path)
    return tensors["ids"], tensors["weight"]


READERS: Final[dict[str, Callable[[Path], Table]]] = {
    "numpy": read_npz,
    "parquet": read_parquet,
    "parquet_strings": read_parquet,
    "csv": read_csv,
    "csv_text": read_json_vectors,
    "csv_numpy": read_numpy_vectors,
    "glove": read_glove,
    "word2vec": read_word2vec,
    "hps": read_hps,
    "safetensors": read_safetensors,
}
"""What a user reads a format with, into arrays and no further, by its key."""


def main() -> None:
    source, out, options, warm, reader = sys.argv[1:]

    def run(path: str, version: int) -> int:
        if reader:
            return len(READERS[reader](Path(path))[1])
        opened = open_source(path, ReadOptions(**json.loads(options)))
        return import_tables({"t": opened}, out, version, quiet=True).tables[0].rows

    # A small source of the same kind, and by kernels: all is imported and compiled before the clock runs.
    small, text_rows.SMALL_BYTES = text_rows.SMALL_BYTES, 0
    run(warm, 1)
    text_rows.SMALL_BYTES = small
    before, peak, done = anonymous_kib(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, anonymous_kib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    rows = run(source, 2)
    took_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    done.set()
    watcher.join()
    print(json.dumps([rows, took_s, cpu_s, (peak - before) / KIB]))


def anonymous_kib() -> int:
    """Return the memory of this process that is no file's."""
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
