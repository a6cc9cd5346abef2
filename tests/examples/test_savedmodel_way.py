"""The way in of a SavedModel: what the example imports and asks is what TensorFlow itself answers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from examples import onnx_ranker, saved_ncf
from ringpull import Schema, Sparse
from ringpull.inference.importers.onnx.model import import_onnx
from tests.inference.importers.savedmodel.imported import serving
from tests.inference.importers.savedmodel.interpreter import tensorflow_or_skip

pytestmark = [pytest.mark.medium, pytest.mark.net]


async def test_pairs_are_asked_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = onnx_ranker.make_graph(30, 20)
    schema = Schema([Sparse("userId"), Sparse("movieId")])
    arguments = {"user_id": "userId", "movie_id": "movieId"}
    import_onnx(graph, schema, tmp_path / "neuralcf", 1, arguments=arguments, quiet=True, check_rows=1)
    generator = np.random.default_rng(2)
    pairs = {"movieId": generator.integers(20, size=7).astype(np.int32), "userId": np.arange(7, dtype=np.int32)}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {"user_id": pairs["userId"].astype(np.int64), "movie_id": pairs["movieId"].astype(np.int64)}
    (expected,) = session.run(None, given)
    monkeypatch.setattr(saved_ncf, "PAIRS_A_REQUEST", 3)
    async with serving(tmp_path / "neuralcf" / "1") as url:
        scores = await asyncio.to_thread(saved_ncf.ask, url, pairs)
    np.testing.assert_allclose(scores, np.asarray(expected)[:, 0], rtol=1e-6)


def test_auc_counts_pairs_in_the_right_order() -> None:
    scores, liked = np.array([0.1, 0.4, 0.4, 0.9, 0.2]), np.array([False, True, False, True, False])
    wins = [(a > b) + 0.5 * (a == b) for a in scores[liked] for b in scores[~liked]]
    assert saved_ncf.auc(scores, liked) == pytest.approx(np.mean(wins))


@pytest.mark.skipif(
    not (Path(os.environ.get("RINGPULL_DATA") or "none") / saved_ncf.MODEL).is_dir(),
    reason="RINGPULL_DATA names no folder with sparrowrecsys",
)
async def test_neuralcf_of_sparrowrecsys_ranks_as_it_did(tmp_path: Path) -> None:
    folder = saved_ncf.write(tmp_path, tensorflow_or_skip())
    async with serving(folder) as url:
        difference, area = await asyncio.to_thread(saved_ncf.compare, tmp_path, url)
    assert difference <= 1e-6
    assert area == pytest.approx(0.7514, abs=5e-5)
