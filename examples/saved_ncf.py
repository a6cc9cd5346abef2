"""NeuralCF of SparrowRecSys, saved by TensorFlow years ago, served as it is: clients of TensorFlow Serving stay.

    python -m examples.saved_ncf models tf/bin/python
    ringpull serve models/neuralcf
    python -m examples.saved_ncf models http://127.0.0.1:8501

The first command imports the SavedModel by an interpreter that has TensorFlow, and keeps TensorFlow's own scores of
22,440 pairs beside it; nothing later needs TensorFlow. The last one asks TensorFlow Serving's REST for the same pairs,
and says how far the two are from each other, and how well they tell watched from not (AUC). In the shell the import is

    ringpull import savedmodel DATA/sparrowrecsys/modeldata/neuralcf/001 models/neuralcf --python tf/bin/python

RINGPULL_DATA names the folder DATA that has SparrowRecSys' model and samples.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.errors import RingpullError
from ringpull.inference.importers.savedmodel.model import import_savedmodel
from ringpull.inference.importers.savedmodel.process import Converter

MODEL: Final = "sparrowrecsys/modeldata/neuralcf/001"
SAMPLES: Final = "sparrowrecsys/sampledata/testSamples.csv"
SCORES: Final = "neuralcf_tensorflow.npy"
FEATURES: Final = ("movieId", "userId")
PAIRS_A_REQUEST: Final = 500
Pairs = dict[str, NDArray[np.int32]]


def samples() -> tuple[Pairs, NDArray[np.bool_]]:
    """Return movies and users, and whether each user liked the movie."""
    with (Path(os.environ.get("RINGPULL_DATA", "")) / SAMPLES).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    pairs = {name: np.array([row[name] for row in rows], np.int32) for name in FEATURES}
    return pairs, np.array([row["label"] == "1" for row in rows])


def write(folder: Path, python: Path) -> Path:
    """Import the SavedModel, and write TensorFlow's own scores of all pairs; return the version's folder.

    Raises:
        RingpullError: The version is there already, or there is no TensorFlow.
    """
    source = Path(os.environ.get("RINGPULL_DATA", "")) / MODEL
    pairs, _ = samples()
    report = import_savedmodel(source, folder / "neuralcf", 1, python=python, check_columns=pairs)
    with Converter(python) as converter:
        converter.convert(source)
        np.save(folder / SCORES, converter.score(pairs)[0].reshape(-1))
    return report.path


def ask(url: str, pairs: Pairs) -> NDArray[np.float64]:
    """Return the scores of pairs, asked of TensorFlow Serving's REST at a URL."""
    rows = [dict(zip(pairs, each, strict=True)) for each in zip(*(ids.tolist() for ids in pairs.values()), strict=True)]
    scores: list[float] = []
    for begin in range(0, len(rows), PAIRS_A_REQUEST):
        body = json.dumps({"instances": rows[begin : begin + PAIRS_A_REQUEST]}).encode()
        with urllib.request.urlopen(f"{url}/v1/models/neuralcf:predict", body) as answer:
            scores += [score for (score,) in json.load(answer)["predictions"]]
    return np.array(scores)


def auc(scores: NDArray[np.float64], liked: NDArray[np.bool_]) -> float:
    """Return how often a pair that was liked scores above one that was not; half for each tie."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    positive = int(liked.sum())
    wins = ranks[liked].sum() - positive * (positive + 1) / 2
    return float(wins / (positive * (len(liked) - positive)))


def compare(folder: Path, url: str) -> tuple[float, float]:
    """Return the largest difference between the scores served and TensorFlow's, and the AUC of those served."""
    pairs, liked = samples()
    scores = ask(url, pairs)
    return float(np.abs(scores - np.load(folder / SCORES, allow_pickle=False)).max()), auc(scores, liked)


def main(folder: Path, source: str) -> None:
    """Import by an interpreter, or compare with what a URL serves."""
    if source.startswith("http"):
        difference, area = compare(folder, source.rstrip("/"))
        print(f"largest difference to TensorFlow: {difference:.1e}; AUC {area:.4f}")
    else:
        print(f"serve it with: ringpull serve {write(folder, Path(source)).parent}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m examples.saved_ncf FOLDER PYTHON|URL")
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except (RingpullError, OSError) as exc:
        sys.exit(f"saved_ncf: {exc}")
