"""Served LightGBM trees against the booster's own `predict`: a click model of 13 numbers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from ringpull.inference.importers.trees.model import import_estimator
from ringpull.loadtest.bench.beside_runtime import CANDIDATES, IN_FLIGHT, REQUESTS, Columns, OwnRuntime, serve_beside
from ringpull.loadtest.bench.harness import Report
from ringpull.ps.spec import Float32Array

MODEL: Final = "trees"
NAMES: Final = tuple(f"I{number}" for number in range(1, 14))
TREES: Final = 200
LEAVES: Final = 31
ROWS: Final = 20_000


def main() -> None:
    random = np.random.default_rng(0)
    booster = train(random)
    requests: list[Columns] = [dict(zip(NAMES, numbers(random, CANDIDATES).T, strict=True)) for _ in range(REQUESTS)]
    runtime = OwnRuntime(
        "LightGBM in process",
        lambda columns: np.asarray(booster.predict(np.stack([columns[name] for name in NAMES], axis=1), num_threads=1)),
    )
    report = Report(f"LightGBM, {TREES} trees of {LEAVES} leaves, {CANDIDATES} rows a request, {IN_FLIGHT} in flight")
    with tempfile.TemporaryDirectory(prefix="ringpull-bench-") as folder:
        import_estimator(booster, Path(folder) / MODEL, 1, quiet=True)
        serve_beside(report, "trees", Path(folder) / MODEL, "prediction", requests, runtime, shards=1)
    report.finish()


def numbers(random: np.random.Generator, rows: int) -> Float32Array:
    """Return columns like Criteo's, (rows, 13)."""
    return random.lognormal(size=(rows, len(NAMES))).astype(np.float32)


def train(random: np.random.Generator) -> Any:
    """Return a booster of clicks that depend on the numbers."""
    import lightgbm

    rows = numbers(random, ROWS)
    clicked = rows[:, 0] * random.lognormal(size=ROWS) > rows[:, 1] + rows[:, 2] * 0.5
    data = lightgbm.Dataset(rows, clicked.astype(np.int64), feature_name=list(NAMES))
    parameters = {"objective": "binary", "num_leaves": LEAVES, "verbosity": -1, "seed": 1, "num_threads": 2}
    return lightgbm.train(parameters, data, TREES)


if __name__ == "__main__":
    main()
