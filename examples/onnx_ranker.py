"""Ranker in an ONNX file, as any framework writes one, served with its two embeddings as sharded tables.

    python -m examples.onnx_ranker models

writes `models/ranker.onnx`, the graph with everything inside, and `models/onnx_ranker/1`, what the import makes of it:
tables `users` and `movies`, and the rest, which onnxruntime runs. In the shell the second step is

    ringpull import onnx models/ranker.onnx models/onnx_ranker

The graph is a small one with random weights, for as many users and movies as MovieLens 1M has where RINGPULL_DATA names
its folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ringpull import Schema, Sparse
from ringpull.inference.errors import RingpullError
from ringpull.inference.importers.onnx.model import import_onnx

FOLDER: Final = "ml1m_pairs"
DIM: Final = 16
HIDDEN: Final = 32


def sizes() -> tuple[int, int]:
    """Return the largest user id and the largest movie id, plus one each."""
    folder = Path(os.environ.get("RINGPULL_DATA", "")) / FOLDER
    if not folder.is_dir():
        return 600, 400
    ids = [(folder / file).read_text(encoding="latin-1").splitlines() for file in ("users.dat", "movies.dat")]
    users, movies = (max(int(line.split("::")[0]) for line in lines) + 1 for lines in ids)
    return users, movies


def make_graph(users: int, movies: int) -> onnx.ModelProto:
    """Return a ranker: two embeddings side by side, one hidden layer, a sigmoid."""
    generator = np.random.default_rng(5)

    def weight(name: str, *shape: int) -> Any:
        values: NDArray[np.float32] = (generator.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        return numpy_helper.from_array(values, name)

    nodes = [
        helper.make_node("Gather", ["users", "user_id"], ["user"]),
        helper.make_node("Gather", ["movies", "movie_id"], ["movie"]),
        helper.make_node("Concat", ["user", "movie"], ["both"], axis=1),
        helper.make_node("Gemm", ["both", "w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    weights = [weight("users", users, DIM), weight("movies", movies, DIM)]
    weights += [weight("w1", 2 * DIM, HIDDEN), weight("b1", HIDDEN), weight("w2", HIDDEN, 1), weight("b2", 1)]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows"]) for name in ("user_id", "movie_id")]
    outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])]
    graph = helper.make_graph(nodes, "ranker", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write(folder: Path) -> Path:
    """Write the graph and what is imported of it; return the version's folder.

    Raises:
        RingpullError: The version is there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(make_graph(*sizes()), folder / "ranker.onnx")
    schema = Schema([Sparse("user_id"), Sparse("movie_id")])
    return import_onnx(folder / "ranker.onnx", schema, folder / "onnx_ranker", 1).path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.onnx_ranker FOLDER")
    try:
        print(f"serve it with: ringpull serve {write(Path(sys.argv[1])).parent}")
    except RingpullError as exc:
        sys.exit(f"onnx_ranker: {exc}")
