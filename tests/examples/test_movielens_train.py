"""The example's model learns something, its figure of merit is right, and its sample request is one."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.movielens import demo, features, generated
from examples.movielens.features import Examples
from examples.movielens.model import KEYED_BY_RAW_ID, make_schema, vocabulary
from examples.movielens.train import auc, batches_of, score, train
from ringpull import Schema
from ringpull.inference.wire.request_json import call_from_json


@pytest.fixture(scope="module")
def learning() -> tuple[Schema, Examples, Examples]:
    ratings = generated.generate(users=2_000, active=500, items=120, seed=1)
    return make_schema(ratings), *features.make_examples(ratings)


def test_auc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random(60) < 0.4).astype(np.float32)
    scores = rng.integers(0, 12, 60).astype(np.float32)  # many ties
    ones, zeros = scores[labels == 1], scores[labels == 0]
    pairs = [1.0 if one > zero else 0.5 if one == zero else 0.0 for one, zero in itertools.product(ones, zeros)]
    assert auc(labels, scores) == pytest.approx(np.mean(pairs))


def test_auc_of_one_label_is_not_a_number() -> None:
    assert np.isnan(auc(np.ones(3, np.float32), np.arange(3, dtype=np.float32)))


@pytest.mark.medium
def test_training_learns_and_repeats_itself(learning: tuple[Schema, Examples, Examples]) -> None:
    schema, training, held_out = learning
    losses: list[float] = []
    scores = score(train(schema, training, on_batch=losses.append), schema, held_out)
    assert len(losses) == batches_of(len(training))
    assert scores.shape == held_out.labels.shape
    assert auc(held_out.labels, scores) > 0.6
    np.testing.assert_array_equal(scores, score(train(schema, training), schema, held_out))


@pytest.mark.medium
def test_an_id_never_seen_looks_up_zeros(learning: tuple[Schema, Examples, Examples]) -> None:
    schema, training, _ = learning
    model = train(schema, training.take(np.arange(1)))
    for table, feature in KEYED_BY_RAW_ID.items():
        weight = model.get_parameter(f"{table}.weight")
        assert len(weight) == vocabulary(schema, feature).size
        assert torch.count_nonzero(weight[0]) == 0


def test_the_sample_request_is_one_users(
    learning: tuple[Schema, Examples, Examples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, _, held_out = learning
    monkeypatch.setattr(demo, "FOLDER", tmp_path)
    demo.write_request(held_out)
    call = call_from_json((tmp_path / "request.json").read_text())
    request = schema.prepare_requests(call.features, call.context, [call.rows])
    assert call.rows == 10
    assert not request.context.filled
    assert set(request.candidates.features) == {feature.name for feature in schema.features} - set(demo.USER_FEATURES)
