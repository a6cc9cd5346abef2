"""The promise of the README, on the whole held-out set of the example: served scores are the offline model's own.

On MovieLens-100K when `RINGPULL_DATA` names it, else on generated ratings; any number of shards, any number of copies.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from examples.movielens import generated
from examples.movielens.demo import MODEL, USER_FEATURES
from examples.movielens.features import Examples, make_examples
from examples.movielens.model import OUTPUT, make_schema, raw_keys
from examples.movielens.train import auc, score, train
from ringpull import Client, export_model
from ringpull.ps.spec import ALL, Replicas
from tests.integration.local import local_cluster

pytestmark = [pytest.mark.net, pytest.mark.medium]

REQUEST_ROWS = 4_096
TOLERANCE = 1e-5
LEARNABLE_AUC = 0.75


class Acceptance(NamedTuple):
    """A trained model, where it was exported to, and what it says of the held-out set."""

    folder: Path
    held_out: Examples
    offline: NDArray[np.float32]


@pytest.fixture(scope="module")
def acceptance(tmp_path_factory: pytest.TempPathFactory) -> Acceptance:
    ratings = generated.read_or_generate()
    training, held_out = make_examples(ratings)
    schema = make_schema(ratings)
    model = train(schema, training)
    folder = tmp_path_factory.mktemp("models") / MODEL
    export_model(model, schema, folder, version=1, keys=raw_keys(schema), quiet=True)
    return Acceptance(folder / "1", held_out, score(model, schema, held_out))


def test_the_offline_model_has_learnt(acceptance: Acceptance):
    assert auc(acceptance.held_out.labels, acceptance.offline) >= LEARNABLE_AUC


# Every number of shards and of copies, the fewest and the most of both.
@pytest.mark.parametrize(("shards", "replicas"), [(1, 1), (2, 2), (3, ALL), (5, 1), (8, 2), (8, ALL)])
def test_served_scores_and_auc_are_the_offline_models(acceptance: Acceptance, shards: int, replicas: Replicas):
    """Every held-out rating: to 1e-5 each, and the same AUC to four digits."""
    with (
        local_cluster([acceptance.folder], shards=shards, replicas=replicas) as cluster,
        cluster.client() as client,
    ):
        served = scores_of(client, acceptance.held_out)
    assert np.abs(served.astype(np.float64) - acceptance.offline).max() <= TOLERANCE
    labels = acceptance.held_out.labels
    assert f"{auc(labels, served):.4f}" == f"{auc(labels, acceptance.offline):.4f}"


def test_one_user_as_context_scores_like_row_by_row(acceptance: Acceptance):
    """A user's columns sent once, items as candidates: equal to the same user written out in every row."""
    examples = acceptance.held_out
    with local_cluster([acceptance.folder], shards=3) as cluster, cluster.client() as client:
        for user in range(0, len(examples), len(examples) // 20):
            items = examples.take(np.arange(user, min(user + 37, len(examples))))
            written_out = examples.take(np.full(len(items), user))
            context = {name: examples.take(np.array([user])).columns[name] for name in USER_FEATURES}
            candidates = {name: column for name, column in items.columns.items() if name not in USER_FEATURES}
            rows = candidates | {name: written_out.columns[name] for name in USER_FEATURES}
            once = client.predict(MODEL, candidates, context).outputs[OUTPUT]
            np.testing.assert_allclose(once, client.predict(MODEL, rows).outputs[OUTPUT], rtol=0, atol=TOLERANCE)


def scores_of(client: Client, examples: Examples) -> NDArray[np.float32]:
    parts = [
        examples.take(np.arange(begin, min(begin + REQUEST_ROWS, len(examples))))
        for begin in range(0, len(examples), REQUEST_ROWS)
    ]
    return np.concatenate([client.predict(MODEL, part.columns).outputs[OUTPUT] for part in parts])
