"""All models of the zoo behind one head: requests, cut anyhow into context and candidates, equal the torch module."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ringpull import export_model
from ringpull.inference.client.client import Client
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Cross, Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from tests.inference.zoo import ZOO, build
from tests.integration.local import local_cluster
from tests.integration.ranker import repeated
from tests.reference import assert_close

pytestmark = [pytest.mark.net, pytest.mark.medium]

IDS = 9
"""Every table of the zoo has at least so many rows."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    models = tmp_path_factory.mktemp("zoo")
    for name, entry in ZOO.items():
        export_model(build(name).eval(), entry.schema, models / name, 1, quiet=True)
    with local_cluster([models / name / "1" for name in ZOO], shards=3) as cluster, cluster.client() as client:
        yield client


def random_column(rng: np.random.Generator, feature: Feature, rows: int) -> Column:
    if isinstance(feature, Dense):
        return rng.normal(size=(rows, feature.width)).astype(np.float32)
    assert not isinstance(feature, Cross)
    if isinstance(feature, Sparse) and not feature.many:
        return raw_ids(rng, feature, rows)
    lengths = rng.integers(0, 9, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = raw_ids(rng, feature, int(offsets[-1]))
    weighted = isinstance(feature, Sparse) and feature.weighted
    return Ragged(values, offsets, rng.normal(size=len(values)) if weighted else None)


def raw_ids(rng: np.random.Generator, feature: Sparse | IdSequence, count: int) -> NDArray[np.generic]:
    if feature.dtype == "string":
        return np.array([f"id {each}" for each in rng.integers(0, 10_000, count)], object)
    if feature.dtype == "float32":
        return rng.uniform(0, 90, count).astype(np.float32)
    return rng.integers(0, IDS, count)


def offline(module: nn.Module, schema: Schema, columns: Mapping[str, Column], rows: int) -> list[NDArray[np.float32]]:
    """The module's own outputs, in their order."""
    names = tuple(inspect.signature(module.forward).parameters)
    arguments = schema.arguments(schema.prepare(columns, rows), names)
    with torch.no_grad():
        outputs = module(**{name: torch.from_numpy(np.array(values)) for name, values in arguments.items()})
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return [each.numpy() for each in (outputs if isinstance(outputs, list | tuple) else [outputs])]


@pytest.mark.parametrize("name", ZOO)
def test_served_equals_the_module(client: Client, name: str):
    schema, module = ZOO[name].schema, build(name).eval()
    outputs = [output.name for output in client.model(name).outputs]
    rng = np.random.default_rng(5)
    features = {feature.name: feature for feature in schema.features}
    for rows in (1, 2, 3, 8, 40):
        in_context = set(rng.choice(list(features), rng.integers(0, len(features)), replace=False))
        context = {each: random_column(rng, features[each], 1) for each in in_context}
        candidates = {each: random_column(rng, features[each], rows) for each in features if each not in in_context}
        expected = offline(module, schema, {**candidates, **repeated(context, rows)}, rows)
        prediction = client.predict(name, candidates, context)
        assert list(prediction.outputs) == sorted(outputs)
        for output, values in zip(outputs, expected, strict=True):
            assert_close(prediction.outputs[output], values)
