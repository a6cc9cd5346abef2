"""Example of PMML: its document is imported, its weights are a table, and it scores as plain arithmetic does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples import pmml_interest
from ringpull.inference.model.manifest import Manifest
from tests.inference.export.versions import Exported
from tests.reference import assert_close

pytestmark = pytest.mark.medium


def test_interest_is_the_weight_of_the_book_and_of_the_readers_activity(tmp_path: Path) -> None:
    folder = pmml_interest.write(tmp_path)
    version = Exported(folder)
    names, books, activity = pmml_interest.read_pairs()
    weights, slope, intercept = pmml_interest.train(books, activity, len(names))
    assert {name: len(table.rows) for name, table in version.tables.items()} == {"book_coefficients": len(names) + 2}
    assert len(names) > 10_000
    assert version.tables["book_coefficients"].dim == 1
    assert {each.name: each.classes for each in Manifest.load(folder).outputs}["probabilities"] == ("yes", "no")
    some = np.random.default_rng(3).permutation(len(names))[:500]
    columns = {"book": np.array([*(names[each] for each in some), "a stranger", ""]), "activity": np.arange(502.0)}
    found = version.score(columns, 502)
    margins = np.append(weights[some], [0.0, 0.0]) + slope * np.log1p(columns["activity"]) + intercept
    expected = 1 / (1 + np.exp(-margins))
    assert expected.std() > 0.05
    assert_close(found["probabilities"][:, 0], expected.astype(np.float32))
    assert_close(found["label"][:, 0], (expected < 0.5).astype(np.float32))
