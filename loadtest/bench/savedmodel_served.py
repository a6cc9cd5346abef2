"""A served SavedModel against TensorFlow, which runs it in a process of its own, one thread, without a server.

Needs an interpreter that has TensorFlow, named by `RINGPULL_TENSORFLOW`; without it the keys are null.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.savedmodel.model import import_savedmodel
from ringpull.loadtest.bench.beside_runtime import (
    CANDIDATES,
    IN_FLIGHT,
    REQUESTS,
    TURNS,
    Columns,
    OwnRuntime,
    serve_beside,
)
from ringpull.loadtest.bench.harness import Report
from ringpull.loadtest.process import unwound_by_sigterm
from ringpull.ps.spec import Float32Array

VARIABLE: Final = "RINGPULL_TENSORFLOW"
MODEL: Final = "savedmodel"
ROWS: Final = 20_000
RIVAL: Final = Path(__file__).parent / "baselines" / "tensorflow_saved.py"
KEYS: Final = tuple(f"{MODEL}_{what}" for what in ("vs_inprocess", "requests_per_s", "largest_difference"))


@unwound_by_sigterm()
def main() -> None:
    report = Report(f"SavedModel, a NeuralCF, {CANDIDATES} rows a request, {IN_FLIGHT} in flight")
    if VARIABLE not in os.environ:
        report.absent("SavedModel", f"{VARIABLE}=PYTHON names no interpreter with TensorFlow", *KEYS)
    else:
        measure(report, os.environ[VARIABLE])
    report.finish()


def measure(report: Report, python: str) -> None:
    """Serve what TensorFlow made, beside TensorFlow."""
    random = np.random.default_rng(0)
    ids = {name: random.integers(0, ROWS, (REQUESTS, CANDIDATES)).astype(np.int32) for name in ("user", "item")}
    requests: list[Columns] = [{name: each[number] for name, each in ids.items()} for number in range(REQUESTS)]
    with tempfile.TemporaryDirectory(prefix="ringpull-bench-") as name, tensorflow(python, Path(name), ids) as rival:
        report_of = import_savedmodel(Path(name) / "saved", Path(name) / MODEL, 1, python=python, quiet=True)
        scores: list[Float32Array] = list(np.load(Path(name) / "scores.npy", allow_pickle=False))
        told = {id(each): found for each, found in zip(requests, scores, strict=True)}

        def requests_per_s() -> float:
            return float(said(rival, f"{TURNS}\n"))

        runtime = OwnRuntime("TensorFlow in process", lambda columns: told[id(columns)], requests_per_s)
        output = report_of.manifest.outputs[0].name
        serve_beside(report, MODEL, Path(name) / MODEL, output, requests, runtime, shards=1)


@contextmanager
def tensorflow(python: str, folder: Path, ids: dict[str, NDArray[np.int32]]) -> Iterator[subprocess.Popen[str]]:
    """A process that has made the SavedModel and written its scores, and measures when it is told to."""
    arrays: dict[str, Any] = {**ids}
    np.savez(folder / "requests.npz", **arrays)
    command = [python, str(RIVAL), str(folder), str(folder / "requests.npz"), str(folder / "scores.npy")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8") as process:
        try:
            said(process, "")
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str], line: str) -> str:
    """Return the line by which a process answers one."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"{RIVAL.name} ended: {process.wait()}")
    return answer


if __name__ == "__main__":
    main()
