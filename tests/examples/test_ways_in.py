"""Examples of the ways in: what each writes or answers is what its source says, on real data where there is some."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightgbm
import numpy as np
import onnxruntime
import pytest

from examples import boosted_clicks, nearest_movies, onnx_ranker, ready_lists, two_tower_tables
from ringpull import Client
from ringpull.inference.importers.tables.import_tables import import_tables
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.spec import Float32Array
from tests.inference.export.versions import Exported
from tests.inference.importers.tables.reading import written
from tests.inference.served import Served
from tests.reference import ReferenceTable, assert_close, key_of_string

pytestmark = pytest.mark.medium


def test_an_onnx_ranker_scores_as_its_file(tmp_path: Path) -> None:
    version = Exported(onnx_ranker.write(tmp_path))
    users, movies = onnx_ranker.sizes()
    assert {name: len(table.rows) for name, table in version.tables.items()} == {"users": users, "movies": movies}
    generator = np.random.default_rng(1)
    columns = {"user_id": generator.integers(users, size=500), "movie_id": generator.integers(movies, size=500)}
    session = onnxruntime.InferenceSession(str(tmp_path / "ranker.onnx"), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, columns)
    (scores,) = version.score(columns, 500).values()
    assert_close(scores.reshape(-1), np.asarray(expected).reshape(-1))


def test_boosted_clicks_are_what_the_trees_predict(tmp_path: Path) -> None:
    version = Exported(boosted_clicks.write(tmp_path))
    numbers, _ = boosted_clicks.read_rows()
    booster = lightgbm.Booster(model_file=str(tmp_path / "clicks.txt"))
    assert np.isnan(numbers).any()
    (found,) = version.score(
        {name: numbers[:, place] for place, name in enumerate(boosted_clicks.NUMBERS)}, len(numbers)
    ).values()
    assert_close(found.reshape(-1), booster.predict(numbers).astype(np.float32))


def read_lines(file: Path) -> dict[int, Float32Array]:
    lines = [line.split(":") for line in file.read_text(encoding="utf-8").splitlines()]
    return {int(key): np.array(numbers.split(), np.float32) for key, numbers in lines}


@pytest.mark.net
async def test_movies_like_a_movie_and_for_a_user_are_those_of_sorting(tmp_path: Path) -> None:
    files = two_tower_tables.vectors(tmp_path / "made")
    folder = import_tables(dict(files), tmp_path / "vectors", 1, quiet=True).path
    read = {table: read_lines(file) for table, file in files.items()}
    keys = {table: np.array([*rows], np.int64) for table, rows in read.items()}
    tables = {
        table: ReferenceTable.from_arrays(
            keys[table].view(np.uint64), np.array([*rows.values()]), np.zeros(two_tower_tables.DIM, np.float32)
        )
        for table, rows in read.items()
    }
    movie, user = int(keys["movie"][3]), int(keys["user"][5])
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor, loaded=LoadedVersion.load(folder), tables=tables)
        target = f"127.0.0.1:{await served.server.start()}"
        try:
            with Client(target) as client:
                found = await asyncio.to_thread(nearest_movies.nearest, client, movie, user, 5)
        finally:
            await served.server.stop(grace_s=0)
            await served.version.batcher.close(timeout_s=60)
    vectors = np.array([*read["movie"].values()], np.float64)
    others = keys["movie"] != movie
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for ranked, scores in zip(found, (unit @ unit[3], vectors @ read["user"][user].astype(np.float64)), strict=True):
        best = np.argsort(-scores[others])[:5]
        assert [key for key, _ in ranked] == keys["movie"][others][best].tolist()
        assert_close(np.array([score for _, score in ranked], np.float32), scores[others][best].astype(np.float32))


def test_ready_lists_are_served_as_they_were_computed(tmp_path: Path) -> None:
    watched = ready_lists.pairs()
    lists = ready_lists.best_lists(watched)
    rows = written(ready_lists.write(tmp_path, lists) / "tables" / "best")
    assert len(rows) == len({user for user, _ in watched})
    counts = Counter(movie for _, movie in watched)
    for user in list(lists)[:5]:
        seen = {movie for each, movie in watched if each == user}
        found = json.loads(rows[key_of_string(user)])
        assert not seen & set(found)
        best = sorted((counts[movie] for movie in counts if movie not in seen), reverse=True)[: ready_lists.LENGTH]
        assert [counts[movie] for movie in found] == best
