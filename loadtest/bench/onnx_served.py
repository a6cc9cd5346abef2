"""A served ONNX model against its own runtime: a DLRM of 26 tables, cut and sharded, and whole in one onnxruntime.

The runtime in process has the graph uncut and one thread, as the head has for its dense program, and is given the
columns as they are: no wire, no client. Both score the same requests, in turns; what they give is compared, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ringpull.inference.importers.onnx.model import import_onnx
from ringpull.loadtest.bench.beside_runtime import CANDIDATES, IN_FLIGHT, REQUESTS, Columns, OwnRuntime, serve_beside
from ringpull.loadtest.bench.harness import QUICK, Report
from ringpull.loadtest.bench.onnx_models import OUTPUT, make_columns, make_model, schema

MODEL = "onnx_dlrm"
ROWS = 5_000 if QUICK else 50_000
SHARDS = 2


def main() -> None:
    columns = make_columns(REQUESTS, ROWS, CANDIDATES)
    report = Report(f"ONNX DLRM of 26 tables x {ROWS:,} rows, {CANDIDATES} rows a request, {IN_FLIGHT} in flight")
    with tempfile.TemporaryDirectory(prefix="ringpull-bench-") as folder:
        model = make_model(ROWS)
        alone = own_runtime(model.SerializeToString())
        import_onnx(model, schema(), Path(folder) / MODEL, 1, quiet=True)
        del model
        runtime = OwnRuntime("onnxruntime in process", alone)
        serve_beside(report, "onnx", Path(folder) / MODEL, OUTPUT, columns, runtime, shards=SHARDS)
    report.finish()


def own_runtime(model: bytes) -> Callable[[Columns], NDArray[np.float32]]:
    """Return the whole graph as onnxruntime runs it by itself, in one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda columns: session.run([OUTPUT], dict(columns))[0]


if __name__ == "__main__":
    main()
