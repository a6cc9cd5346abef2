"""Clicks by boosted trees: LightGBM on Criteo's numbers and categories, served as it predicts.

    python -m examples.boosted_clicks models

writes `models/clicks.txt`, LightGBM's own file, and `models/boosted_clicks/1`, what the import makes of it. In the
shell the second step is

    ringpull import lightgbm models/clicks.txt models/boosted_clicks

It learns from Criteo's clicks where RINGPULL_DATA names a folder with `criteo_kaggle_tiny`, else from rows that it
makes. A number that is missing is left out of a request, and goes the way that the trees send it.
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from ringpull import export_model
from ringpull.inference.errors import RingpullError

FILE: Final = "criteo_kaggle_tiny/train.tiny.csv"
NUMBERS: Final = tuple(f"I{number}" for number in range(1, 14))


def read_rows() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return numbers (rows, 13), NaN where one is missing, and whether each row was clicked (rows,)."""
    file = Path(os.environ.get("RINGPULL_DATA", "")) / FILE
    if not file.is_file():
        random = np.random.default_rng(1)
        numbers = random.lognormal(size=(2_000, len(NUMBERS))).astype(np.float32).round(2)
        numbers[random.random(numbers.shape) < 0.2] = np.nan
        return numbers, (np.nan_to_num(numbers[:, 0]) > np.nan_to_num(numbers[:, 1])).astype(np.int64)
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    values = [[float(row[name]) if row[name] else np.nan for name in NUMBERS] for row in rows]
    return np.array(values, np.float32), np.array([int(row["Label"]) for row in rows])


def train(numbers: NDArray[np.float32], clicked: NDArray[np.int64]) -> Any:
    """Return a trained booster, whose columns are called as Criteo's."""
    data = lightgbm.Dataset(numbers, clicked, feature_name=list(NUMBERS))
    return lightgbm.train({"objective": "binary", "num_leaves": 15, "verbosity": -1, "seed": 1}, data, 50)


def write(folder: Path) -> Path:
    """Write the booster and what is imported of it; return the version's folder.

    Raises:
        RingpullError: The version is there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    booster = train(*read_rows())
    booster.save_model(folder / "clicks.txt")
    return export_model(booster, None, folder / "boosted_clicks", 1).path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.boosted_clicks FOLDER")
    try:
        print(f"serve it with: ringpull serve {write(Path(sys.argv[1])).parent}")
    except RingpullError as exc:
        sys.exit(f"boosted_clicks: {exc}")
