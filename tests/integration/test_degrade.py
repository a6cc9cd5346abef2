"""A head under a pressure made up: over real shards, degraded answers equal the torch module fed with what was left."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from ringpull import (
    CapCandidates,
    CutBags,
    Ragged,
    Schema,
    Sparse,
    TableOptions,
    UseDefault,
    UseVersion,
    export_model,
)
from ringpull.deploy.cli import app
from ringpull.inference.client.client import Client
from ringpull.inference.head.admission import Admission
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.prediction import Filled
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.columns import Column
from tests.inference.tiny import SCHEMA as TINY_SCHEMA
from tests.inference.tiny import Tiny
from tests.integration.local import local_cluster
from tests.integration.ranker import SCHEMA, USERS, Ranker, offline, random_columns
from tests.reference import assert_close

pytestmark = [pytest.mark.net, pytest.mark.medium]

CONFIG = HeadConfig(default_timeout_s=60, degrade_up_s=0.001, degrade_down_s=0.001)
STRANGER = -99
"""A user who is in no table."""


class Lighter(nn.Module):
    """What `Tiny` becomes without prices."""

    def __init__(self) -> None:
        super().__init__()
        self.item = Tiny().item

    def forward(self, item: Tensor) -> dict[str, Tensor]:
        return {"score": self.item(item).sum(1), "twice": 2 * self.item(item).sum(1)}


class Pressure:
    """What a head's admission says, whatever is going on."""

    def __init__(self) -> None:
        self.value = 0.0


@pytest.fixture
def pressure(monkeypatch: pytest.MonkeyPatch) -> Pressure:
    pressure = Pressure()
    monkeypatch.setattr(Admission, "pressure", lambda self: pressure.value)
    return pressure


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, list[Path]]:
    models = tmp_path_factory.mktemp("models")
    ranker = Ranker().eval()
    export_model(
        ranker,
        SCHEMA,
        models / "ranker",
        1,
        keys={"user": USERS},
        tables={"liked": TableOptions(default="mean")},
        degrade=[CutBags(2), UseDefault("user", "liked"), CapCandidates(7)],
        quiet=True,
    )
    export_model(Lighter().eval(), Schema([Sparse("item")]), models / "tiny", 1, quiet=True)
    export_model(Tiny().eval(), TINY_SCHEMA, models / "tiny", 2, degrade=[UseVersion(1)], quiet=True)
    return ranker, [models / "ranker" / "1", models / "tiny" / "1", models / "tiny" / "2"]


@pytest.fixture
def client(versions: tuple[Ranker, list[Path]], pressure: Pressure) -> Iterator[Client]:
    with local_cluster(versions[1], shards=2, config=CONFIG) as cluster, cluster.client() as client:
        yield client


def status_when(client: Client, levels: Mapping[str, int]) -> pb.ClusterStatus:
    """Wait until the models are at these levels; return that status."""
    while True:
        status = client.status()
        if {each.model: each.level for each in status.degrade} == levels:
            return status


def last_two(column: Column) -> Ragged:
    assert isinstance(column, Ragged)
    rows = list(zip(column.offsets[:-1], column.offsets[1:], strict=True))
    kept = [np.arange(max(begin, end - 2), end) for begin, end in rows]
    weights = None if column.weights is None else column.weights[np.concatenate(kept)]
    return Ragged(column.values[np.concatenate(kept)], np.cumsum([0, *map(len, kept)]), weights)


def test_degraded_answers_equal_the_module_fed_with_what_is_left(
    client: Client, versions: tuple[Ranker, list[Path]], pressure: Pressure
) -> None:
    module, _ = versions
    columns = random_columns(np.random.default_rng(3), 20)
    whole = client.predict("ranker", columns)
    assert whole.degraded == ()
    assert_close(whole.outputs["score"], offline(module, columns, 20)["score"])

    pressure.value = 1.0
    status_when(client, {"ranker": 3, "tiny": 1})
    degraded = client.predict("ranker", columns)

    unliked = copy.deepcopy(module)
    with torch.no_grad():
        unliked.liked.weight[:] = module.liked.weight.mean(dim=0)
    left = {name: last_two(each) if isinstance(each, Ragged) else each for name, each in columns.items()}
    expected = offline(unliked, {**left, "user": np.full(20, STRANGER)}, 20)
    for name, values in degraded.outputs.items():
        assert_close(values[:7], expected[name][:7])
        assert values.shape == whole.outputs[name].shape
        assert np.isnan(values[7:]).all()
    phrases = ("cut bags to 2", "default vectors for user, liked", "scored the first 7 candidates")
    assert degraded.degraded == phrases
    liked = left["liked"]
    assert isinstance(liked, Ragged)
    assert [each for each in degraded.filled if each.reason == "degraded"] == [
        Filled("liked", "degraded", int(liked.offsets[7])),
        Filled("user", "degraded", 7),
    ]

    pressure.value = 0.0
    status = status_when(client, {"ranker": 0, "tiny": 0})
    again = client.predict("ranker", columns)
    assert again.degraded == ()
    assert_close(again.outputs["score"], whole.outputs["score"])
    [ranker] = [each for each in status.degrade if each.model == "ranker"]
    assert [(step.step, step.replies) for step in ranker.steps] == [(phrase, 1) for phrase in phrases]


def test_a_lighter_version_answers_who_named_none(client: Client, pressure: Pressure) -> None:
    columns = {"item": [1, 2, 3], "price": [1.0, 2.0, 3.0]}
    item = Tiny().item.weight.detach().numpy()[1:4].sum(axis=1)
    assert client.predict("tiny", columns).version == 2
    pressure.value = 1.0
    status_when(client, {"ranker": 3, "tiny": 1})
    lighter, named = client.predict("tiny", columns), client.predict("tiny", columns, version=2)
    assert (lighter.version, lighter.degraded) == (1, ("answered by version 1",))
    assert list(lighter.outputs) == ["score"]
    assert_close(lighter.outputs["score"], item)
    assert (named.version, named.degraded) == (2, ())
    ran = CliRunner().invoke(app, ["predict", "tiny", "--target", client.target, "--features", "item=1,price=2"])
    assert "tiny version 1" in ran.stdout
    assert "degraded under load: answered by version 1" in ran.stderr
    assert_close(named.outputs["score"], item + columns["price"])
