"""A served ONNX model against its own runtime: a DLRM of 26 tables, cut and sharded, and whole in one onnxruntime.

The runtime in process has the graph uncut and one thread, as the head has for its dense program, and is given the
columns as they are: no wire, no client. Both score the same requests, in turns; what they give is compared, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ringpull.inference.client.client import Client
from ringpull.inference.importers.onnx.model import import_onnx
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.loadtest.bench.harness import QUICK, Report, interleave, rate
from ringpull.loadtest.bench.load import Run, Server
from ringpull.loadtest.bench.onnx_models import OUTPUT, make_columns, make_model, schema
from ringpull.loadtest.deployment import deployed

MODEL = "onnx_dlrm"
ROWS = 5_000 if QUICK else 50_000
CANDIDATES = 128
REQUESTS = 32
SHARDS = 2
IN_FLIGHT = 8
SECONDS = 2.0 if QUICK else 5.0
ROUNDS = 2 if QUICK else 5
TURNS = 200 if QUICK else 1000


def main() -> None:
    columns = make_columns(REQUESTS, ROWS, CANDIDATES)
    payloads = [encode_request(as_call(MODEL, each, {})).SerializeToString() for each in columns]
    last: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="ringpull-bench-") as folder:
        model = make_model(ROWS)
        alone = own_runtime(model.SerializeToString())
        import_onnx(model, schema(), Path(folder) / MODEL, 1, quiet=True)
        del model
        with deployed(Path(folder) / MODEL, SHARDS) as deployment:
            server = Server(deployment.target, processes=deployment.running())

            def served() -> float:
                last.append(server.closed_loop(payloads, in_flight=IN_FLIGHT, seconds=SECONDS))
                return last[-1].calls_per_s

            apart = largest_difference(deployment.target, columns, alone)
            in_process = rate(lambda turn: alone(columns[turn % REQUESTS]), TURNS, 1)
            samples = interleave({"ours": served, "onnxruntime in process": in_process}, rounds=ROUNDS)
    report = Report(f"ONNX DLRM of 26 tables x {ROWS:,} rows, {CANDIDATES} rows a request, {IN_FLIGHT} in flight")
    report.compare("requests/s", samples, ("ours", "onnxruntime in process"), key="onnx_vs_inprocess")
    report.row("p99, ms", f"{last[-1].percentile_ms(99):.1f}")
    report.row("largest difference", f"{apart:.1e}", "of scores from 0 to 1")
    report.key("onnx_requests_per_s", samples.median("ours"))
    report.key("onnx_largest_difference", apart)
    report.finish()


def own_runtime(model: bytes) -> Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]]:
    """Return the whole graph as onnxruntime runs it by itself, in one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda columns: session.run([OUTPUT], columns)[0]


def largest_difference(
    target: str,
    columns: list[dict[str, NDArray[Any]]],
    alone: Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]],
) -> float:
    """Return how far a served score is from that of the graph itself, at most."""
    with Client(target, timeout_s=60) as client:
        scores = [client.predict(MODEL, each).outputs[OUTPUT] for each in columns]
    return max(float(np.abs(found - alone(each)).max()) for found, each in zip(scores, columns, strict=True))


if __name__ == "__main__":
    main()
