"""Vectors trained elsewhere, imported and composed: the version scores pairs as numpy does on the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.two_tower_tables import serve_vectors, vectors
from tests.inference.export.versions import Exported
from tests.reference import assert_close

pytestmark = pytest.mark.medium


def test_scores_are_the_cosines_of_the_vectors_in_the_files(tmp_path: Path) -> None:
    files = vectors(tmp_path / "made")
    version = Exported(serve_vectors(files, tmp_path / "models"))
    read = {}
    for table, file in files.items():
        lines = [line.split(":") for line in file.read_text(encoding="utf-8").splitlines()]
        read[table] = {int(key): np.array(numbers.split(), np.float64) for key, numbers in lines}
    generator = np.random.default_rng(3)
    users, movies = (generator.choice(list(rows), 32) for rows in read.values())
    pairs = [(read["user"][user], read["movie"][movie]) for user, movie in zip(users, movies, strict=True)]
    expected = [user @ movie / np.linalg.norm(user) / np.linalg.norm(movie) for user, movie in pairs]
    (scores,) = version.score({"user_id": users, "item_id": movies}, 32).values()
    assert_close(scores, np.array(expected, np.float32))
